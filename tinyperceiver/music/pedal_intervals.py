"""When the sustain pedal is down, for the synthesizer and for pictures.

`hold_by_pedal` needs no intervals: it looks up only what the ends of notes need. Chapter 1
compares its notes with those of the synthesizer.
"""

from typing import TYPE_CHECKING

from tinyperceiver.music.midi import PEDAL_DOWN, SUSTAIN_PEDAL

if TYPE_CHECKING:
    from pretty_midi import Instrument

__all__ = ["pedal_intervals"]


def pedal_intervals(part: "Instrument") -> list[tuple[float, float]]:
    """Return (down, up) in seconds for each time that the sustain pedal is pressed.

    A pedal that never goes up is lifted at the end of the last note.

    Args:
        part: its notes and control changes, which may be in any order.

    Returns:
        One pair for each press, by time; no two overlap.
    """
    intervals, down = [], None
    changes = (
        change for change in part.control_changes if change.number == SUSTAIN_PEDAL
    )
    for change in sorted(changes, key=lambda change: change.time):
        if change.value >= PEDAL_DOWN and down is None:
            down = change.time
        elif change.value < PEDAL_DOWN and down is not None:
            intervals.append((down, change.time))
            down = None
    last = max((note.end for note in part.notes), default=0)
    if down is not None and down < last:
        intervals.append((down, last))
    return intervals
