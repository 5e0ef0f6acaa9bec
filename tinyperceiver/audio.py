"""From MIDI to sound and picture: synthesis, WAV and MP3, the piano roll, a notebook player.

Times are in seconds, samples are mono float32 in [-1, 1]. FluidSynth makes the sound where its
system library is found, else TinySoundFont, which needs none; `synthesizer()` tells which.
"""

import base64
import ctypes
import functools
import html
import importlib
import io
import os
import wave
from bisect import bisect_left
from contextlib import closing, redirect_stdout
from ctypes.util import find_library
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes
    from pretty_midi import Instrument, PrettyMIDI

__all__ = [
    "MAX_SECONDS",
    "SynthesizerNotFoundError",
    "mp3_bytes",
    "piano_roll",
    "play",
    "render",
    "synthesizer",
    "wav_bytes",
]

MAX_SECONDS = 7200  # longest music rendered: at 44.1 kHz its samples take 1.3 GB
TAIL = 1.0  # seconds of sound after the last note has ended: release and reverberation
PEAK = 10 ** (-1 / 20)  # -1 dB of full scale: an MP3 decoder may overshoot the original
SUSTAIN = 64  # MIDI controller number of the sustain pedal, down at 64 of 127 and above
# Both stand out from white and from black, and differ in lightness, not in hue alone.
BLUE, ORANGE = "#1c78c8", "#d97b0b"


class SynthesizerNotFoundError(RuntimeError):
    """Neither FluidSynth nor TinySoundFont is installed."""


# Synthesis


@functools.cache
def synthesizer() -> str:
    """Which synthesizer `render` uses: "fluidsynth" or "tinysoundfont".

    Looked up once. FluidSynth is two things: the package pyfluidsynth and a system library.

    Raises:
        SynthesizerNotFoundError: there is none; the message says how to install one.
    """
    names = ("fluidsynth", "fluidsynth-3", "libfluidsynth", "libfluidsynth-3")
    # pyfluidsynth also looks where Homebrew says; its import has the last word.
    if any(map(find_library, names)) or "HOMEBREW_PREFIX" in os.environ:
        try:
            # It prints what it found when CI is set.
            with redirect_stdout(io.StringIO()):
                importlib.import_module("fluidsynth")
            return "fluidsynth"
        except (ImportError, OSError):
            pass
    try:
        importlib.import_module("tinysoundfont")
        return "tinysoundfont"
    except ImportError:
        raise SynthesizerNotFoundError(
            "no synthesizer found. Either install FluidSynth, `apt-get install -y libfluidsynth3` "
            "(macOS: `brew install fluid-synth`), with `pip install pyfluidsynth`; or its "
            "fallback, which needs no system library: `pip install --no-deps tinysoundfont`"
        ) from None


class _FluidSynth:
    """What `_render_instrument` needs of a synthesizer, by libfluidsynth."""

    def __init__(self, soundfont: str, sample_rate: int) -> None:
        import fluidsynth

        self.library = ctypes.CDLL(fluidsynth.lib)
        # From panic to debug: it would write warnings into notebooks.
        for level in range(5):
            self.library.fluid_set_log_function(level, None, None)
        self.path = soundfont
        self.synth = fluidsynth.Synth(samplerate=float(sample_rate))
        self.font = self.synth.sfload(soundfont)  # -1 if it cannot
        self.on, self.off = self.synth.noteon, self.synth.noteoff
        self.control, self.bend = self.synth.cc, self.synth.pitch_bend

    def select(self, channel: int, bank: int, program: int) -> bool:
        return self.synth.program_select(channel, self.font, bank, program) == 0

    def samples(self, count: int) -> np.ndarray:
        # The package reads 16-bit integers, in which one soft note drowns in the dither.
        stereo = np.empty((count, 2), np.float32)
        out = stereo.ctypes.data_as(ctypes.c_void_p)
        synth = ctypes.c_void_p(self.synth.synth)
        self.library.fluid_synth_write_float(synth, count, out, 0, 2, out, 1, 2)
        return stereo

    def close(self) -> None:
        self.synth.delete()


class _TinySoundFont:
    """What `_render_instrument` needs of a synthesizer, by TinySoundFont."""

    def __init__(self, soundfont: str, sample_rate: int) -> None:
        import tinysoundfont

        self.path = soundfont
        self.synth = tinysoundfont.Synth(samplerate=sample_rate)
        try:
            self.font = self.synth.sfload(soundfont)
        except RuntimeError:
            self.font = -1
        self.on, self.off = self.synth.noteon, self.synth.noteoff
        self.control = self.synth.control_change

    def bend(self, channel: int, value: int) -> None:
        self.synth.pitchbend(channel, value + 8192)

    def select(self, channel: int, bank: int, program: int) -> bool:
        if self.synth.sfpreset_name(self.font, bank, program) is None:
            return False
        self.synth.program_select(
            channel, self.font, bank, program, is_drums=bank == 128
        )
        return True

    def samples(self, count: int) -> np.ndarray:
        return np.frombuffer(self.synth.generate(count), np.float32).reshape(-1, 2)

    def close(self) -> None:
        if self.font != -1:
            self.synth.sfunload(self.font)


def render(
    midi: "PrettyMIDI",
    sample_rate: int = 44_100,
    soundfont: str | os.PathLike | None = None,
) -> np.ndarray:
    """The sound of `midi`, which is left as it is.

    The loudest sample is at -1 dB of full scale, whatever the velocities: only loudness within
    the music counts. The same input gives the same samples, but the two synthesizers differ.

    Args:
        midi: notes, sustain pedal, other controllers and pitch bends are heard. Programs that the
            sound font lacks are played with its first, so a piano-only font plays them all.
        sample_rate: in Hz, 8,000 to 96,000.
        soundfont: path of an .sf2 file; None for TimGM6mb.sf2, which comes with pretty_midi.

    Returns:
        Samples, float32, (N,): up to a second after the last note; (0,) for music without notes.

    Raises:
        ValueError: a note that is not MIDI, more than `MAX_SECONDS`, a bad sample rate, or a
            file that is not a sound font.
        OSError: the sound font cannot be read.
        SynthesizerNotFoundError: no synthesizer is installed.
    """
    if sample_rate not in range(8000, 96_001):
        raise ValueError(
            f"sample_rate must be an integer in 8000..96000 Hz, not {sample_rate!r}"
        )
    sample_rate, path = int(sample_rate), _check_soundfont(soundfont)
    sounding = [(part, _sounding_notes(part)) for part in midi.instruments]
    sounding = [(part, notes) for part, notes in sounding if notes]
    if not sounding:
        return np.zeros(0, np.float32)
    seconds = max(end for _, notes in sounding for _, end, _, _ in notes) + TAIL
    samples = np.zeros(round(seconds * sample_rate), np.float32)  # (N,)
    kind = {"fluidsynth": _FluidSynth, "tinysoundfont": _TinySoundFont}[synthesizer()]
    for part, notes in sounding:
        with closing(kind(path, sample_rate)) as synth:
            _render_instrument(synth, part, notes, samples, sample_rate)
    fade = sample_rate // 10  # a sound font with a long release would end in a click
    samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    peak = max(samples.max(), -samples.min())
    # FluidSynth's silence is a hum of 2e-8.
    samples *= PEAK / peak if peak > 1e-6 else 0
    return samples


def open_piano(sample_rate: int = 22_050) -> "_FluidSynth | _TinySoundFont":
    """A piano to be played key by key, for music that is not yet written to its end.

    Args:
        sample_rate: in Hz.

    Returns:
        A synthesizer with four methods: `on(0, pitch, velocity)`, `off(0, pitch)`,
        `samples(count)`, the next ones, stereo, (count, 2), and `close()`.

    Raises:
        SynthesizerNotFoundError: no synthesizer is installed.
    """
    kind = {"fluidsynth": _FluidSynth, "tinysoundfont": _TinySoundFont}[synthesizer()]
    synth = kind(_check_soundfont(None), sample_rate)
    synth.select(0, 0, 1)  # the program of `decode_midi`
    return synth


def _render_instrument(
    synth: "_FluidSynth | _TinySoundFont",
    part: "Instrument",
    notes: list[tuple],
    samples: np.ndarray,
    sample_rate: int,
) -> None:
    """Add the sound of one instrument, on a synthesizer of its own, to `samples`, (N,)."""
    if synth.font == -1:
        raise ValueError(
            f"{synthesizer()} cannot read the sound font {synth.path}: damaged?"
        )
    channel, bank = (9, 128) if part.is_drum else (0, 0)
    choices = ((bank, part.program), (bank, 0), (0, 0))
    if not any(synth.select(channel, *choice) for choice in choices):
        raise ValueError(
            f"{synth.path} holds neither program {part.program} nor program 0"
        )

    # At the same time: ends, then controllers, then starts, or a repeated note would end at once.
    events = [(end, 0, synth.off, pitch) for _, end, pitch, _ in notes]
    events += [(bend.time, 1, synth.bend, bend.pitch) for bend in part.pitch_bends]
    events += [
        (change.time, 1, synth.control, change.number, change.value)
        for change in part.control_changes
        # In the notes already: TinySoundFont does not know it.
        if change.number != SUSTAIN
    ]
    events += [
        (start, 2, synth.on, pitch, velocity) for start, _, pitch, velocity in notes
    ]
    events.sort(key=lambda event: event[:2])

    position, step = 0, 10 * sample_rate
    for time, _, send, *values in [*events, (float("inf"), 3, None)]:
        until = round(min(time * sample_rate, len(samples)))
        while position < until:
            count = min(step, until - position)
            samples[position : position + count] += synth.samples(count).mean(axis=1)
            position += count
        if send is not None:
            send(channel, *values)


def _sounding_notes(part: "Instrument") -> list[tuple[float, float, int, int]]:
    """(start, end, pitch, velocity) as heard, by start.

    A note ends when its key and the pedal are up, or when its key is struck again.
    """
    pedal = _pedal_intervals(part)
    downs = [down for down, _ in pedal]
    notes, struck = [], {}  # pitch -> when it is struck next
    for note in sorted(part.notes, key=lambda note: note.start, reverse=True):
        if not 0 <= note.start <= note.end <= MAX_SECONDS:
            raise ValueError(
                f"{note}: notes must start at 0 s or later, end no earlier than they start, and "
                f"end by {MAX_SECONDS} s: cut longer music into pieces"
            )
        if not (0 <= note.pitch <= 127 and 0 <= note.velocity <= 127):
            raise ValueError(f"{note}: pitch and velocity must be in 0..127")
        if note.end == note.start:
            continue
        end = note.end
        # The last pedal pressed before the key is released.
        i = bisect_left(downs, end) - 1
        if i >= 0:
            end = max(end, min(pedal[i][1], MAX_SECONDS))
        end = min(end, struck.get(note.pitch, end))
        struck[note.pitch] = note.start
        if end > note.start:
            notes.append((note.start, end, note.pitch, note.velocity))
    return notes[::-1]


def _pedal_intervals(part: "Instrument") -> list[tuple[float, float]]:
    """When the sustain pedal is down; one never lifted is lifted with the last note."""
    intervals, down = [], None
    changes = (change for change in part.control_changes if change.number == SUSTAIN)
    for change in sorted(changes, key=lambda change: change.time):
        if change.value >= 64 and down is None:
            down = change.time
        elif change.value < 64 and down is not None:
            intervals.append((down, change.time))
            down = None
    last = max((note.end for note in part.notes), default=0)
    if down is not None and down < last:
        intervals.append((down, last))
    return intervals


def _check_soundfont(soundfont: str | os.PathLike | None) -> str:
    """The path of a file that begins like a sound font and is as long as it says."""
    import pretty_midi

    path = Path(soundfont or Path(pretty_midi.__file__).parent / "TimGM6mb.sf2")
    if not path.is_file():
        raise FileNotFoundError(
            f"no sound font at {path}: give the path of an .sf2 file"
        )
    with path.open("rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"sfbk":
        raise ValueError(
            f"{path} is not a sound font: it does not begin as an .sf2 file does"
        )
    expected, found = 8 + int.from_bytes(header[4:8], "little"), path.stat().st_size
    if found < expected:
        raise ValueError(
            f"{path} is cut off: {found} of {expected} bytes; download it again"
        )
    return str(path)


# Files


def wav_bytes(audio: "PrettyMIDI | np.ndarray", sample_rate: int = 44_100) -> bytes:
    """A WAV file, 16 bits, mono: 5.3 MB a minute.

    Args:
        audio: music to render, or samples, (N,), in [-1, 1]; what is beyond is clipped.
        sample_rate: in Hz; for samples, the rate at which they were rendered.

    Raises:
        ValueError: samples that are not floating-point numbers, not finite or not (N,), or a bad
            sample rate; or as `render`.
    """
    samples = np.clip(_to_samples(audio, sample_rate), -1, 1) * np.float32(
        32_767
    )  # (N,)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(samples, out=samples).astype("<i2").tobytes())
    return buffer.getvalue()


def mp3_bytes(audio: "PrettyMIDI | np.ndarray", sample_rate: int = 22_050) -> bytes:
    """An MP3 file, mono, of about 40 kbit/s at the default rate: 0.3 MB a minute.

    Args:
        audio, sample_rate: as `wav_bytes`, but MP3 knows only nine rates: 8000, 11025, 12000,
            16000, 22050, 24000, 32000, 44100 and 48000 Hz.

    Returns:
        The file; b"" without samples, as there is no MP3 of nothing.

    Raises:
        ValueError: a sample rate that MP3 does not have; or as `wav_bytes`.
    """
    import soundfile

    rates = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
    if sample_rate not in rates:
        raise ValueError(
            f"sample_rate must be one of MP3's, {rates} Hz, not {sample_rate!r}"
        )
    samples = _to_samples(audio, sample_rate)
    buffer = io.BytesIO()
    if len(samples):
        # Only "AVERAGE" and "VARIABLE" write down the exact length, which players show.
        options = {"bitrate_mode": "AVERAGE", "compression_level": 0.75}
        soundfile.write(buffer, samples, int(sample_rate), format="MP3", **options)
    return buffer.getvalue()


def _to_samples(audio: "PrettyMIDI | np.ndarray", sample_rate: int) -> np.ndarray:
    if hasattr(audio, "instruments"):
        return render(audio, sample_rate)
    samples = np.asarray(audio)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(
            f"audio must be a PrettyMIDI or floating-point samples of shape (N,), not "
            f"{samples.dtype} of shape {samples.shape}"
        )
    if not np.isfinite(samples).all():
        raise ValueError("audio holds samples that are not finite (NaN or infinite)")
    if not sample_rate >= 1:
        raise ValueError(f"sample_rate must be positive, in Hz, not {sample_rate!r}")
    return samples.astype(np.float32, copy=False)


# Pictures


class _Roll(NamedTuple):
    """What the piano rolls show, in seconds and MIDI pitches."""

    # Start, end, pitch, colour, opacity.
    bars: list[tuple[float, float, int, str, float]]
    pedal: list[tuple[float, float]]
    low: int
    high: int
    seconds: float
    split: float | None  # None if it lies outside
    text: str  # for those who do not see it


def _roll(midi: "PrettyMIDI", split: float | None) -> _Roll:
    from pretty_midi import note_number_to_name

    parts = [part for part in midi.instruments if not part.is_drum]
    notes = sorted(
        (note.start, note.end, note.pitch, note.velocity)
        for part in parts
        for note in part.notes
    )
    if not all(0 <= value < float("inf") for note in notes for value in note):
        raise ValueError(
            "midi holds a note whose start, end, pitch or velocity is below 0 or NaN"
        )
    if split is not None and not 0 <= split < float("inf"):
        raise ValueError(f"split must be a time in seconds, 0 or later, not {split!r}")
    if not notes:
        return _Roll([], [], 59, 73, 1.0, None, "Piano roll without notes.")
    seconds = max(end for _, end, _, _ in notes) or 1.0
    split = None if split is None or split >= seconds else split
    # Bars end a hair early, or repeated notes would run together.
    gap = 0.0015 * seconds
    bars, later = [], 0
    for start, end, pitch, velocity in notes:
        is_later = split is not None and start >= split
        later += is_later
        color = BLUE if split is None or is_later else ORANGE
        opacity = round(0.4 + 0.6 * velocity / 127, 2)
        bars.append((start, max(end - gap, start + gap), pitch, color, opacity))
    pedal = sorted(interval for part in parts for interval in _pedal_intervals(part))
    low, high = min(note[2] for note in notes), max(note[2] for note in notes)
    loud = sorted(note[3] for note in notes)
    text = (
        f"Piano roll: {len(notes)} notes from {note_number_to_name(low)} to "
        f"{note_number_to_name(high)} in {seconds:.1f} seconds, velocities {loud[0]} to "
        f"{loud[-1]}, the pedal pressed {len(pedal)} times."
    )
    if split is not None:
        text += f" {later} notes, from {split:.1f} seconds on, are a continuation."
    # At least an octave, so that a C is in sight.
    spare = max(0, 14 - (high - low)) // 2 + 2
    return _Roll(bars, pedal, low - spare, high + spare, seconds, split, text)


def _octaves(roll: _Roll) -> dict[int, str]:
    return {
        c: f"C{c // 12 - 1}" for c in range(-(-roll.low // 12) * 12, roll.high + 1, 12)
    }


def piano_roll(
    midi: "PrettyMIDI", ax: "Axes | None" = None, *, split: float | None = None
) -> "Axes":
    """Draw pitch over time: velocity as density, the sustain pedal as a strip below.

    Colours are told apart without colour vision, in grey, and on dark backgrounds; text and lines
    take matplotlib's colours. Drums are left out.

    Args:
        midi: the music.
        ax: where to draw; None for a new figure.
        split: when a continuation begins, in seconds: what comes before is orange, as
            prefixes are in the book, and the continuation blue, as latents.

    Returns:
        The axes.

    Raises:
        ValueError: `split` is no time, or a note is not MIDI.
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import PolyCollection

    roll = _roll(midi, split)
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    ink, bottom, ticks = plt.rcParams["text.color"], roll.low, _octaves(roll)
    ax.hlines(list(ticks), 0, roll.seconds, colors=ink, alpha=0.2, lw=0.6, zorder=1)
    boxes = [
        (
            (start, pitch - 0.42),
            (start, pitch + 0.42),
            (end, pitch + 0.42),
            (end, pitch - 0.42),
        )
        for start, end, pitch, _, _ in roll.bars
    ]
    shades = [bar[3:] for bar in roll.bars]
    ax.add_collection(PolyCollection(boxes, facecolors=shades, linewidth=0, zorder=2))
    if roll.pedal:
        bottom = roll.low - 5
        widths = [(down, up - down) for down, up in roll.pedal]
        ax.broken_barh(widths, (bottom, 2), facecolors=ink, alpha=0.55, lw=0)
        ticks = {bottom + 1: "pedal", **ticks}
    if roll.split is not None:
        ax.axvline(roll.split, color=ink, lw=1, ls="--")
        place = {
            "transform": ax.get_xaxis_transform(),
            "va": "bottom",
            "clip_on": False,
        }
        ax.text(roll.split, 1.0, "continuation →", fontweight="bold", **place)
    if not roll.bars:
        ax.text(0.5, 0.5, "no notes", transform=ax.transAxes, ha="center", va="center")
    ax.set(
        xlim=(0, roll.seconds), ylim=(bottom - 0.5, roll.high), xlabel="time (seconds)"
    )
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def play(
    midi: "PrettyMIDI",
    *,
    title: str | None = None,
    split: float | None = None,
    soundfont: str | os.PathLike | None = None,
    playhead: float | None = None,
    downloads: str | None = None,
) -> "HTML":
    """A player and a piano roll for a notebook: one output, which needs no network and no script.

    The sound is a 22 kHz MP3 inside the page: 0.4 MB a minute.

    Args:
        midi: the music.
        title: a line of text above.
        split: when a continuation begins, in seconds: what comes before is orange, as
            prefixes are in the book, and the continuation blue, as latents.
        soundfont: as `render`.
        playhead: where the player starts, in seconds; if given, a line in the piano roll
            follows the sound, and starting one player stops the others, where scripts run.
        downloads: links offer the music as MIDI and as MP3, as files of this name without its
            ending; the second of them needs scripts.

    Returns:
        An output to display: the last value of a cell, or what `display` takes.

    Raises:
        ValueError, OSError, SynthesizerNotFoundError: as `render` and `piano_roll`.
    """
    from IPython.display import HTML

    samples, roll = render(midi, 22_050, soundfont), _roll(midi, split)
    name = html.escape(title or "Piano music", quote=True)
    parts = [f'<div style="font-weight:600">{name}</div>'] if title else []
    facts = ["nothing to hear: no notes"]
    if len(samples):
        mp3 = base64.b64encode(mp3_bytes(samples)).decode()
        line, events = ("", "") if playhead is None else _follow(roll, playhead)
        parts.append(_svg_roll(roll, line))
        parts.append(
            f'<audio controls preload="metadata" aria-label="{name}" style="width:100%"{events} '
            f'src="data:audio/mpeg;base64,{mp3}"></audio>'
        )
        font = html.escape(Path(soundfont).name if soundfont else "TimGM6mb.sf2")
        facts = [f"{len(samples) / 22_050:.1f} s", f"{len(roll.bars)} notes"]
        facts.append(f"sound: {synthesizer()}, {font}")
    if roll.split is not None:
        style = f"display:inline-block;width:.7em;height:.7em;background:{BLUE}"
        square = f'<span style="{style}"></span>'
        facts.append(f"{square} continuation from {roll.split:.1f} s")
    if downloads is not None:
        facts.append(_links(midi, html.escape(downloads), bool(len(samples))))
    parts.append(f'<div style="font-size:.8em;opacity:.85">{" · ".join(facts)}</div>')
    # A book may style the class; a <figure> would bring its theme's own captions and margins.
    return HTML(
        f'<div class="tinyperceiver-player" style="max-width:54em">{"".join(parts)}</div>'
    )


# Event attributes run where a <script> does not: inside a widget.
_MOVE = (
    "audio.closest('.tinyperceiver-player').querySelector('.playhead').style.left = "
    "Math.min(100 * audio.currentTime / audio.dataset.seconds, 100) + '%'"
)
_EVENTS = {
    "onloadedmetadata": "this.currentTime = this.dataset.start",
    "onseeking": f"const audio = this; {_MOVE}",
    "onplay": "const audio = this; for (const other of document.querySelectorAll('audio')) "
    "{ if (other !== audio) other.pause() } "
    f"(function follow() {{ {_MOVE}; audio.paused || requestAnimationFrame(follow) }})()",
}


def _follow(roll: _Roll, start: float) -> tuple[str, str]:
    """A line over the roll, and the attributes by which an <audio> beside it moves the line."""
    left = f"left:{min(start / roll.seconds, 1):.2%}"
    style = f"position:absolute;top:0;bottom:0;border-left:2px solid;{left}"
    line = f'<div class="playhead" aria-hidden="true" style="{style}"></div>'
    data = {"data-seconds": f"{roll.seconds:.3f}", "data-start": f"{start:.3f}"}
    attributes = (f' {k}="{html.escape(v)}"' for k, v in (data | _EVENTS).items())
    return line, "".join(attributes)


def _links(midi: "PrettyMIDI", name: str, has_sound: bool) -> str:
    """Links to a player's music as files. The MP3 is not written into the page twice."""
    buffer = io.BytesIO()
    midi.write(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    link = f'<a style="text-decoration:underline" download="{name}'
    links = f'{link}.mid" href="data:audio/midi;base64,{data}">MIDI</a>'
    if has_sound:
        audio = "this.closest('.tinyperceiver-player').querySelector('audio')"
        click = f'onclick="this.href = {audio}.src"'
        links += f' {link}.mp3" href="#" {click}>MP3</a>'
    return f"download: {links}"


def _svg_roll(roll: _Roll, line: str = "") -> str:
    """The piano roll as an inline SVG, in the colour of the text around it.

    `line` is HTML to lie over the drawing.

    The drawing stretches to the width of the page; the labels lie over it and keep their size.
    """
    width, row = 4000, 10  # units of the drawing: integers save bytes
    bottom = roll.low - (5 if roll.pedal else 0)
    height = (roll.high - bottom + 1) * row

    def x(time: float) -> int:
        return round(width * min(time / roll.seconds, 1))

    def y(pitch: int) -> int:
        return round((roll.high - pitch + 0.5) * row)

    lines = {}  # style -> path: what looks alike is drawn as one
    grid = (
        'stroke="currentColor" stroke-opacity=".2" vector-effect="non-scaling-stroke"'
    )
    steps = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
    step = next((step for step in steps if roll.seconds <= 6 * step), roll.seconds / 6)
    times = [i * step for i in range(7) if i * step <= 0.92 * roll.seconds]
    lines[grid] = "".join(f"M0 {y(pitch)}h{width}" for pitch in _octaves(roll))
    lines[grid] += "".join(f"M{x(time)} 0v{height}" for time in times)
    for start, end, pitch, color, opacity in roll.bars:
        style = (
            f'stroke="{color}" stroke-opacity="{opacity:.1f}" stroke-width="{row - 1}"'
        )
        lines[style] = lines.get(style, "") + f"M{x(start)} {y(pitch)}H{x(end)}"
    style = f'stroke="currentColor" stroke-opacity=".55" stroke-width="{2 * row}"'
    lines[style] = "".join(
        f"M{x(down)} {y(bottom + 1)}H{x(up)}" for down, up in roll.pedal
    )
    if roll.split is not None:
        style = 'stroke="currentColor" stroke-dasharray="5 4" vector-effect="non-scaling-stroke"'
        lines[style] = f"M{x(roll.split)} 0v{height}"
    paths = "".join(f'<path d="{data}" {style}/>' for style, data in lines.items())

    places = [
        (f"left:{time / roll.seconds:.1%};top:100%", f"{time:g} s") for time in times
    ]
    side = "right:calc(100% + .5em);margin-top:-.7em;top:{:.1%}"
    places += [(side.format(y(c) / height), text) for c, text in _octaves(roll).items()]
    if roll.pedal:
        places.append((side.format(y(bottom + 1) / height), "pedal"))
    style = "position:absolute;font-size:.75em;line-height:1.4;white-space:nowrap"
    labels = "".join(
        f'<span aria-hidden="true" style="{style};{place}">{text}</span>'
        for place, text in places
    )
    return (
        f'<div style="position:relative;height:12em;margin:.8em .6em 1.6em 3em">'
        f'<svg role="img" aria-label="{roll.text}" viewBox="0 0 {width} {height}" fill="none" '
        f'preserveAspectRatio="none" style="display:block;width:100%;height:100%">{paths}</svg>'
        f"{labels}{line}</div>"
    )
