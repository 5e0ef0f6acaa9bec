"""From notes to samples: FluidSynth, or a synthesizer that needs no system library."""

import ctypes
import functools
import importlib
import io
import os
from bisect import bisect_left
from contextlib import closing, redirect_stdout
from ctypes.util import find_library
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.music.midi import SUSTAIN_PEDAL, instruments_of
from tinyperceiver.music.pedal_intervals import pedal_intervals

if TYPE_CHECKING:
    from pretty_midi import Instrument, PrettyMIDI

__all__ = [
    "MAX_SECONDS",
    "RenderError",
    "SoundFontError",
    "SynthesizerNotFoundError",
    "has_synthesizer",
    "open_piano",
    "render",
    "synthesizer",
]

MAX_SECONDS = 7200  # longest music rendered: at 44.1 kHz its samples take 1.3 GB
TAIL = 1.0  # seconds of sound after the last note has ended: release and reverberation
PEAK = 10 ** (-1 / 20)  # -1 dB of full scale: an MP3 decoder may overshoot the original


class SynthesizerNotFoundError(TinyperceiverError, RuntimeError):
    """Raised if neither FluidSynth nor TinySoundFont is installed."""


class RenderError(TinyperceiverError, ValueError):
    """Music that cannot be rendered. Names the note and the reason."""


class SoundFontError(RenderError, OSError):
    """A sound font is missing or cannot be played. Names the file and the reason."""


@functools.cache
def synthesizer() -> str:
    """Return which synthesizer `render` uses: "fluidsynth" or "tinysoundfont".

    It is looked up once. FluidSynth consists of the package pyfluidsynth and a system
    library, and needs both.

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


def has_synthesizer() -> bool:
    """Whether `render` can make a sound here."""
    try:
        synthesizer()
    except SynthesizerNotFoundError:
        return False
    return True


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
    soundfont: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Render music as samples.

    The loudest sample is at -1 dB of full scale, whatever the velocities are, so only
    differences within the music are heard. The same input gives the same samples, but
    the two synthesizers differ from each other.

    Args:
        midi: notes, sustain pedal, other controllers and pitch bends are heard; it is not
            changed. Programs that the sound font lacks are played with its first one.
        sample_rate: in Hz, 8,000 to 96,000.
        soundfont: path of an .sf2 file; None for TimGM6mb.sf2, which comes with pretty_midi.

    Returns:
        Samples, float32, (N,): up to a second after the last note; (0,) for music without notes.

    Raises:
        RenderError: a note that is not MIDI, or more than `MAX_SECONDS`.
        SoundFontError: no such sound font, or it cannot be played.
        ValueError: a bad sample rate.
        SynthesizerNotFoundError: no synthesizer is installed.
        TypeError: `midi` is a path, or something else than music.
    """
    if sample_rate not in range(8000, 96_001):
        raise ValueError(
            f"sample_rate must be an integer in 8000..96000 Hz, not {sample_rate!r}"
        )
    sample_rate, path = int(sample_rate), _check_soundfont(soundfont)
    sounding = [(part, _sounding_notes(part)) for part in instruments_of(midi)]
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
    """Open a piano that is played key by key, while the music is still being generated.

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
        raise SoundFontError(
            f"{synthesizer()} cannot read the sound font {synth.path}: damaged?"
        )
    channel, bank = (9, 128) if part.is_drum else (0, 0)
    choices = ((bank, part.program), (bank, 0), (0, 0))
    if not any(synth.select(channel, *choice) for choice in choices):
        raise SoundFontError(
            f"{synth.path} holds neither program {part.program} nor program 0"
        )

    # At the same time: ends, then controllers, then starts, or a repeated note would end at once.
    events = [(end, 0, synth.off, pitch) for _, end, pitch, _ in notes]
    events += [(bend.time, 1, synth.bend, bend.pitch) for bend in part.pitch_bends]
    events += [
        (change.time, 1, synth.control, change.number, change.value)
        for change in part.control_changes
        # In the notes already: TinySoundFont does not know it.
        if change.number != SUSTAIN_PEDAL
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
    pedal = pedal_intervals(part)
    downs = [down for down, _ in pedal]
    notes, struck = [], {}  # pitch -> when it is struck next
    for note in sorted(part.notes, key=lambda note: note.start, reverse=True):
        if not 0 <= note.start <= note.end <= MAX_SECONDS:
            raise RenderError(
                f"{note}: notes must start at 0 s or later, end no earlier than they start, and "
                f"end by {MAX_SECONDS} s: cut longer music into pieces"
            )
        if not (0 <= note.pitch <= 127 and 0 <= note.velocity <= 127):
            raise RenderError(f"{note}: pitch and velocity must be in 0..127")
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


def _check_soundfont(soundfont: str | os.PathLike[str] | None) -> str:
    """The path of a file that begins like a sound font and is as long as it says."""
    import pretty_midi

    path = Path(soundfont or Path(pretty_midi.__file__).parent / "TimGM6mb.sf2")
    if not path.is_file():
        raise SoundFontError(f"no sound font at {path}: give the path of an .sf2 file")
    with path.open("rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"sfbk":
        raise SoundFontError(
            f"{path} is not a sound font: it does not begin as an .sf2 file does"
        )
    expected, found = 8 + int.from_bytes(header[4:8], "little"), path.stat().st_size
    if found < expected:
        raise SoundFontError(
            f"{path} is cut off: {found} of {expected} bytes; download it again"
        )
    return str(path)
