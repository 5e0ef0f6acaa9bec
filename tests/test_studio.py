"""The studio, driven as a reader does: in this process, in browsers with a kernel, and without.

The classic notebook with ipywidgets 7.7 (that of Colab) needs an environment of its own, as no
other package here may depend on its age: TINYPERCEIVER_CLASSIC names its Python.

    pip install 'notebook<7' 'ipywidgets==7.7.1' 'ipykernel==6.17.1' -e .
"""

import base64
import dataclasses
import datetime
import html
import importlib.util
import io
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
import wave
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pretty_midi
import pytest
import torch
from conftest import PATIENCE, new_context, wait_until

from tinyperceiver import PIECES, PerceiverAR, encode_midi, load_piece, play, render
from tinyperceiver.checkpoints.folder import WEIGHTS
from tinyperceiver.checkpoints.pretrained import SHIPPED
from tinyperceiver.engines.choice import precisions_of
from tinyperceiver.files.whole import sha256_of
from tinyperceiver.music.vocabulary import PERFORMANCE, TIME_SHIFT, VELOCITY
from tinyperceiver.sound import synthesis
from tinyperceiver.sound.synthesis import synthesizer
from tinyperceiver.studio.panel import LONGEST, studio
from tinyperceiver.studio.takes import (
    LABELS,
    Take,
    fitting,
    last_seconds,
    read_takes,
    seconds_of,
)
from tinyperceiver.studio.takes_page import studio_grid

ROOT = Path(__file__).parent.parent
TAKES = ROOT / "book" / "runs" / "studio" / "takes.json"
MOZART = (ROOT / "tinyperceiver" / "assets" / "pieces" / "mozart-sonata.mid").read_bytes()
CORRUPT = b"MThd\0\0\0\6\0\1\0\1\1\x80MTrk\0\0\0\4\0"


@pytest.fixture(scope="module")
def model():
    return PerceiverAR.from_pretrained("tiny")


@pytest.fixture
def panel(model):
    made = studio(model, {name: load_piece(name) for name in ("chopin-mazurka", "mozart-sonata")})
    made.knobs["max_new_tokens"].value = 32
    made.aloud.value = False
    yield made
    made.stop.click()
    made.wait(PATIENCE)


def generate(panel):
    panel.generate.click()
    panel.wait(PATIENCE)
    assert panel.stop.disabled and not panel.generate.disabled
    return panel.takes[-1]


def upload_of(name, content):
    """What ipywidgets 8 gives; 7 gives a dict by name."""
    file = {"name": name, "type": "audio/midi", "size": len(content)}
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return ({**file, "content": memoryview(content), "last_modified": when},)


# The panel in this process


def test_the_sliders_allow_what_the_model_can(model, panel):
    assert list(panel.settings) == list(LABELS)
    config = model.config
    prefix, latents = panel.knobs["prefix_len"], panel.knobs["num_latents"]
    assert (prefix.min, prefix.max) == (0, config.max_prefix_len)
    assert (latents.min, latents.max) == (1, config.max_latents)
    assert panel.knobs["max_new_tokens"].max == LONGEST
    assert panel.knobs["temperature"].min > 0 and panel.knobs["top_p"].min > 0
    assert panel.knobs["precision"].options == precisions_of(model)
    assert studio(model).prompt.options == tuple(PIECES)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"top_k": 15, "top_p": 1.0, "seed": 3},
        {"min_p": 0.1, "grammar": True, "temperature": 1.2},
        {"precision": "int8", "num_latents": 1, "prefix_len": 100},
    ],
)
def test_a_take_is_what_generate_gives(model, panel, changed):
    for name, value in changed.items():
        panel.knobs[name].value = value
    take = generate(panel)
    tokens = encode_midi(load_piece("chopin-mazurka"))
    s = panel.settings
    seen = tokens[-(s["prefix_len"] + s["num_latents"]) :]
    output = model.generate(
        torch.tensor([seen]),
        max_new_tokens=32,
        num_latents=s["num_latents"],
        do_sample=True,
        temperature=s["temperature"],
        top_p=s["top_p"],
        top_k=s["top_k"] or None,
        min_p=s["min_p"] or None,
        grammar=s["grammar"],
        precision=s["precision"],
        generator=torch.Generator().manual_seed(s["seed"]),
    )
    assert take.prompt == seen
    assert take.new == output[0, len(seen) :].tolist()
    assert take.settings.items() >= changed.items()
    for name in changed:
        assert LABELS[name] in take.title or changed[name] in (1.0,)
    (label, number) = panel.list.options[0]
    assert number == 1 and take.title in label and panel.list.value == (1,)
    assert "<audio" in panel.players.value and "playhead" in panel.players.value
    assert "Take 1: 32 tokens" in panel.status.value


@pytest.fixture
def no_synthesizer(monkeypatch):
    synthesizer.cache_clear()
    monkeypatch.setattr(synthesis, "find_library", lambda name: None)
    monkeypatch.delenv("HOMEBREW_PREFIX", raising=False)
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    yield
    synthesizer.cache_clear()


def test_without_a_synthesizer_takes_are_written_without_sound(no_synthesizer, model):
    panel = studio(model, {"mozart-sonata": load_piece("mozart-sonata")})
    assert "no sound: no synthesizer found. Either install" in panel.status.value
    assert panel.aloud.disabled and not panel.aloud.value
    panel.knobs["max_new_tokens"].value = 32
    take = generate(panel)
    assert len(take.new) == 32
    assert "Take 1: 32 tokens" in panel.status.value
    assert "no sound: no synthesizer found" in panel.status.value
    shown = panel.players.value
    assert "<svg" in shown and "without sound" in shown and 'download="take-1.mid"' in shown
    assert "<audio" not in shown and "playhead" not in shown and "take-1.mp3" not in shown
    panel.wav.click()
    assert "Error:</b> no synthesizer found" in panel.status.value


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_at_the_end_leaves_the_panel_usable(panel, monkeypatch):
    def fail(*_):
        raise RuntimeError("the front end has gone")

    with monkeypatch.context() as patch:
        patch.setattr(panel, "_keep", fail)
        panel.generate.click()
        panel.wait(PATIENCE)
        assert not panel.generate.disabled and panel.stop.disabled
    assert generate(panel).new


def test_stop_keeps_what_was_written(panel):
    panel.knobs["max_new_tokens"].value = LONGEST
    panel.generate.click()
    wait_until(lambda: panel.bar.value, "the first token")
    assert panel.generate.disabled and not panel.stop.disabled
    panel.generate.click()  # a second click, sent before the button turned grey
    panel.stop.click()
    panel.wait(PATIENCE)
    assert len(panel.takes) == 1 and "Stopped: take 1" in panel.status.value
    stopped = panel.takes[0].new
    assert 0 < len(stopped) < LONGEST
    panel.knobs["max_new_tokens"].value = 16 * -(-len(stopped) // 16)
    assert generate(panel).new[: len(stopped)] == stopped, "Stop changed the music"


def test_an_error_is_shown_and_what_was_written_is_kept(panel, monkeypatch):
    def broken(self, prompt, **options):
        yield from [60, TIME_SHIFT + 49, 128 + 60]
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(PerceiverAR, "stream", broken)
    take = generate(panel)
    assert take.new == [60, TIME_SHIFT + 49, 128 + 60]
    assert 'role="alert"' in panel.status.value
    assert "out of &lt;memory&gt;" in panel.status.value


def test_an_error_before_the_first_token_leaves_no_take(panel, monkeypatch):
    def refuse(self, prompt, **options):
        raise ValueError("no such precision")

    monkeypatch.setattr(PerceiverAR, "stream", refuse)
    panel.generate.click()
    panel.wait(PATIENCE)
    assert panel.takes == [] and "no such precision" in panel.status.value
    assert panel.stop.disabled and not panel.generate.disabled


@pytest.mark.parametrize("generation", [7, 8])
def test_an_upload_can_be_continued(panel, generation):
    if generation == 8:
        panel.upload.value = upload_of("my sonata.mid", MOZART)
    else:
        file = {"metadata": {"name": "my sonata.mid"}, "content": MOZART}
        panel.upload = SimpleNamespace(value={"my sonata.mid": file})
        panel._guarded(panel._take_upload)()
    assert panel.prompt.value == "my sonata.mid"
    assert panel.prompt.options == ("chopin-mazurka", "mozart-sonata", "my sonata.mid")
    assert "ready" in panel.status.value
    take = generate(panel)
    assert take.name == "my sonata.mid"
    assert take.prompt == encode_midi(load_piece("mozart-sonata"))[-576:]


def bytes_of(midi):
    buffer = io.BytesIO()
    midi.write(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("<b>cut.mid", CORRUPT, "cannot be read as MIDI"),
        ("notes.txt", b"la la la", "does not start with &#x27;MThd&#x27;"),
        ("empty.mid", b"", "does not start with"),
        ("rests.mid", bytes_of(pretty_midi.PrettyMIDI()), "has no notes"),
    ],
)
def test_a_bad_upload_is_named_and_changes_nothing(panel, name, content, reason):
    panel.upload.value = upload_of(name, content)
    assert 'role="alert"' in panel.status.value
    assert html.escape(name) in panel.status.value and reason in panel.status.value
    assert "upload.mid" not in panel.status.value and "/tmp" not in panel.status.value
    assert panel.prompt.options == ("chopin-mazurka", "mozart-sonata")
    assert panel.prompt.value == "chopin-mazurka"
    generate(panel)


def test_a_bad_upload_does_not_replace_a_good_one_of_its_name(panel):
    panel.upload.value = upload_of("a.mid", MOZART)
    panel.upload.value = upload_of("a.mid", bytes_of(pretty_midi.PrettyMIDI()))
    assert "has no notes" in panel.status.value
    assert panel.prompt.value == "a.mid"
    assert generate(panel).prompt == encode_midi(load_piece("mozart-sonata"))[-576:]


def test_all_kinds_of_prompts(model, tmp_path):
    path = tmp_path / "mozart.mid"
    path.write_bytes(MOZART)
    midi = load_piece("mozart-sonata")
    tokens = encode_midi(midi)
    kinds = {"midi": midi, "path": path, "text": str(path), "list": tokens, "array": None}
    panel = studio(model, kinds | {"array": np.array(tokens), "lost": tmp_path / "lost.mid"})
    for name in kinds:
        panel.prompt.value = name
        assert f"{len(tokens):,} tokens" in panel.facts.value
    panel.prompt.value = "lost"
    assert "alert" in panel.facts.value and "lost.mid" in panel.facts.value
    panel.generate.click()
    assert "lost.mid" in panel.status.value and panel.takes == []
    panel.prompt.value = "midi"
    assert "alert" not in panel.facts.value
    with pytest.raises(ValueError, match="prompts is empty"):
        studio(model, {})


def test_a_short_prompt_is_explained_and_used_whole(model):
    tokens = encode_midi(load_piece("chopin-mazurka"))[:40]
    panel = studio(model, {"short": tokens})
    panel.aloud.value, panel.knobs["max_new_tokens"].value = False, 16
    panel.knobs["num_latents"].value = 30
    assert "10 as prefix and 30 as latents. The prompt has no more." in panel.facts.value
    take = generate(panel)
    assert take.prompt == tokens
    assert (take.settings["prefix_len"], take.settings["num_latents"]) == (10, 30)
    panel.knobs["num_latents"].value = 1000
    assert "0 as prefix and 40 as latents" in panel.facts.value
    assert generate(panel).settings["num_latents"] == 40
    panel.knobs["num_latents"].value, panel.knobs["prefix_len"].value = 8, 16
    assert "no more" not in panel.facts.value
    assert generate(panel).prompt == tokens[-24:]


def test_takes_are_compared_and_written_as_wav(panel):
    one, two = generate(panel), generate(panel)
    assert panel.list.value == (2,) and panel.players.value.count("<audio") == 1
    panel.list.value = (1, 2)
    assert panel.players.value.count("<audio") == 2
    panel.wav.click()
    links = re.findall(
        r'download="(take-\d.wav)" href="data:audio/wav;base64,([^"]+)"', *[panel.file.value]
    )
    assert [name for name, _ in links] == ["take-1.wav", "take-2.wav"]
    for take, (_, data) in zip((one, two), links, strict=True):
        with wave.open(io.BytesIO(base64.b64decode(data))) as file:
            assert file.getframerate() == 44_100
            seconds = file.getnframes() / 44_100
        assert seconds == pytest.approx(take.midi.get_end_time() + 1, abs=0.01)
    panel.list.value = ()
    assert panel.players.value == "" and panel.file.value == ""
    panel.wav.click()
    assert "no take is chosen" in panel.status.value and panel.file.value == ""


def test_the_panel_plays_while_the_model_writes(model):
    panel = studio(model, {"mozart": encode_midi(load_piece("mozart-sonata"))[:450]})
    panel.knobs["max_new_tokens"].value = 256
    shown = []
    panel.sound.observe(lambda change: shown.append(html.unescape(change["new"])), "value")
    take = generate(panel)
    *pieces, last = shown
    assert 'data-go="yes"' in last and "audio.play()" in last
    data = [dict(re.findall(r'data-(\w+)="([^"]*)"', piece)) for piece in pieces]
    assert [int(piece["number"]) for piece in data] == list(range(len(pieces)))
    sounds = [np.frombuffer(base64.b64decode(piece["sound"]), "<i2") for piece in data]
    assert len(sounds) > 5 and all(len(sound) >= 22_050 for sound in sounds)
    live = np.concatenate(sounds) / 2**15
    begin = float(data[0]["end"]) - len(sounds[0]) / 22_050
    assert 3 <= take.split - begin < 4, "three seconds of the prompt lead in"
    end = begin + len(live) / 22_050
    assert float(data[-1]["end"]) == pytest.approx(end, abs=0.001)
    assert take.split < end <= seconds_of(take.prompt + take.new) + 0.001
    # The same music as the finished take, but for what sounded before the lead-in.
    whole = render(take.midi, 22_050)[round(begin * 22_050) :][: len(live)]
    # Synthesizers start notes on a grid of their own, so that phases differ.
    spectra = [
        np.abs(np.fft.rfft(s[44_100:][: 2205 * 40].reshape(40, 2205))) for s in (live, whole)
    ]
    alike = np.corrcoef(spectra[0].ravel(), spectra[1].ravel())[0, 1]
    elsewhere = np.corrcoef(spectra[0].ravel(), np.roll(spectra[1], 10, axis=0).ravel())[0, 1]
    assert alike > 0.8 > elsewhere + 0.2, (alike, elsewhere)
    assert 0.2 < np.abs(live).max() < 1


def test_a_stopped_take_does_not_go_on_playing(panel):
    panel.aloud.value, panel.knobs["max_new_tokens"].value = True, LONGEST
    panel.generate.click()
    wait_until(lambda: panel.bar.value, "the first token")
    panel.stop.click()
    panel.wait(PATIENCE)
    assert 'data-go=""' in panel.sound.value


def test_without_ipywidgets_the_studio_says_what_to_install():
    code = "import sys; sys.modules['ipywidgets'] = None\n"
    code += "import tinyperceiver.studio.takes_page; print('pages need none')\n"
    code += "from tinyperceiver.studio import studio"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == "pages need none\n"
    assert "ImportError: the studio is made of ipywidgets" in done.stderr
    assert "pip install ipywidgets" in done.stderr


# Takes


def test_fitting_gives_latents_the_first_say():
    settings = {"prefix_len": 100, "num_latents": 20, "seed": 1}
    assert fitting(500, settings) == settings
    assert fitting(50, settings) == {"prefix_len": 30, "num_latents": 20, "seed": 1}
    assert fitting(7, settings) == {"prefix_len": 0, "num_latents": 7, "seed": 1}


def test_the_end_of_a_piece_keeps_its_velocity():
    loud, wait = VELOCITY + 20, TIME_SHIFT + 99  # a second
    tokens = [loud, 60, wait, 188, 62, wait, 190, 64, wait, 192]
    assert last_seconds(tokens, 1.0) == [loud, wait, 192]
    assert last_seconds(tokens, 1.5) == [loud, wait, 190, 64, wait, 192]
    assert last_seconds(tokens, 60) == tokens
    assert last_seconds([PERFORMANCE, *tokens], 1.0)[:2] == [PERFORMANCE, loud]


def test_recorded_takes_are_a_grid_from_the_checkpoint_that_ships():
    recorded = json.loads(TAKES.read_text(encoding="utf-8"))
    assert recorded["sha256"] == sha256_of(SHIPPED["tiny"] / WEIGHTS)
    takes = read_takes(TAKES)
    assert len(takes) == 12
    for take in takes:
        assert 2 <= take.split < 3.5 and 6 <= seconds_of(take.new) < 8
        assert len(take.midi.instruments[0].notes) > 10


@pytest.mark.parametrize("text", ["", "[]", '{"takes": [{"name": 1}]}', '{"takes": 7}'])
def test_a_file_that_holds_no_takes_is_named(tmp_path, text):
    path = tmp_path / "takes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"takes\.json.*record_takes"):
        read_takes(path)


def short_takes():
    """Two prompts, two temperatures: a grid of four."""
    wait = TIME_SHIFT + 49
    settings = dict.fromkeys(LABELS, 0) | {"precision": "float32", "grammar": False}
    return [
        Take(name, [VELOCITY + 20, 60 + i, wait, 188 + i], [64 + i + j, wait, 192 + i + j], s)
        for i, name in enumerate(["<a>", "b"])
        for j, s in enumerate(settings | {"temperature": t} for t in (0.5, 1.0))
    ]


def test_a_grid_must_be_whole():
    takes = short_takes()
    with pytest.raises(ValueError, match="2 prompt x 2 temperature"):
        studio_grid(takes[:3])
    with pytest.raises(ValueError, match="not 5"):
        studio_grid([*takes, takes[0]])
    with pytest.raises(ValueError, match="there must be takes"):
        studio_grid([])
    other = dataclasses.replace(takes[0], settings={"seed": 1})
    with pytest.raises(ValueError, match="same settings"):
        studio_grid([*takes[1:], other])


def test_the_grid_fits_on_a_page():
    page = studio_grid(read_takes(TAKES)).data
    assert len(page) < 950_000  # bytes: the chapter's other sounds need room below 1.5 MB
    assert page.count("<audio") == 12 and "://" not in page


def test_play_without_the_new_options_is_as_it_was():
    page = play(load_piece("mozart-sonata")).data
    assert not re.search(r"playhead|onplay|download|<script", page)


# In a browser, without a kernel


@pytest.fixture
def grid_page(browser, tmp_path):
    def open_it(scripts=True):
        path = tmp_path / "grid.html"
        page = "<!doctype html><meta charset='utf-8'><style>:root{color-scheme:light dark}"
        path.write_text(page + f"</style><main>{studio_grid(short_takes()).data}", "utf-8")
        options = {"viewport": {"width": 375, "height": 700}, "color_scheme": "dark"}
        context = new_context(browser, java_script_enabled=scripts, **options)
        page = context.new_page()
        page.faults, page.asked = [], []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        return page

    return open_it


def test_the_grid_works_by_keyboard(grid_page):
    page = grid_page()
    assert page.locator("audio:visible").get_attribute("aria-label").startswith("<a>: temp")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.labels[0].innerText").startswith("prompt")
    page.keyboard.press("b")  # a list goes to what begins so
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    slider = page.locator("input[type=range]")
    assert slider.get_attribute("aria-valuetext") == "1.0"
    assert page.locator("output").inner_text() == "1.0"
    player = page.locator("audio:visible")
    assert player.count() == 1
    assert player.get_attribute("aria-label").startswith("b: temperature 1,")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.faults == []
    assert all(url.startswith(("file:", "data:")) for url in page.asked), page.asked


def test_the_playhead_follows_and_one_player_sounds_at_a_time(grid_page):
    page = grid_page()
    # Time and place are read together: a busy machine is slow to answer.
    at, left, is_paused = page.evaluate(
        """async () => {
          const [first, second] = document.querySelectorAll("audio");
          const head = document.querySelector(".playhead");
          first.muted = second.muted = true;
          await first.play();
          const found = await new Promise((done) => (function look() {
            if (first.currentTime < 0.3) return requestAnimationFrame(look);
            done([first.currentTime, parseFloat(head.style.left)]);
          })());
          await second.play();
          return [...found, first.paused];
        }"""
    )
    assert left == pytest.approx(100 * at / 1.0, abs=20), "the music lasts a second"
    assert is_paused
    page.locator("audio").first.evaluate("(audio) => { audio.currentTime = 0.5; }")
    page.wait_for_function(
        "Math.abs(parseFloat(document.querySelector('.playhead').style.left) - 50) < 1"
    )


def downloaded(page, link):
    with page.expect_download() as download:
        link.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_the_grid_gives_files(grid_page):
    page = grid_page()
    name, midi = downloaded(page, page.locator("a:visible", has_text="MIDI"))
    assert name == "studio-takes-1.mid"
    notes = pretty_midi.PrettyMIDI(io.BytesIO(midi)).instruments[0].notes
    assert [note.pitch for note in notes] == [60, 64]
    name, mp3 = downloaded(page, page.locator("a:visible", has_text="MP3"))
    assert name == "studio-takes-1.mp3" and mp3[:1] == b"\xff" and len(mp3) > 2000


def test_without_scripts_the_first_take_is_there(grid_page):
    page = grid_page(scripts=False)
    assert page.locator("audio:visible").count() == 1
    assert page.locator("svg:visible").count() == 1
    assert page.locator(".controls").is_hidden()


# In a browser, with a kernel

SOURCE = """\
from tinyperceiver import PerceiverAR
from tinyperceiver.studio import studio

panel = studio(PerceiverAR.from_pretrained("tiny"))
panel"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address):
    with suppress(OSError), urllib.request.urlopen(address):
        return True
    return False


@pytest.fixture(scope="module", params=["lab", "classic"])
def notebook(request, tmp_path_factory):
    """The address of a notebook that shows the studio, in JupyterLab and in Notebook 6."""
    python, program, app = sys.executable, "jupyterlab", "ServerApp"
    if request.param == "classic":
        python, program, app = os.environ.get("TINYPERCEIVER_CLASSIC"), "notebook", "NotebookApp"
        if not python:
            pytest.skip("TINYPERCEIVER_CLASSIC names no Python with notebook<7, ipywidgets 7.7")
    elif importlib.util.find_spec(program) is None:
        pytest.fail("JupyterLab is missing: it is part of the extra `test`", pytrace=False)
    folder = tmp_path_factory.mktemp(request.param)
    cell = {"cell_type": "code", "id": "a", "source": SOURCE, "metadata": {}, "outputs": []}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"cells": [cell | {"execution_count": None}], "metadata": {"kernelspec": kernel}}
    path = folder / "studio.ipynb"
    path.write_text(json.dumps(content | {"nbformat": 4, "nbformat_minor": 5}))
    port = free_port()
    # Nothing of the user's own settings, and none are left behind.
    own = {f"JUPYTER_{n}_DIR": str(folder / n) for n in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    own |= {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
    options = {"token": "", "password": "", "port": port, "port_retries": 0}
    where = "root_dir" if app == "ServerApp" else "notebook_dir"
    command = [python, "-m", program, "--no-browser", "--allow-root", f"--{app}.{where}={folder}"]
    command += [f"--{app}.{name}={value}" for name, value in options.items()]
    with open(folder / "server.log", "w") as log:
        env = {k: v for k, v in os.environ.items() if k != "JUPYTER_PATH"} | own
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    origin, log = f"http://127.0.0.1:{port}", folder / "server.log"
    try:
        wait_until(lambda: answers(f"{origin}/api") or server.poll() is not None, "the server")
        assert server.poll() is None, log.read_text()
        view = "lab/tree" if request.param == "lab" else "notebooks"
        yield f"{origin}/{view}/studio.ipynb"
    finally:
        server.terminate()
        server.wait(PATIENCE)


class Driver:
    """The panel in a browser."""

    def __init__(self, browser, address):
        self.page = new_context(browser, viewport={"width": 1200, "height": 1400}).new_page()
        self.faults = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(address)
        if "/lab/" in address:
            # Before the kernel has come, keys are lost; a notebook without any is idle, too.
            self.page.locator(".jp-KernelName", has_text="Python 3").wait_for()
            self.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
            self.page.locator(".jp-CodeCell .cm-content").first.click()
            self.page.keyboard.press("Control+Enter")
        else:
            self.page.wait_for_function("window.Jupyter?.notebook?.kernel?.is_connected()")
            # A page that opens asks the kernel for widgets of earlier days. Those that a cell
            # makes meanwhile it makes a second time, and one of the two learns nothing more.
            self.page.wait_for_timeout(5000)
            self.page.evaluate("Jupyter.notebook.execute_all_cells()")
        self.root = self.page.locator(".tinyperceiver-studio")
        self.root.wait_for()

    def button(self, name):
        return self.root.get_by_role("button", name=name)

    def press(self, name):
        """As by keyboard."""
        self.button(name).focus()
        self.page.keyboard.press("Enter")

    def says(self, text):
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        with suppress(PlaywrightTimeout):
            self.root.get_by_text(text).wait_for()
        shown = self.root.inner_text()
        assert text in shown, shown

    def upload(self, name, content):
        with self.page.expect_file_chooser() as chooser:
            self.button("Upload MIDI").click()
        file = {"name": name, "mimeType": "audio/midi", "buffer": content}
        chooser.value.set_files(file)


def test_the_studio_in_a_notebook(browser, notebook):
    driver = Driver(browser, notebook)
    page, root = driver.page, driver.root
    # Generate: sound while it writes, then the player, which goes on with it.
    driver.button("Generate").click()
    driver.says("Take 1: 256 tokens")
    live = "Object.values(window.tinyperceiverStudio)[0]"
    assert page.evaluate(f"{live}.number") >= 4, "too few pieces reached the browser"
    page.wait_for_function("!document.querySelector('audio').paused")
    page.wait_for_function(f"{live}.context.state === 'closed'")
    where = "parseFloat(document.querySelector('.playhead').style.left)"
    before = page.evaluate(where)
    page.wait_for_function(f"{where} > {before} + 0.5")
    page.evaluate("document.querySelector('audio').pause()")
    # Files.
    name, midi = downloaded(page, root.get_by_role("link", name="MIDI"))
    assert name == "take-1.mid" and midi.startswith(b"MThd")
    seconds = pretty_midi.PrettyMIDI(io.BytesIO(midi)).get_end_time()
    name, mp3 = downloaded(page, root.get_by_role("link", name="MP3"))
    assert name == "take-1.mp3" and len(mp3) > 4000 * seconds
    name, content = downloaded(page, driver.button("Download WAV"))
    assert name == "take-1.wav"
    with wave.open(io.BytesIO(content)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(seconds + 1, abs=0.05)
    # A corrupt upload, then a good one.
    driver.upload("broken.mid", CORRUPT)
    driver.says("'broken.mid' cannot be read as MIDI")
    driver.upload("my sonata.mid", MOZART)
    driver.says("my sonata.mid is ready")
    assert root.get_by_label("prompt").input_value() == "my sonata.mid"
    # By keyboard: a slider, Generate, Stop.
    page.locator(".noUi-handle, .ui-slider-handle").first.focus()
    page.keyboard.press("ArrowRight")
    root.get_by_text("1.05").wait_for()
    page.locator(".noUi-handle, .ui-slider-handle").nth(6).focus()
    page.keyboard.press("End")
    root.get_by_text("4096").wait_for()
    driver.press("Generate")
    driver.says("s of music")
    driver.press("Stop")
    driver.says("Stopped: take 2")
    page.wait_for_function("document.querySelector('audio').paused")
    takes = root.get_by_label("takes")
    options = takes.locator("option").all_inner_texts()
    assert "temperature\u00a01.05" in options[1] or "temperature 1.05" in options[1]
    # Compare.
    takes.focus()
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('audio').ariaLabel.startsWith('bach')")
    page.keyboard.press("Shift+ArrowDown")
    page.wait_for_function("document.querySelectorAll('audio').length === 2")
    root.get_by_label("prompt").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function(
        "document.querySelector('.tinyperceiver-studio select').value === 'joplin-maple-leaf-rag'"
    )
    assert driver.faults == []
    page.context.close()
