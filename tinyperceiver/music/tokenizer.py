"""Piano performances as token ids, and back.

The vocabulary (Huang et al. 2019, appendix A.2, after Oore et al. 2018):

    0-127    note on, by MIDI pitch
    128-255  note off, by MIDI pitch
    256-355  time shift of 10 ms ... 1 s
    356-387  velocity of the notes to come, in 32 bins of 4
    388      padding, no event
    389      opens a sequence of `encode_performance`, never of `encode_midi`

Two encoders share it. `encode_midi` does exactly what was done to the data of the
released model, its quirks included; `encode_performance` does what the papers describe,
for models trained anew.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.midi import instruments_of, join_notes
from tinyperceiver.music.pedal import hold_by_pedal, hold_by_peer_pedal
from tinyperceiver.music.vocabulary import (
    LONGEST_SHIFT,
    MAX_NOTES,
    NOTE_OFF,
    NOTE_ON,
    NUM_EVENTS,
    PAD,
    PERFORMANCE,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
    VELOCITY_BIN,
)

if TYPE_CHECKING:
    import torch
    from pretty_midi import Note, PrettyMIDI

__all__ = ["decode_midi", "decode_notes", "encode_midi", "encode_performance"]

log = logging.getLogger(__name__)


def encode_midi(midi: "PrettyMIDI") -> list[int]:
    """Encode a performance exactly as in the released model's training data.

    The model has learnt the quirks of this encoding, so they must stay: nearly every
    note has its own velocity token; the gaps between events are rounded, so that errors
    add up; notes after the last pedal are dropped; if no note starts after a pedal, the
    next pedal repeats its notes.

    Args:
        midi: any number of instruments, all merged, drums too; it is not changed.

    Returns:
        Token ids 0 ... 387.

    Raises:
        ValueError: a note or pedal that is not MIDI (pitch or velocity outside 0 ...
            127, a time that is negative or without end), or pedals that repeat the
            notes without bound.
        TypeError: `midi` is a path, or something else than music.
    """
    parts, room = [], MAX_NOTES
    for instrument in instruments_of(midi):
        parts.append(hold_by_peer_pedal(instrument, room))
        room -= len(parts[-1][0])
    start, end, pitch, velocity = join_notes(parts)
    by_start = np.argsort(start, kind="stable")
    time = np.stack((start, end), axis=1)[by_start].ravel()  # on, off, on, off, ...
    by_time = np.argsort(time, kind="stable")
    note, is_off = by_start[by_time >> 1], (by_time & 1).astype(bool)

    gap = np.diff(time[by_time], prepend=0.0)
    steps = np.rint(gap * STEPS_PER_SECOND).astype(np.int64)  # half to even
    velocity = velocity[note].astype(np.int64)
    # A note-off counts as -1, which equals no bin.
    previous = np.concatenate(([0], np.where(is_off, -1, velocity)))[:-1]
    # The peer's slip, kept: it compares a bin with a raw velocity.
    has_velocity = ~is_off & (velocity // VELOCITY_BIN != previous)
    return write_tokens(steps, is_off, pitch[note], velocity, has_velocity)


def decode_midi(tokens: "Sequence[int] | np.ndarray | torch.Tensor") -> "PrettyMIDI":
    """Decode tokens to a performance of one piano, without pedal.

    Tokens of `encode_midi` are read as the released model's library reads them:
    velocity is 4 times the bin, and 0 before the first velocity token; a note-off keeps
    its note-on, so that a second note-off yields a second note. Tokens of
    `encode_performance` begin with 389, and are read by cleaner rules: velocity is the
    middle of the bin, and a note-off ends its note. Both ways, notes without end or
    length are left out, and note-offs without a note are skipped and counted in the
    log.

    Args:
        tokens: ids 0 ... 387, (n,), of any integer type; the first may be 389.

    Returns:
        A `pretty_midi.PrettyMIDI` with one instrument, its notes sorted by start.

    Raises:
        ValueError: a token is not a MIDI event (named with its index), or the shape or
            type is not that of token ids.
    """
    from pretty_midi import Instrument, PrettyMIDI

    piano = Instrument(program=1)
    notes = decode_notes(_check_tokens(tokens))
    piano.notes = sorted(notes, key=lambda note: note.start)
    midi = PrettyMIDI()
    midi.instruments.append(piano)
    return midi


def decode_notes(tokens: Iterable[int]) -> "Iterator[Note]":
    """Decode tokens note by note, each as soon as the token that ends it has come.

    Use it for tokens that are still being generated, such as those of
    `PerceiverAR.stream`: you can hear a note while the next one is chosen. The notes
    are those of `decode_midi`.

    Args:
        tokens: ids 0 ... 387, of any integer type; the first may be 389.

    Yields:
        `pretty_midi.Note`, in the order of their ends, with times in seconds from the
        first token on.

    Raises:
        ValueError: a token is not a MIDI event; the notes before it were yielded.
    """
    from pretty_midi import Note

    by_paper, struck, time, velocity, unmatched = False, {}, 0.0, 0, 0
    for place, token in enumerate(tokens):
        if place == 0 and token == PERFORMANCE:
            by_paper = True
        elif not 0 <= token < NUM_EVENTS:
            raise ValueError(
                f"token {token} at place {place} is not a MIDI event: those are "
                f"0 ... {NUM_EVENTS - 1} ({PAD} is padding)"
            )
        elif token < NOTE_OFF:
            struck[int(token)] = time, velocity
        elif token < TIME_SHIFT:
            pitch = int(token) - NOTE_OFF
            if pitch not in struck:
                unmatched += 1
                continue
            start, loudness = struck.pop(pitch) if by_paper else struck[pitch]
            if time > start:
                yield Note(loudness, pitch, start, time)
        elif token < VELOCITY:
            time += (int(token) - TIME_SHIFT + 1) / STEPS_PER_SECOND
            if by_paper:  # stay on the grid
                time = round(time * STEPS_PER_SECOND) / STEPS_PER_SECOND
        else:
            middle = VELOCITY_BIN // 2 if by_paper else 0
            velocity = VELOCITY_BIN * (int(token) - VELOCITY) + middle
    if unmatched:
        log.info("skipped %d note-offs without a note-on", unmatched)


def _check_tokens(tokens) -> list[int]:
    if hasattr(tokens, "cpu"):
        tokens = tokens.cpu()  # a tensor on an accelerator
    ids = np.asarray(tokens)
    if ids.size == 0:
        return []
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"tokens must be integers in one dimension, not {ids.dtype} of shape "
            f"{ids.shape}; decode the rows of a batch one by one"
        )
    return ids.tolist()


def write_tokens(
    steps: np.ndarray,
    is_off: np.ndarray,
    pitch: np.ndarray,
    velocity: np.ndarray,
    has_velocity: np.ndarray,
) -> list[int]:
    """Write events as tokens: shifts over `steps`, the velocity if any, the key."""
    longest, rest = np.divmod(steps, LONGEST_SHIFT)
    # The place after each event's tokens.
    after = np.cumsum(longest + (rest > 0) + has_velocity + 1)
    # The longest shift, where nothing else comes to stand.
    tokens = np.full(after[-1] if len(after) else 0, VELOCITY - 1)
    tokens[after - 1] = pitch + np.where(is_off, NOTE_OFF, NOTE_ON)
    tokens[(after - 2)[has_velocity]] = (
        VELOCITY + velocity[has_velocity] // VELOCITY_BIN
    )
    has_rest = rest > 0
    tokens[(after - 2 - has_velocity)[has_rest]] = TIME_SHIFT - 1 + rest[has_rest]
    return tokens.tolist()


def encode_performance(midi: "PrettyMIDI") -> list[int]:
    """Encode a performance as in Huang et al. 2019, appendix A.2, for new models.

    Every note is written once. Times are rounded to the grid of steps before gaps are
    computed, so errors do not add up. A velocity token is written only when the bin
    changes. A key released while the sustain pedal is down sounds until the pedal goes
    up or the key is struck again, and every note lasts at least one step. Notes of one
    key that start in the same step are merged. Drums are left out.

    Args:
        midi: any number of instruments, all merged; it is not changed.

    Returns:
        Token ids. The first is 389, which tells `decode_midi` the encoding. The
        released model refuses this token, so the two encodings cannot be mixed up.

    Raises:
        ValueError: a note or pedal that is not MIDI, as in `encode_midi`.
        TypeError: as by `encode_midi`.
    """
    start, end, pitch, velocity = join_notes(
        hold_by_pedal(instrument)
        for instrument in instruments_of(midi)
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
