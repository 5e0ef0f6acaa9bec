"""A cleaner encoding in the same vocabulary, for models that are trained anew."""

from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.midi import join_notes
from tinyperceiver.pedal import hold_by_pedal
from tinyperceiver.tokenizer import (
    PERFORMANCE,
    STEPS_PER_SECOND,
    VELOCITY_BIN,
    write_tokens,
)

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["encode_performance"]


def encode_performance(midi: "PrettyMIDI") -> list[int]:
    """Tokens of a performance as in Huang et al. 2019, appendix A.2, for new models.

    Every key struck comes once. Times are rounded to the grid of steps before gaps are
    taken, so that nothing drifts; a velocity token comes only when the bin changes. A
    key released while the sustain pedal is down sounds until the pedal goes up or the
    key is struck again, and any key for at least one step. Strokes of one key that
    round to the same step merge. Drums are left out.

    Args:
        midi: any number of instruments, all merged; left as it is.

    Returns:
        Token ids; the first is 389, by which `decode_midi` knows them and the released
        model refuses them, so that the two encodings cannot be taken for each other.

    Raises:
        ValueError: a note or pedal that is not MIDI, as in `encode_midi`.
    """
    start, end, pitch, velocity = join_notes(
        hold_by_pedal(instrument)
        for instrument in midi.instruments
        if not instrument.is_drum
    )
    on, off = (
        np.rint(time * STEPS_PER_SECOND).astype(np.int64) for time in (start, end)
    )
    order = np.lexsort((on, pitch))
    on, off, pitch, velocity = (part[order] for part in (on, off, pitch, velocity))
    is_stroke = np.ones(len(on), dtype=bool)
    is_stroke[1:] = (pitch[1:] != pitch[:-1]) | (on[1:] != on[:-1])
    if not is_stroke.all():  # the longest and the loudest of what one stroke becomes
        first = np.flatnonzero(is_stroke)
        off = np.maximum.reduceat(off, first)
        velocity = np.maximum.reduceat(velocity, first)
        on, pitch = on[first], pitch[first]
    off = np.maximum(off, on + 1)
    same_key = pitch[1:] == pitch[:-1]
    off[:-1][same_key] = np.minimum(off[:-1], on[1:])[same_key]

    time = np.concatenate((on, off))
    is_off = np.arange(len(time)) >= len(on)
    pitch, velocity = np.tile(pitch, 2), np.tile(velocity, 2).astype(np.int64)
    # At one step, keys go up before keys go down.
    order = np.lexsort((pitch, ~is_off, time))
    time, is_off, pitch, velocity = (
        part[order] for part in (time, is_off, pitch, velocity)
    )
    has_velocity = ~is_off
    has_velocity[~is_off] = np.diff(velocity[~is_off] // VELOCITY_BIN, prepend=-1) != 0
    steps = np.diff(time, prepend=0)
    return [PERFORMANCE, *write_tokens(steps, is_off, pitch, velocity, has_velocity)]
