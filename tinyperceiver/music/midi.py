"""Read MIDI files safely, and turn an instrument's notes into arrays."""

import io
import os
import re
import stat
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.files.errors import TinyperceiverError

if TYPE_CHECKING:
    from pretty_midi import Instrument, PrettyMIDI

__all__ = [
    "MAX_BYTES",
    "MAX_EVENTS",
    "MAX_NOTE_SECONDS",
    "MAX_SECONDS",
    "PEDAL_DOWN",
    "SUSTAIN_PEDAL",
    "MidiReadError",
    "Notes",
    "instruments_of",
    "join_notes",
    "notes_of",
    "read_midi",
]

MAX_BYTES = 4_000_000
MAX_EVENTS = 500_000  # the longest of GiantMIDI-Piano's 10,855 files has 115,481 notes
MAX_SECONDS = 4 * 3600  # of a file
MAX_NOTE_SECONDS = 1_000_000  # of a note that did not come from a file
SUSTAIN_PEDAL, PEDAL_DOWN = 64, 64  # controller number; least value that is down

# Start and end in seconds, pitch, velocity of n notes: (n,) each.
Notes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class MidiReadError(TinyperceiverError, ValueError):
    """Raised for files that are not MIDI or too large; names file and reason."""


class _CountedFile(io.BytesIO):
    """Stop the reader after MAX_EVENTS events: mido calls `tell` before each event."""

    events = 0

    def tell(self) -> int:
        self.events += 1
        if self.events > MAX_EVENTS:
            raise ValueError(f"more than {MAX_EVENTS:,} events")
        return super().tell()


def read_midi(path: str | os.PathLike) -> "PrettyMIDI":
    """Read a MIDI file, with limits on its size.

    Args:
        path: a standard MIDI file of at most 4 MB, 500,000 events and 4 hours.

    Returns:
        The performance, with times in seconds.

    Raises:
        MidiReadError: the file cannot be read, is not MIDI, or exceeds a limit.
    """
    import mido
    from pretty_midi import PrettyMIDI

    # What damaged files raise in the two libraries. A TypeError or AttributeError is a
    # mistake in a program, and no file is to blame for it.
    damage = (OSError, ValueError, EOFError, LookupError, ArithmeticError)
    damage += (mido.KeySignatureError,)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a regular file")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        if not data.startswith(b"MThd"):
            raise ValueError("it does not start with 'MThd' as MIDI files do")
        if re.search(rb"[\x80-\xff]{2000}", data):
            # A number has at most 4 such bytes; mido would read on, in quadratic time.
            raise ValueError(
                "a number without end (2,000 bytes that say: more to come)"
            )
        parsed = mido.MidiFile(file=_CountedFile(data))
        if not any(parsed.tracks):
            raise ValueError("it has no events")
        for track in parsed.tracks:
            if not track:  # pretty_midi asks each track for its last event
                track.append(mido.MetaMessage("end_of_track"))
        if parsed.ticks_per_beat <= 0:
            raise ValueError(
                f"{parsed.ticks_per_beat} ticks per quarter note; SMPTE is unknown"
            )
        midi = PrettyMIDI(mido_object=parsed)
        if (seconds := midi.get_end_time()) > MAX_SECONDS:
            raise ValueError(f"{seconds:,.0f} seconds long, more than {MAX_SECONDS:,}")
    except damage as error:
        reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
        if not isinstance(error, (OSError, ValueError, EOFError)):
            reason = f"a damaged event ({type(error).__name__}: {error})"
        reason = textwrap.shorten(reason, 300)
        raise MidiReadError(
            f"{os.fspath(path)!r} cannot be read as MIDI: {reason}"
        ) from error
    return midi


def instruments_of(midi: "PrettyMIDI") -> "list[Instrument]":
    """The instruments of a performance.

    Raises:
        TypeError: it is something else, such as the path of a file that was not read.
    """
    if hasattr(midi, "instruments"):
        return midi.instruments
    if isinstance(midi, (str, os.PathLike)):
        path = os.fspath(midi)
        raise TypeError(
            f"music must be a PrettyMIDI, not a path: pass read_midi({path!r})"
        )
    raise TypeError(f"music must be a PrettyMIDI, not {type(midi).__name__}")


def notes_of(instrument: "Instrument") -> Notes:
    """Return the notes of an instrument as four arrays, in the order of its list.

    Returns:
        Starts and ends in seconds, pitches and velocities, each (n,).

    Raises:
        ValueError: a note is not MIDI; the message names the note and the field.
    """
    notes = instrument.notes
    try:
        start = np.fromiter([note.start for note in notes], np.float64, len(notes))
        end = np.fromiter([note.end for note in notes], np.float64, len(notes))
        pitch = np.frombuffer(bytes([note.pitch for note in notes]), np.uint8)
        velocity = np.frombuffer(bytes([note.velocity for note in notes]), np.uint8)
    except (TypeError, ValueError) as error:  # bytes() takes integers 0 ... 255 alone
        raise ValueError(_fault_of(notes) or f"a note is not MIDI: {error}") from error
    fields = (
        (start, MAX_NOTE_SECONDS),
        (end, MAX_NOTE_SECONDS),
        (pitch, 127),
        (velocity, 127),
    )
    # Comparisons with NaN are false.
    if not all(
        v.min(initial=0) >= 0 and v.max(initial=0) <= limit for v, limit in fields
    ):
        raise ValueError(_fault_of(notes))
    return start, end, pitch, velocity


def _fault_of(notes: list) -> str | None:
    """Say what is wrong with the first note that is not MIDI."""
    limits = {
        "start": MAX_NOTE_SECONDS,
        "end": MAX_NOTE_SECONDS,
        "pitch": 127,
        "velocity": 127,
    }
    for place, note in enumerate(notes):
        for name, limit in limits.items():
            value = getattr(note, name)
            whole = limit == 127
            kinds = (int, np.integer) if whole else (int, float, np.number)
            if not (isinstance(value, kinds) and 0 <= value <= limit):
                allowed = f"{'an integer' if whole else 'a number'} in 0 ... {limit:,}"
                return f"note {place} is not MIDI: its {name} is {value}, not {allowed}"
    return None


def join_notes(instruments: Iterable[Notes]) -> Notes:
    """The notes of all instruments, one instrument after the other."""
    nothing = (np.empty(0), np.empty(0), np.empty(0, np.uint8), np.empty(0, np.uint8))
    return tuple(
        np.concatenate(parts) for parts in zip(nothing, *instruments, strict=True)
    )
