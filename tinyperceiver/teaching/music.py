"""What several chapters do with music: short performances, and tokens in words and in time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import (
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
    from pretty_midi import PrettyMIDI

# The kinds of events in the order of their ids, and the first id of each; 388 at the end.
KINDS = ("note on", "note off", "time shift", "velocity")
EDGES = (NOTE_ON, NOTE_OFF, TIME_SHIFT, VELOCITY, NUM_EVENTS)


# Performances


def performance(notes, pedal=()) -> "PrettyMIDI":
    """One piano.

    Args:
        notes: rows of (velocity, pitch, start, end), times in seconds.
        pedal: rows of (value, time) of the sustain pedal; 64 and above is down.
    """
    from pretty_midi import ControlChange, Instrument, Note, PrettyMIDI

    piano = Instrument(program=0)
    piano.notes = [Note(*note) for note in notes]
    piano.control_changes = [ControlChange(64, *change) for change in pedal]
    midi = PrettyMIDI()
    midi.instruments.append(piano)
    return midi


def first_seconds(midi: "PrettyMIDI", seconds: float) -> "PrettyMIDI":
    """The beginning of a piano piece: notes and pedal, cut off at `seconds`."""
    (piano,) = midi.instruments
    return performance(
        [
            (note.velocity, note.pitch, note.start, min(note.end, seconds))
            for note in piano.notes
            if note.start < seconds
        ],
        [
            (change.value, change.time)
            for change in piano.control_changes
            if change.number == 64 and change.time < seconds
        ],
    )


def passage(midi: "PrettyMIDI", begin: float, end: float) -> "PrettyMIDI":
    """The notes of a piano without pedal that start in some seconds, moved to the beginning."""
    (piano,) = midi.instruments
    return performance(
        [
            (note.velocity, note.pitch, note.start - begin, note.end - begin)
            for note in piano.notes
            if begin <= note.start < end
        ]
    )


def melody(pitches: Tensor, seconds: float = 0.24) -> "PrettyMIDI":
    """One note after the other, `seconds` each; pitches (n,)."""
    return performance(
        (80, pitch, i * seconds, (i + 1) * seconds) for i, pitch in enumerate(pitches.tolist())
    )


def pitch_name(pitch: int) -> str:
    """C4 for 60."""
    from pretty_midi import note_number_to_name

    return note_number_to_name(int(pitch))


# Tokens


def kind_of(token: int) -> int:
    """The place of a token's kind in `KINDS`."""
    return sum(token >= first for first in EDGES[1:-1])


def name_of(token: int) -> str:
    """What a token says."""
    if not 0 <= token < NUM_EVENTS:
        special = {PAD: "padding", PERFORMANCE: "start of a performance"}
        return special.get(token, "not in the vocabulary")
    kind = KINDS[kind_of(token)]
    value = int(token) - EDGES[kind_of(token)]
    if kind == "time shift":
        return f"wait {1000 * (value + 1) // STEPS_PER_SECOND} ms"
    if kind == "velocity":
        return f"velocity {VELOCITY_BIN * value}"
    return f"{kind} {pitch_name(value)}"


def times_of(tokens: Sequence[int]) -> np.ndarray:
    """When each token's event happens, or its wait begins, in steps; and the end: (n + 1,)."""
    tokens = np.asarray(tokens)
    is_wait = (tokens >= TIME_SHIFT) & (tokens < VELOCITY)
    waits = np.where(is_wait, tokens - TIME_SHIFT + 1, 0)
    return np.concatenate(([0], np.cumsum(waits)))


class Played(NamedTuple):
    """What tokens play. The notes are in the order in which their keys go down."""

    place: np.ndarray  # of the note-on among the tokens
    start: np.ndarray  # seconds
    end: np.ndarray  # seconds; of a key that is not lifted, the end of the tokens
    pitch: np.ndarray  # MIDI number
    is_open: np.ndarray  # whether the key is not lifted
    clock: np.ndarray  # seconds that have passed before each token, and after all
    is_loose: np.ndarray  # whether a token lifts a key that is not down, per token


def played(tokens: Sequence[int] | np.ndarray) -> Played:
    """Play token ids, (length,), strictly: a key sounds until it is lifted or struck anew.

    `decode_midi` reads as the peer does, which forgives more.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    is_wait = (ids >= TIME_SHIFT) & (ids < VELOCITY)
    steps = np.cumsum(np.where(is_wait, ids - TIME_SHIFT + 1, 0))
    clock = np.concatenate(([0], steps)) / STEPS_PER_SECOND
    place = np.flatnonzero(ids < NOTE_OFF)
    end, is_open = np.full(len(place), clock[-1]), np.ones(len(place), dtype=bool)
    is_loose, down, note = np.zeros(len(ids), dtype=bool), {}, 0
    for t in np.flatnonzero(ids < TIME_SHIFT):
        held = down.pop(ids[t] % 128, None)
        if held is not None:
            end[held], is_open[held] = clock[t], False
        if ids[t] < NOTE_OFF:
            down[ids[t] % 128] = note
            note += 1
        elif held is None:
            is_loose[t] = True
    return Played(place, clock[place], end, ids[place], is_open, clock, is_loose)


def excerpt(
    prompt: Sequence[int],
    new: Sequence[int],
    before: float = 3.0,
    seconds: float | None = None,
) -> dict:
    """The last seconds of a prompt and what comes after it: arguments for `play`.

    seconds: at most so much of what comes after; all of it by default.
    """
    whole = decode_midi([*prompt, *new])
    border = float(played(prompt).clock[-1])
    begin = max(border - before, 0.0)
    end = whole.get_end_time() + 1
    if seconds is not None:
        end = min(end, border + seconds)
    return {"midi": passage(whole, begin, end), "split": border - begin}
