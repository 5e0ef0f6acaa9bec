"""The sustain pedal, which has no token: notes that it holds become longer."""

from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.midi import (
    MAX_NOTE_SECONDS,
    PEDAL_DOWN,
    SUSTAIN_PEDAL,
    MidiReadError,
    Notes,
    notes_of,
)

if TYPE_CHECKING:
    from pretty_midi import Instrument

__all__ = ["hold_by_pedal", "hold_by_peer_pedal"]


def hold_by_peer_pedal(instrument: "Instrument", most: int) -> Notes:
    """Lengthen notes by the sustain pedal as in the released model's training data.

    The function goes through the pedals in turn. For each pedal it goes through the
    notes as listed, from the note at which the pedal before it stopped. A pedal stops
    at the first note that starts after its end. It then holds the notes that started
    within it: each to the next start of its pitch, else to the pedal's end, or to its
    own end if that is later. A pedal that finds no such note holds nothing, and the
    next pedal goes through its notes again. If the last pedal stops, the notes from
    there on are dropped.

    Args:
        instrument: its notes and control changes.
        most: the largest number of notes that is accepted.

    Returns:
        Starts and ends in seconds, pitches and velocities, each (n,).

    Raises:
        ValueError: a note is not MIDI, or the pedals make more than `most` notes.
    """
    start, end, pitch, velocity = notes = notes_of(instrument)
    pedals = _peer_pedals(instrument)
    if not (len(start) and len(pedals)):
        return notes
    down, up = pedals.T
    # Events out of order make pedals that end before they begin. Those stop at what
    # starts within.
    bound = np.where(up >= down, up, np.nextafter(down, -np.inf))
    reach = np.searchsorted(np.maximum.accumulate(start), bound, side="right")
    stops = reach < len(start)
    upto = np.maximum.accumulate(np.where(stops, reach, 0))
    first = np.concatenate(([0], upto[:-1]))
    # How many notes each pedal goes through.
    visits = np.where(stops, upto, len(start)) - first
    if (total := int(visits.sum())) > most:
        raise MidiReadError(
            f"the pedal would turn {len(start):,} notes into {total:,}, and at most "
            f"{most:,} are allowed: the file is probably damaged"
        )
    pedal = np.repeat(np.arange(len(pedals)), visits)
    note = np.arange(total) - np.repeat(np.cumsum(visits) - visits - first, visits)

    is_within = start[note] >= down[pedal]
    held = np.flatnonzero(is_within & stops[pedal])
    # By pitch, then as listed.
    held = held[np.argsort(pitch[note[held]], kind="stable")]
    note_held, by = note[held], pedal[held]
    key = pitch[note_held]
    again = np.flatnonzero((key[1:] == key[:-1]) & (by[1:] == by[:-1]))
    end[note_held] = np.maximum(up[by], end[note_held])
    end[note_held[again]] = start[note_held[again + 1]]

    note = np.concatenate((note[~is_within], note[is_within]))
    return start[note], end[note], pitch[note], velocity[note]


def _peer_pedals(instrument: "Instrument") -> np.ndarray:
    """Return down and up of each pedal in seconds, (p, 2), from events as listed."""
    pedals, down = [], None
    for change in instrument.control_changes:
        if change.number != SUSTAIN_PEDAL:
            continue
        if change.value >= PEDAL_DOWN:
            down = change.time if down is None else down
        elif down is not None:
            pedals.append([down, change.time])
            down = None
        elif pedals:
            pedals[-1][1] = change.time
    pedals = np.array(pedals, dtype=np.float64).reshape(-1, 2)
    if not (np.abs(pedals) <= MAX_NOTE_SECONDS).all():
        raise ValueError(
            f"a pedal's time is not a number of at most {MAX_NOTE_SECONDS:,} seconds"
        )
    return pedals


def hold_by_pedal(instrument: "Instrument") -> Notes:
    """Lengthen notes that end while the pedal is down, up to where the pedal goes up.

    No note is held beyond the end of the last key, because a file may end with the
    pedal down.
    """
    start, end, pitch, velocity = notes = notes_of(instrument)
    changes = [c for c in instrument.control_changes if c.number == SUSTAIN_PEDAL]
    if not (len(start) and changes):
        return notes
    time = np.array([change.time for change in changes])
    if not (np.abs(time) <= MAX_NOTE_SECONDS).all():
        raise ValueError(
            f"a pedal's time is not a number of at most {MAX_NOTE_SECONDS:,} seconds"
        )
    order = np.argsort(time, kind="stable")
    is_down = np.array([change.value >= PEDAL_DOWN for change in changes])
    time, is_down = time[order], is_down[order]
    goes_up = np.where(is_down, np.inf, time)
    goes_up = np.minimum.accumulate(goes_up[::-1])[::-1]  # at or after each change
    # Changes up to the end of each note.
    last = np.searchsorted(time, end, side="right")
    is_held = np.append(False, is_down)[last]  # False: before any change
    held_to = np.minimum(goes_up[np.maximum(last - 1, 0)], end.max())
    return start, np.where(is_held, held_to, end), pitch, velocity
