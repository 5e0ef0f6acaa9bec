"""The studio: a panel that continues a prompt, plays what comes, and keeps every take.

It works in JupyterLab, in the classic notebook and on Colab, with ipywidgets 7.7 and 8. A
widget runs no <script>: what happens in the browser, happens in event attributes of HTML.
"""

import html
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import ipywidgets

from tinyperceiver.engines.choice import precisions_of
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.midi import read_midi
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.prompts import encode_prompt
from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import NUM_EVENTS
from tinyperceiver.sound.encoding import wav_bytes
from tinyperceiver.sound.synthesis import SynthesizerNotFoundError, synthesizer
from tinyperceiver.studio.live_sound import LiveSound, base64_of, run_script
from tinyperceiver.studio.takes import Take, continuation, fitting, seconds_of

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["Studio", "studio"]

LONGEST = 4096  # tokens of a continuation
# JupyterLab keeps the arrow keys to itself, even in lists, unless what has the focus asks it
# not to. The event may come before the panel has its place in the page.
_OWN_KEYS = """
const ask = (times) => {
  const panel = this.closest('.tinyperceiver-studio');
  const ours = (event) => { event.target.dataset.lmSuppressShortcuts = 'true'; };
  if (panel) panel.addEventListener('focusin', ours);
  else if (times) setTimeout(ask, 100, times - 1);
};
ask(100);
"""


class Studio:
    """The panel; show it as the last value of a cell.

    Attributes:
        takes: every `Take` so far, in order; later cells can use them.
    """

    def __init__(self, model: PerceiverAR, prompts: Mapping[str, Any]) -> None:
        self.model = model
        self.takes: list[Take] = []
        self._prompts, self._tokens, self._players = dict(prompts), {}, {}
        self._thread, self._jobs = None, queue.SimpleQueue()
        self._stop, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self._make_widgets()
        self._arrange()
        self._connect()

    def _make_widgets(self) -> None:
        config, w = self.model.config, ipywidgets
        self.prompt = _labelled(w.Dropdown, "prompt", options=list(self._prompts))
        self.upload = w.FileUpload(
            accept=".mid,.midi", multiple=False, description="Upload MIDI"
        )
        self.upload.layout.width = "auto"
        prefix, latents = config.max_prefix_len, config.max_latents
        self.knobs = {
            "temperature": _slider("temperature", 1.0, 0.1, 2.0, 0.05),
            "top_p": _slider("top-p (1 is off)", 0.95, 0.05, 1.0, 0.05),
            "top_k": _slider("top-k (0 is off)", 0, 0, NUM_EVENTS),
            "min_p": _slider("min-p (0 is off)", 0.0, 0.0, 0.5, 0.01),
            "prefix_len": _slider("prefix, tokens", min(512, prefix), 0, prefix),
            "num_latents": _slider("latents, tokens", min(64, latents), 1, latents),
            "max_new_tokens": _slider("length, tokens", 256, 16, LONGEST, 16),
            "seed": _labelled(w.BoundedIntText, "seed", min=0, max=2**31 - 1),
            "grammar": _labelled(w.Checkbox, "grammar"),
            "precision": _labelled(
                w.Dropdown, "precision", options=list(precisions_of(self.model))
            ),
        }
        self._silence = ""  # why takes have no sound
        try:
            synthesizer()
        except SynthesizerNotFoundError as error:
            self._silence = f" Takes have no sound: {error}."
        self.aloud = _labelled(
            w.Checkbox,
            "play at once",
            value=not self._silence,
            disabled=bool(self._silence),
        )
        self.generate = w.Button(description="Generate", button_style="primary")
        self.stop = w.Button(description="Stop", disabled=True)
        self.bar = w.IntProgress(min=0, max=1, layout={"width": "12em"})
        self.facts, self.status, self.sound = w.HTML(), w.HTML(), w.HTML()
        self.list = _labelled(w.SelectMultiple, "takes", rows=5)
        self.list.layout.width, self.list.layout.max_width = "54em", "98%"
        self.players, self.file = w.HTML(), w.HTML()
        self.wav = w.Button(description="Download WAV")

    def _arrange(self) -> None:
        w = ipywidgets
        row = {"flex_flow": "row wrap", "align_items": "center"}
        self.box = w.VBox(
            [
                w.Box([self.prompt, self.upload], layout=row),
                self.facts,
                w.Box([*self.knobs.values(), self.aloud], layout=row),
                w.Box([self.generate, self.stop, self.bar], layout=row),
                self.status,
                self.list,
                self.players,
                w.Box([self.wav, self.file], layout=row),
                self.sound,
                w.HTML(run_script(_OWN_KEYS)),
            ]
        )
        self.box.add_class("tinyperceiver-studio")

    def _connect(self) -> None:
        describe = self._guarded(self._describe, self.facts)
        for knob in (self.prompt, self.knobs["prefix_len"], self.knobs["num_latents"]):
            knob.observe(describe, "value")
        self.upload.observe(self._guarded(self._take_upload), "value")
        self.list.observe(self._guarded(self._show), "value")
        self.generate.on_click(self._guarded(self._start))
        self.stop.on_click(lambda _: self._stop.set())
        self.wav.on_click(self._guarded(self._make_wav))
        if self._silence:
            self._say(self._silence)
        describe()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)

    @property
    def settings(self) -> dict[str, Any]:
        """The values of all sliders and boxes, by the names in `takes.LABELS`."""
        return {name: knob.value for name, knob in self.knobs.items()}

    def wait(self, timeout: float | None = None) -> None:
        """Wait, at most `timeout` seconds, until the take that is being written is done."""
        self._idle.wait(timeout)

    def _guarded(
        self, action: Callable[[], None], place: ipywidgets.HTML | None = None
    ) -> Callable:
        """A callback whose errors are shown in the panel: a traceback would be lost."""

        def act(_: object = None) -> None:
            try:
                action()
            except Exception as error:
                text = html.escape(str(error) or type(error).__name__)
                view = place or self.status
                view.value = f'<div role="alert"><b>Error:</b> {text}</div>'

        return act

    def _say(self, text: str) -> None:
        self.status.value = f'<div role="status">{html.escape(text)}</div>'

    def _tokens_of(self, name: str) -> list[int]:
        """The tokens of a prompt, made when it is first chosen."""
        if name not in self._tokens:
            prompt = self._prompts[name]
            if isinstance(prompt, (str, os.PathLike)):
                prompt = read_midi(prompt)
            self._tokens[name] = self._encode(name, prompt)
        return self._tokens[name]

    def _encode(self, name: str, prompt: "PrettyMIDI | Sequence[int]") -> list[int]:
        is_midi = hasattr(prompt, "instruments")
        vocab_size = self.model.config.vocab_size
        tokens = encode_prompt(prompt, vocab_size) if is_midi else prompt
        tokens = [int(token) for token in tokens]
        if not decode_midi(tokens).instruments[0].notes:
            raise ValueError(f"{name} has no notes to continue: choose another")
        return tokens

    def _describe(self) -> None:
        self.facts.value = ""
        tokens = self._tokens_of(self.prompt.value)
        settings = fitting(len(tokens), self.settings)
        prefix, latents = settings["prefix_len"], settings["num_latents"]
        seen = tokens[len(tokens) - prefix - latents :]
        text = (
            f"{len(tokens):,} tokens, {seconds_of(tokens):.1f} s. The model sees the last "
            f"{len(seen):,} ({seconds_of(seen):.1f} s): {prefix:,} as prefix and "
            f"{latents:,} as latents."
        )
        if settings != self.settings:
            text += " The prompt has no more."
        self.facts.value = f'<div role="status">{text}</div>'

    def _take_upload(self) -> None:
        # ipywidgets 7 has a dict by name here, 8 a tuple.
        value = self.upload.value
        files = (
            [{"name": name, **file} for name, file in value.items()]
            if isinstance(value, dict)
            else value
        )
        for file in files:
            name = PurePath(file["name"].replace("\\", "/")).name
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "upload.mid"
                path.write_bytes(file["content"])
                try:
                    midi = read_midi(path)
                except ValueError as error:
                    message = str(error).replace(repr(str(path)), repr(name))
                    raise ValueError(f"{message}. Upload another file.") from error
            self._tokens[name] = self._encode(name, midi)
            self._prompts[name] = midi
            self.prompt.options = list(self._prompts)
            self.prompt.value = name
            self._say(f"{name} is ready to be continued.")

    def _start(self) -> None:
        if not self._idle.is_set():
            return
        name = self.prompt.value
        tokens = self._tokens_of(name)
        settings = fitting(len(tokens), self.settings)
        self._idle.clear()
        self._stop.clear()
        self.generate.disabled, self.stop.disabled = True, False
        self.bar.value, self.bar.max = 0, settings["max_new_tokens"]
        self._say("Reading the prompt.")
        self._jobs.put(lambda: self._write(name, tokens, settings))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        """One thread for all takes: what a thread sends as it ends may not leave the kernel."""
        while True:
            self._guarded(self._jobs.get())()
            self._idle.set()

    def _write(self, name: str, tokens: list[int], settings: dict) -> None:
        """Not in the main thread: the kernel stays free for Stop and other cells."""
        prompt, new, sound, began, shown = [], [], None, 0.0, 0.0
        try:
            prompt, stream = continuation(self.model, tokens, settings)
            if self.aloud.value:
                sound = LiveSound(self.sound, prompt)
            for token in stream:
                began = began or time.monotonic()
                new.append(token)
                if self._stop.is_set():
                    break
                if sound is not None:
                    sound.feed(token)
                if (now := time.monotonic()) > shown + 0.25:
                    shown, self.bar.value = now, len(new)
                    self._say(f"{len(new)} tokens, {seconds_of(new):.1f} s of music")
            # A stream that waits for its end keeps the model's memory.
            stream.close()
        finally:
            try:
                if new:
                    self.bar.value, seconds = len(new), time.monotonic() - began
                    self._keep(Take(name, prompt, new, settings), seconds)
                if sound is not None:
                    sound.hand_over(go=bool(new) and not self._stop.is_set())
                    sound.close()
            finally:
                self.generate.disabled, self.stop.disabled = False, True

    def _keep(self, take: Take, seconds: float) -> None:
        self.takes.append(take)
        self.list.options = [
            (f"{i}. {take.title}", i) for i, take in enumerate(self.takes, 1)
        ]
        self.list.value = (len(self.takes),)
        done = "Stopped: take" if self._stop.is_set() else "Take"
        self._say(
            f"{done} {len(self.takes)}: {len(take.new)} tokens, "
            f"{seconds_of(take.new):.1f} s of music, written in {seconds:.1f} s."
            f"{self._silence}"
        )

    def _show(self) -> None:
        """The chosen takes, one below the other."""
        for i in self.list.value:
            if i not in self._players:
                self._players[i] = self.takes[i - 1].player(f"take-{i}")
        self.players.value = "".join(self._players[i] for i in self.list.value)
        self.file.value = ""

    def _make_wav(self) -> None:
        """Made when it is asked for: a minute has 5 MB."""
        if not self.list.value:
            raise ValueError("no take is chosen: choose one from the list first")
        links = []
        for i in self.list.value:
            data = base64_of(wav_bytes(self.takes[i - 1].midi))
            link = f'<a download="take-{i}.wav" href="data:audio/wav;base64,{data}">'
            links.append(f"{link}take-{i}.wav</a>")
            links.append(run_script("this.previousElementSibling.click()"))
        self.file.value = " ".join(links).replace("</a> <img", "</a><img")


def _labelled(kind: type, label: str, **options) -> ipywidgets.DOMWidget:
    style = {"description_width": "8em"}
    layout = {"width": "24em", "max_width": "100%"}
    return kind(description=label, style=style, layout=layout, **options)


def _slider(
    label: str, value: float, low: float, high: float, step: float = 1
) -> ipywidgets.DOMWidget:
    is_whole = isinstance(step, int)
    kind = ipywidgets.IntSlider if is_whole else ipywidgets.FloatSlider
    options = {"min": low, "max": high, "step": step, "continuous_update": False}
    return _labelled(kind, label, value=value, **options)


def studio(model: PerceiverAR, prompts: Mapping[str, Any] | None = None) -> Studio:
    """A panel in a notebook that continues prompts: sliders, sound, piano roll, takes.

    Args:
        model: any `PerceiverAR`.
        prompts: name -> performance, path of a MIDI file, or tokens; by default the pieces
            that come with the package. A reader can upload more.

    Returns:
        The panel, to be the last value of a cell; its `takes` can be used in later cells.

    Raises:
        ValueError: there is no prompt.
    """
    if prompts is None:
        prompts = {name: load_piece(name) for name in PIECES}
    if not prompts:
        raise ValueError("prompts is empty: give at least one, or leave it out")
    return Studio(model, prompts)
