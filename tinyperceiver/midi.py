"""The one door through which MIDI files come in."""

import io
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["MidiReadError", "read_midi"]

MAX_BYTES = 8_000_000
MAX_EVENTS = 500_000  # the longest of GiantMIDI-Piano's 10,855 files has 115,481 notes
MAX_SECONDS = 4 * 3600


class MidiReadError(ValueError):
    """A file that is not MIDI, or more than a performance can be. Names the file and the reason."""


class _CountedFile(io.BytesIO):
    """A file that stops its reader after MAX_EVENTS events: mido asks for the place before each."""

    events = 0

    def tell(self) -> int:
        self.events += 1
        if self.events > MAX_EVENTS:
            raise ValueError(f"more than {MAX_EVENTS:,} events")
        return super().tell()


def read_midi(path: str | os.PathLike) -> "PrettyMIDI":
    """Read a MIDI file, whatever is in it.

    Args:
        path: a standard MIDI file of at most 8 MB, 500,000 events and 4 hours.

    Raises:
        MidiReadError: the file cannot be read, is not MIDI, or exceeds a bound.
    """
    import mido
    from pretty_midi import PrettyMIDI

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a regular file")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        if not data.startswith(b"MThd"):
            raise ValueError("it does not start with 'MThd' as MIDI files do")
        if re.search(rb"[\x80-\xff]{1000}", data):
            # A number has at most 4 such bytes; mido would read on, in quadratic time.
            raise ValueError("a number without end (1,000 bytes of continuation)")
        parsed = mido.MidiFile(file=_CountedFile(data))
        if not any(parsed.tracks):
            raise ValueError("it has no events")
        if parsed.ticks_per_beat <= 0:
            raise ValueError(f"{parsed.ticks_per_beat} ticks per quarter note; SMPTE is unknown")
        midi = PrettyMIDI(mido_object=parsed)
        if (seconds := midi.get_end_time()) > MAX_SECONDS:
            raise ValueError(f"{seconds:,.0f} seconds long, more than {MAX_SECONDS:,}")
    except Exception as error:  # the readers raise eight kinds, bare Exception among them
        reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
        if not isinstance(error, (OSError, ValueError, EOFError)):
            reason = f"a damaged event ({type(error).__name__}: {error})"
        raise MidiReadError(f"{os.fspath(path)!r} cannot be read as MIDI: {reason}") from error
    return midi
