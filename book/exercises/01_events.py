"""Exercises of chapter 1."""

import numpy as np

from tinyperceiver.teaching.events import (
    check_compose,
    check_cut_at_restrike,
    check_most_at_once,
    check_write_number,
)


# %% write_number: The other way round
# `read_number` reads a variable-length number. Write one: `write_number(value)` gets an integer
# from 0 to 268,435,455, in ticks, and returns its one to four `bytes`, no more than needed. 240
# becomes `b"\x81\x70"`.
# %% stub
def write_number(value):
    pass  # your code


# %% check
check_write_number(write_number)


# %% solution
def write_number(value):
    digits = [value & 127]  # the last byte: its first bit is 0
    while value := value >> 7:
        digits.append(value & 127 | 128)  # 128: more follow
    return bytes(reversed(digits))


# %% mistake: the wrong way round
def write_number(value):
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127 | 128)
    return bytes(digits)


# %% mistake: first bit of each byte
def write_number(value):
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127)
    return bytes(reversed(digits))


# %% mistake: digits of eight bits
def write_number(value):
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


# %% mistake: the wrong way round
def write_number(value):
    digits = []
    while True:
        value, digit = divmod(value, 128)
        if not value:
            return bytes([*digits, digit])
        digits.append(digit + 128)


# %% mistake: zeros in front
def write_number(value):
    digits = [value >> shift & 127 for shift in (21, 14, 7, 0)]
    return bytes([*(digit | 128 for digit in digits[:3]), digits[3]])


# %% mistake: Even 0 takes one byte
def write_number(value):
    digits = []
    while value:
        digits.append(value & 127 | (128 if digits else 0))
        value >>= 7
    return bytes(reversed(digits))


# %% most_at_once: How many fingers?
# `most_at_once(start, end)` gets the starts and ends of n notes in seconds, two float arrays (n,),
# in any order, n at least 1, and returns the greatest number of notes that sound at the same time, an
# integer. A note that ends at the very time when another starts does not sound together with it. It
# knows no pitches: a key struck again while its sound is held counts twice. With your function, find
# out how many fingers the mazurka takes, and how many notes its pedal piles up (5 and 8).
# %% stub
def most_at_once(start, end):
    pass  # your code


# %% check
check_most_at_once(most_at_once)


# %% solution
def most_at_once(start, end):
    # The number rises only where a note starts: count there, all starts at once.
    started = np.searchsorted(np.sort(start), start, side="right")
    ended = np.searchsorted(np.sort(end), start, side="right")  # right: out first
    return int((started - ended).max())


# %% mistake: A note that ends leaves
def most_at_once(start, end):
    started = np.searchsorted(np.sort(start), start, side="right")
    ended = np.searchsorted(np.sort(end), start, side="left")
    return int((started - ended).max())


# %% mistake: in another order
def most_at_once(start, end):
    most, sounding = 0, []
    for on, off in zip(start, end):
        sounding = [other for other in sounding if other > on] + [off]
        most = max(most, len(sounding))
    return most


# %% mistake: pairs that start together
def most_at_once(start, end):
    return int(np.unique(start, return_counts=True)[1].max())


# %% mistake: return one integer
def most_at_once(start, end):
    return float(((start <= start[:, None]) & (start[:, None] < end)).sum(1).max())


# %% mistake: Those are the pairs
def most_at_once(start, end):
    together = (start[:, None] < end) & (start < end[:, None])
    return max(1, int(np.triu(together, 1).sum()))


# %% mistake: counting notes that have ended
def most_at_once(start, end):
    return len(start)


# %% mistake: too few
def most_at_once(start, end):
    return max(int(((start < time) & (time < end)).sum()) for time in start)


# %% mistake: Compare the times themselves
def most_at_once(start, end):
    roll = np.zeros(round(10 * end.max()) + 1, int)
    for on, off in zip(start, end):
        roll[round(10 * on) : round(10 * off)] += 1
    return int(roll.max())


# %% cut_at_restrike: Struck again
# The pedal holds a note, and its key is struck again: one string cannot sound twice. Write
# `cut_at_restrike(start, end, pitch)`: three arrays (n,), seconds, seconds and MIDI pitches, in any
# order, n at least 1. Return the new ends, an array (n,) in the order of the notes:
# a note ends no later than the next start of the same pitch. No two notes of one pitch start at the same time.
# %% stub
def cut_at_restrike(start, end, pitch):
    pass  # your code


# %% check
check_cut_at_restrike(cut_at_restrike)


# %% solution
def cut_at_restrike(start, end, pitch):
    cut = end.copy()
    order = np.lexsort((start, pitch))  # by pitch, and by time within a pitch
    this, following = order[:-1], order[1:]
    same = pitch[this] == pitch[following]
    this, following = this[same], following[same]
    cut[this] = np.minimum(end[this], start[following])
    return cut


# %% mistake: mind the pitch
def cut_at_restrike(start, end, pitch):
    cut, order = end.copy(), np.argsort(start)
    cut[order[:-1]] = np.minimum(end[order[:-1]], start[order[1:]])
    return cut


# %% mistake: not to be lengthened
def cut_at_restrike(start, end, pitch):
    cut, order = end.copy(), np.lexsort((start, pitch))
    this, following = order[:-1], order[1:]
    same = pitch[this] == pitch[following]
    cut[this[same]] = start[following[same]]
    return cut


# %% mistake: next in time
def cut_at_restrike(start, end, pitch):
    cut, struck = end.copy(), {}
    for i in range(len(start) - 1, -1, -1):
        key = int(pitch[i])
        cut[i] = min(end[i], struck.get(key, end[i]))
        struck[key] = start[i]
    return cut


# %% mistake: in another order
def cut_at_restrike(start, end, pitch):
    order = np.lexsort((start, pitch))
    start, end, pitch = start[order], end[order], pitch[order]
    same = pitch[:-1] == pitch[1:]
    end[:-1][same] = np.minimum(end[:-1], start[1:])[same]
    return end


# %% mistake: an array, not a list
def cut_at_restrike(start, end, pitch):
    again = [start[(pitch == p) & (start > s)] for s, p in zip(start, pitch)]
    return [min([e, *later]) for e, later in zip(end, again)]


# %% mistake: its own next stroke
def cut_at_restrike(start, end, pitch):
    again = [start[(pitch == p) & (start >= s)] for s, p in zip(start, pitch)]
    return np.array([min([e, *later]) for e, later in zip(end, again)])


# %% mistake: no key is struck again
def cut_at_restrike(start, end, pitch):
    return end - 0.001


# %% mistake: an octave apart
def cut_at_restrike(start, end, pitch):
    cut, order = end.copy(), np.lexsort((start, pitch % 12))
    this, following = order[:-1], order[1:]
    same = pitch[this] % 12 == pitch[following] % 12
    this, following = this[same], following[same]
    cut[this] = np.minimum(end[this], start[following])
    return cut


# %% mistake: return the new ends
def cut_at_restrike(start, end, pitch):
    return cut_at_restrike_pairs(start, end)


def cut_at_restrike_pairs(start, end):
    return np.minimum(end[:-1], start[1:])


# %% compose: Your own, byte by byte
# Write a piece by hand. `compose()` takes nothing and returns the `bytes` of a MIDI file: a header
# of 14 bytes, one track, at most 200 bytes in all. It has at least eight notes, each with an end,
# two of them at the same time, two different velocities, and a change to another tempo while the
# piece sounds; a quarter note lasts 0.1 to 2 seconds. `TUNE`, `file_of` from above, which puts the
# header in front of a track, and your `write_number` are a good start. Then
# `play(PrettyMIDI(io.BytesIO(compose())))`.
# %% stub
def compose():
    pass  # your code


# %% check
check_compose(compose)


# %% solution
def compose():
    track = bytes.fromhex(
        "00 ff 51 03 06 1a 80"  # 400,000 us a quarter note
        "00 90 3c 50  60 3c 00  00 40 54  60 40 00"  # C4 and E4, 96 ticks each
        "00 43 58  60 43 00  00 48 60  60 48 00"  # G4, C5
        "00 43 58  60 43 00  00 40 54  60 40 00"  # and down again
        "00 ff 51 03 0c 35 00"  # twice as slow
        "00 90 30 60  00 3c 48"  # C3 and C4 together: the status stands once
        "81 40 30 00  00 3c 00"  # 192 ticks later both come up
        "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060")  # 96 ticks a quarter
    return header + b"MTrk" + len(track).to_bytes(4, "big") + track


# %% mistake: the track says that its length
def compose():
    track = bytes.fromhex("00 90 3c 50 60 3c 00 00 ff 2f 00")
    return bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b 00000000") + track


# %% mistake: a key that never comes up
def compose():
    track = bytes.fromhex("00 90 3c 50" + "60 3c 50" * 9 + "00 ff 2f 00")
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: the tempo does not change
def compose():
    track = "00 ff 51 03 06 1a 80 00 90 3c 50 60 3c 00" + "00 3c 50 60 3c 00" * 8
    track = bytes.fromhex(track + "00 ff 2f 00")
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: no two notes
def compose():
    track = "00 90 3c 50 60 3c 00 00 ff 51 03 06 1a 80 00 90 3c 40 60 3c 00"
    track = bytes.fromhex(track + "00 3c 50 60 3c 00" * 8 + "00 ff 2f 00")
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: after an 80
def compose():
    track = bytes.fromhex(
        "00 90 3c 50  60 80 3c 40" + "00 3e 50  60 3e 40" * 8 + "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: the second byte of a wait
def compose():
    track = bytes.fromhex(
        "00 90 3c 50  01 e0 3c 00" + "00 90 3e 50  60 3e 00" * 8 + "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: promises 2 tracks
def compose():
    track = bytes.fromhex("00 90 3c 50  60 3c 00" * 8 + "00 ff 2f 00")
    header = bytes.fromhex("4d546864 00000006 0000 0002 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: most significant byte first
def compose():
    track = bytes.fromhex(
        "00 90 3c 50  60 3c 00" * 8
        + "00 ff 51 03 80 1a 06 00 90 3c 40 60 3c 00"
        + "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: nobody hears it
def compose():
    track = bytes.fromhex(
        "00 90 3c 50  60 3c 00" * 8 + "00 ff 51 03 06 1a 80" + "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: the tempo does not change
def compose():
    track = bytes.fromhex(
        "00 90 3c 50  60 3c 00 00 ff 51 03 07 a1 20"
        + "00 90 3c 50 60 3c 00" * 8
        + "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: cancels running status
def compose():
    track = bytes.fromhex(
        "00 90 3c 50  60 3c 00" * 8
        + "00 90 40 40  00 43 50  00 ff 51 03 06 1a 80  60 40 00  00 43 00"
        + "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: the very tick
def compose():
    track = bytes.fromhex(
        "00 90 3c 50  60 3c 00" * 8 + "00 40 50  00 40 00" + "00 ff 2f 00"
    )
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: below 80 (hexadecimal)
def compose():
    track = bytes.fromhex("00 90 3c 90  60 3c 00" * 8 + "00 ff 2f 00")
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: a tempo has three bytes
def compose():
    track = bytes.fromhex("00 90 3c 50  60 3c 00  00 ff 51 02 1a 80  00 ff 2f 00")
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track


# %% mistake: 1 note; write 8
def compose():
    track = bytes.fromhex("00 90 3c 50  60 3c 00  00 ff 2f 00")
    header = bytes.fromhex("4d546864 00000006 0000 0001 0060 4d54726b")
    return header + len(track).to_bytes(4, "big") + track
