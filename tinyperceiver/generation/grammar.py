"""Which tokens can come next in music that can be played."""

from collections.abc import Sequence

import numpy as np

from tinyperceiver.music.vocabulary import (
    NOTE_OFF,
    NUM_EVENTS,
    PERFORMANCE,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
)

__all__ = ["Grammar"]

MAX_SILENCE = 10  # seconds without a key struck or released that a grammar allows


class Grammar:
    """Which events may come next, row by row, if all that is written shall be playable.

    A key that is down can't be struck, one that is up can't be released, and none is
    released in the instant in which it was struck. A velocity is followed by a stroke,
    and no stroke has velocity 0, which would be no sound: neither the softest velocity
    token may come, which `decode_midi` reads as 0, nor a stroke before any velocity
    (after a first token 389 the softest sounds). At most `MAX_SILENCE` seconds pass
    without a key struck or released. Something is always allowed. What was read before
    may be anything: real music, as the released model's encoder writes it, breaks the
    first two rules once in 300 tokens.

    Args:
        rows: B.
        vocab_size: V; ids from 388 on are never allowed.
    """

    def __init__(self, rows: int = 1, vocab_size: int = NUM_EVENTS + 1) -> None:
        if vocab_size < NUM_EVENTS:
            raise ValueError(
                f"a grammar needs the {NUM_EVENTS} MIDI events, not a vocabulary of "
                f"{vocab_size}"
            )
        self.allowed = np.zeros((rows, vocab_size), dtype=bool)  # (B, V)
        self.is_down = np.zeros((rows, NOTE_OFF), dtype=bool)  # (B, 128)
        self.is_new = np.zeros((rows, NOTE_OFF), dtype=bool)  # struck in this instant
        self.silence = [0] * rows  # steps since a key was struck or released
        self.softest = [VELOCITY + 1] * rows  # the first velocity token that sounds
        self.is_mute = [True] * rows  # a key struck now would have velocity 0
        for row in range(rows):
            self._allow(row, TIME_SHIFT)

    def read(self, row: int, tokens: Sequence[int]) -> None:
        """Follow what a row has: `allowed[row]` is then what may come next."""
        for token in tokens:
            if token < TIME_SHIFT:
                key = token % NOTE_OFF
                self.is_down[row, key] = self.is_new[row, key] = token < NOTE_OFF
                self.silence[row] = 0
            elif token < VELOCITY:
                self.is_new[row] = False
                self.silence[row] += token - TIME_SHIFT + 1
            elif token < NUM_EVENTS:
                self.is_mute[row] = token < self.softest[row]
            elif token == PERFORMANCE:
                self.softest[row] = VELOCITY
        if len(tokens):
            self._allow(row, tokens[-1])

    def _allow(self, row: int, last: int) -> None:
        allowed, is_down = self.allowed[row], self.is_down[row]
        allowed[:] = False
        allowed[:NOTE_OFF] = ~is_down & (not self.is_mute[row])
        if VELOCITY <= last < NUM_EVENTS and allowed.any():
            return  # now a stroke
        allowed[NOTE_OFF:TIME_SHIFT] = is_down & ~self.is_new[row]
        left = MAX_SILENCE * STEPS_PER_SECOND - self.silence[row]
        allowed[TIME_SHIFT : TIME_SHIFT + min(max(left, 0), VELOCITY - TIME_SHIFT)] = (
            True
        )
        allowed[self.softest[row] : NUM_EVENTS] = not is_down.all()
