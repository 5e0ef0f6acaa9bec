"""Read the notes and pedals of MIDI files faster, for whole datasets.

`read_midi` spends most of its time on making an object for every event. The functions
here go through the bytes once, and keep only notes and control changes. The result is
that of `read_midi`, in the same order and with the same floats. A file with anything
unusual in it is given to `read_midi`, so its limits and errors hold for all files.
"""

import os
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyperceiver.music.midi import MAX_EVENTS, MAX_SECONDS, MidiReadError, read_midi

__all__ = ["ControlChange", "Note", "Performance", "Player", "read_performance"]

MAX_TICK = 10_000_000  # pretty_midi's
DRUM_CHANNEL = 9
# Kinds of events: status bytes, with the channel in the lower half.
NOTE_ON, POLYPHONIC_PRESSURE, CONTROL, PROGRAM = 0x90, 0xA0, 0xB0, 0xC0
PRESSURE, BEND, META = 0xD0, 0xE0, 0xFF
# Kinds of meta events. Texts may hold any bytes.
TEXTS = {1, 2, 3, 4, 5, 6, 7, 9}
END_OF_TRACK, TEMPO, TIME_SIGNATURE, KEY_SIGNATURE = 0x2F, 0x51, 0x58, 0x59
# Seven flats to seven sharps, major or minor.
KEYS = {bytes([sharps % 256, minor]) for sharps in range(-7, 8) for minor in (0, 1)}
DEFAULT_TEMPO = 500_000  # microseconds per quarter note


class Note(NamedTuple):
    """A note: velocity and pitch 0 ... 127, start and end in seconds."""

    velocity: int
    pitch: int
    start: float
    end: float


class ControlChange(NamedTuple):
    """A pedal or another controller set to a value 0 ... 127, at a time in seconds."""

    number: int
    value: int
    time: float


class Player(NamedTuple):
    """One program on one channel of one track, as pretty_midi's Instrument."""

    program: int
    is_drum: bool
    notes: list[Note]
    control_changes: list[ControlChange]


class Performance(NamedTuple):
    """The parts of a PrettyMIDI that the encoders use."""

    instruments: list[Player]


class _UnusualError(Exception):
    """Raised for a file that only `read_midi` can judge."""


def read_performance(data: bytes) -> Performance:
    """Read notes and control changes of a MIDI file, exactly as `read_midi` lists them.

    Args:
        data: all bytes of the file.

    Returns:
        The performance, with times in seconds.

    Raises:
        MidiReadError: as by `read_midi`, but the message holds no path.
    """
    try:
        return _read_plain(data)
    except (_UnusualError, IndexError):  # the latter: it ends too early
        return _read_unusual(data)


def _read_unusual(data: bytes) -> Performance:
    with tempfile.TemporaryDirectory() as folder:
        path = os.fspath(Path(folder) / "unusual.mid")
        Path(path).write_bytes(data)
        try:
            midi = read_midi(path)
        except MidiReadError as error:
            reason = str(error).removeprefix(f"{path!r} cannot be read as MIDI: ")
            raise MidiReadError(reason) from error
    players = []
    for part in midi.instruments:
        notes = [Note(n.velocity, n.pitch, n.start, n.end) for n in part.notes]
        changes = [
            ControlChange(c.number, c.value, c.time) for c in part.control_changes
        ]
        players.append(Player(int(part.program), part.is_drum, notes, changes))
    return Performance(players)


def _read_plain(data: bytes) -> Performance:
    # So few bytes that they cannot hold more events than read_midi allows.
    if not 14 <= len(data) <= 2 * MAX_EVENTS or data[:8] != b"MThd\0\0\0\x06":
        raise _UnusualError
    _, num_tracks, ticks_per_quarter = struct.unpack_from(">3h", data, 8)
    if num_tracks <= 0 or ticks_per_quarter <= 0:
        raise _UnusualError
    place, players, tempos, last = 14, [], [(0, DEFAULT_TEMPO)], 0
    for track in range(num_tracks):
        name, size = data[place : place + 4], data[place + 4 : place + 8]
        start, place = place + 8, place + 8 + int.from_bytes(size, "big")
        if name != b"MTrk" or start == place:
            raise _UnusualError
        # Only the first track's tempos count.
        found = _read_track(data, start, place, tempos if track == 0 else [])
        players += found[0]
        last = max(last, found[1])
    clock = _make_clock(tempos, ticks_per_quarter)
    if (
        place != len(data)
        or last >= MAX_TICK
        or _seconds([last], clock)[0] > MAX_SECONDS
    ):
        raise _UnusualError
    return Performance([_in_seconds(*player, clock) for player in players])


def _read_track(
    data: bytes, place: int, end: int, tempos: list[tuple[int, int]]
) -> tuple[list[tuple], int]:
    """Return a track's players, with times in ticks, and its last tick.

    Tempos are appended to `tempos`.
    """
    tick, status = 0, 0
    programs = [0] * 16
    players = {}  # by program and channel
    early = {}  # by channel, its control changes from before its first note
    sounding = {}  # by channel and pitch, start and velocity of each note
    while place < end:
        delta = data[place]
        place += 1
        if delta >= 0x80:
            delta, place = _read_long_number(data, place, delta & 0x7F)
        tick += delta
        byte = data[place]
        if byte >= 0x80:
            place += 1
            if byte == META:
                place = _read_meta(data, place, tick, tempos)
                continue
            status = byte
        first = data[place]
        channel = status & 0x0F
        if PROGRAM <= status < BEND:
            place += 1
            second = 0
            if status < PRESSURE:
                programs[channel] = first
        else:
            second = data[place + 1]
            place += 2
        if first | second >= 0x80 or not 0x80 <= status < 0xF0:
            raise _UnusualError

        if status < POLYPHONIC_PRESSURE:
            key = channel << 7 | first
            if status >= NOTE_ON and second:
                sounding.setdefault(key, []).append((tick, second))
                continue
            struck = sounding.pop(key, ())
            for start, velocity in struck:
                if start == tick:
                    continue
                who = programs[channel], channel
                if who not in players:
                    players[who] = [], early.get(channel, [])
                players[who][0].append((velocity, first, start, tick))
            # What was struck at this very tick sounds on, but only if it repeats a key.
            if struck and struck[0][0] != tick == struck[-1][0]:
                sounding[key] = [note for note in struck if note[0] == tick]
        elif CONTROL <= status < PROGRAM or status >= BEND:
            player = players.get((programs[channel], channel))
            # Until a program has notes, they go to all players that have had none.
            changes = player[1] if player else early.setdefault(channel, [])
            if status < PROGRAM:
                changes.append((first, second, tick))
    if place != end:
        raise _UnusualError
    return [(*who, *played) for who, played in players.items()], tick


def _read_long_number(data: bytes, place: int, number: int) -> tuple[int, int]:
    """A number of two to four bytes, of which the first is read, and the place after."""
    for _ in range(3):
        byte = data[place]
        place += 1
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, place
    raise _UnusualError


def _read_meta(
    data: bytes, place: int, tick: int, tempos: list[tuple[int, int]]
) -> int:
    """Return the position after a meta event whose kind is at `place`."""
    kind, size = data[place], data[place + 1]
    end = place + 2 + size
    value = data[place + 2 : end]
    if size >= 0x80 or len(value) < size:
        raise _UnusualError
    if kind == TEMPO and size == 3 and any(value):
        tempos.append((tick, int.from_bytes(value, "big")))
        return end
    is_plain = (
        kind in TEXTS
        or (kind == END_OF_TRACK and size == 0)
        or (kind == TIME_SIGNATURE and size == 4 and value[0] > 0)
        or (kind == KEY_SIGNATURE and size == 2 and value in KEYS)
    )
    if not is_plain:
        raise _UnusualError
    return end


# First tick, its seconds, seconds per tick: of each tempo, (n,).
Clock = tuple[np.ndarray, np.ndarray, np.ndarray]


def _make_clock(tempos: list[tuple[int, int]], ticks_per_quarter: int) -> Clock:
    """Repeat pretty_midi's arithmetic in its order, because another order would round
    differently.
    """
    changes = []
    for tick, tempo in tempos:
        scale = 60.0 / ((6e7 / tempo) * ticks_per_quarter)
        if tick == 0:
            changes = [(0, 0.0, scale)]
        elif scale != changes[-1][2]:
            start, seconds, before = changes[-1]
            changes.append((tick, seconds + before * (tick - start), scale))
    ticks, seconds, scales = map(np.array, zip(*changes, strict=True))
    return ticks, seconds, scales


def _seconds(ticks: list[int] | tuple[int, ...], clock: Clock) -> list[float]:
    start, seconds, scale = clock
    ticks = np.array(ticks)
    tempo = np.searchsorted(start, ticks, side="right") - 1
    return (seconds[tempo] + scale[tempo] * (ticks - start[tempo])).tolist()


def _in_seconds(
    program: int, channel: int, notes: list[tuple], changes: list[tuple], clock: Clock
) -> Player:
    velocity, pitch, start, end = zip(*notes, strict=True)
    times = zip(
        velocity, pitch, _seconds(start, clock), _seconds(end, clock), strict=True
    )
    notes = list(map(Note._make, times))
    if changes:
        number, value, tick = zip(*changes, strict=True)
        times = zip(number, value, _seconds(tick, clock), strict=True)
        changes = list(map(ControlChange._make, times))
    return Player(program, channel == DRUM_CHANNEL, notes, changes)
