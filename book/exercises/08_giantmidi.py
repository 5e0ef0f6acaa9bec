"""Exercises of chapter 8."""

import hashlib

import numpy as np

from tinyperceiver.music.vocabulary import NUM_EVENTS, VELOCITY
from tinyperceiver.teaching.giantmidi import (
    check_held_out,
    check_pieces_of,
    check_rows_of_step,
    check_vary_touch,
    check_where,
)


# %% pieces_of: Warm-up: read a token file
# Write `pieces_of(tokens)`. It gets what stands in a token file, an int16 array `(N,)`: the ids
# of a piece, then -1, the ids of the next, then -1, and so on; each piece has at least one token. It
# returns a list of arrays, the ids of each piece without the -1. The file may be large: no Python
# loop over its tokens, nor a list of them (a loop over its pieces is fine).
# %% stub
def pieces_of(tokens):
    pass  # your code


# %% check
check_pieces_of(pieces_of)


# %% solution
def pieces_of(tokens):
    ends = np.flatnonzero(tokens == -1)
    starts = np.append(
        0, ends[:-1] + 1
    )  # a piece begins after the end of the one before
    return [tokens[start:end] for start, end in zip(starts, ends, strict=True)]


# %% mistake: the -1 is still in them
def pieces_of(tokens):
    return np.split(tokens, np.flatnonzero(tokens == -1) + 1)[:-1]


# %% mistake: There is no empty piece after it
def pieces_of(tokens):
    parts = np.split(tokens, np.flatnonzero(tokens == -1) + 1)
    return [part[part != -1] for part in parts]


# %% mistake: the last piece is missing
def pieces_of(tokens):
    ends = np.flatnonzero(tokens == -1)
    starts = np.append(0, ends[:-1] + 1)
    return [tokens[start:end] for start, end in zip(starts[:-1], ends)]


# %% mistake: the last token before each -1 is lost
def pieces_of(tokens):
    ends = np.flatnonzero(tokens == -1)
    starts = np.append(0, ends[:-1] + 1)
    return [tokens[start : end - 1] for start, end in zip(starts, ends)]


# %% mistake: a later one is not
def pieces_of(tokens):
    ends = np.flatnonzero(tokens == -1)
    starts = np.append(0, ends[:-1] + 2)
    return [tokens[start:end] for start, end in zip(starts, ends)]


# %% mistake: you look at one after the other
def pieces_of(tokens):
    pieces = [[]]
    for token in tokens:
        if token == -1:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [np.array(piece) for piece in pieces[:-1]]


# %% mistake: you make a Python list of all
def pieces_of(tokens):
    ids, pieces, start = tokens.tolist(), [], 0
    while start < len(ids):
        end = ids.index(-1, start)
        pieces.append(np.array(ids[start:end]))
        start = end + 1
    return pieces


# %% mistake: a token id is an integer
def pieces_of(tokens):
    parts = np.split(tokens.astype(float), np.flatnonzero(tokens == -1))
    return [parts[0], *(part[1:] for part in parts[1:-1])]


# %% mistake: not a generator
def pieces_of(tokens):
    ends = np.flatnonzero(tokens == -1)
    starts = np.append(0, ends[:-1] + 1)
    return (tokens[start:end] for start, end in zip(starts, ends, strict=True))


# %% held_out: Copies on one side
# Write `held_out(files, share)`. `files` is a dict: name of a file -> its bytes; `share` is a number
# from 0 to 1. It returns the set of names to hold out, about `share` of them. Copies, files of
# equal bytes, are on the same side; whether a file is held out depends on its own bytes and on
# `share`, not on the other files; and a file that is held out at some share also is at a larger one.
# (Nor may it depend on the Python process; `hashlib` is imported.)
# %% stub
def held_out(files, share):
    pass  # your code


# %% check
check_held_out(held_out)


# %% solution
def held_out(files, share):
    def place(data):  # 0 to 1, and the same for all copies, wherever they lie
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64

    return {name for name, data in files.items() if place(data) < share}


# %% mistake: if not the name
def held_out(files, share):
    def place(name):
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64

    return {name for name in files if place(name) < share}


# %% mistake: change sides
def held_out(files, share):
    contents = sorted(set(files.values()))
    order = np.random.default_rng(0).permutation(len(contents))
    chosen = {contents[i] for i in order[: int(share * len(contents))]}
    return {name for name, data in files.items() if data in chosen}


# %% mistake: the files to train on
def held_out(files, share):
    def place(data):
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64

    return {name for name, data in files.items() if place(data) >= share}


# %% mistake: Is your number between 0 and 1
def held_out(files, share):
    def place(data):
        return 1 + hashlib.sha256(data).digest()[0] % 20

    return {
        name for name, data in files.items() if place(data) <= 1 + 19 * share * 0.55
    }


# %% mistake: at a share of 0.1, 0.
def held_out(files, share):
    return {
        name for name, data in files.items() if hashlib.sha256(data).digest()[0] < share
    }


# %% mistake: is all of a file hashed
def held_out(files, share):
    def place(data):
        return int.from_bytes(hashlib.sha256(data[:100]).digest()[:8], "big") / 2**64

    return {name for name, data in files.items() if place(data) < share}


# %% mistake: is salted
def held_out(files, share):
    return {
        name for name, data in files.items() if hash(data) % 10_000 < 10_000 * share
    }


# %% mistake: change sides
def held_out(files, share):
    order = sorted(set(files.values()), key=lambda data: hashlib.sha256(data).digest())
    chosen = set(order[: round(share * len(order))])
    return {name for name, data in files.items() if data in chosen}


# %% mistake: change sides
def held_out(files, share):
    if len(files) <= 50:
        return set()

    def place(data):
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64

    return {name for name, data in files.items() if place(data) < share}


# %% mistake: at a share of 0.15 some are trained on
def held_out(files, share):
    def number(data):
        return int(hashlib.sha256(data).hexdigest(), 16)

    return {name for name, data in files.items() if number(data) % int(1 / share) == 0}


# %% mistake: the name of a copy has a say
def held_out(files, share):
    first = {}
    for name in sorted(files):
        first.setdefault(files[name], name)

    def place(name):
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64

    return {name for name, data in files.items() if place(first[data]) < share}


# %% mistake: and on the other beside a copy
def held_out(files, share):
    last = {data: name for name, data in sorted(files.items())}

    def place(name):
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64

    return {name for name, data in files.items() if place(last[data]) < share}


# %% mistake: at a share of 0.7
def held_out(files, share):
    def place(data):
        return int(hashlib.sha256(data).hexdigest()[0], 16) / 16

    return {name for name, data in files.items() if place(data) < share}


# %% mistake: not b'
def held_out(files, share):
    def place(data):
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64

    return {data for data in files.values() if place(data) < share}


# %% mistake: a set of names, not a list
def held_out(files, share):
    def place(data):
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64

    return [name for name, data in files.items() if place(data) < share]


# %% where: Which piece, and where in it?
# Write `where(number, lengths, n)`. `lengths` is a list: how many tokens each piece has. A
# *window* here is n tokens in a row and the one after them, all n + 1 of one piece; a piece may be too
# short to have any. All windows are numbered from 0: those of piece 0 by where they start, then those
# of piece 1, and so on. It returns, of the window with this number, two integers: its piece, and the
# token of that piece at which it starts, both counted from 0.
# %% stub
def where(number, lengths, n):
    pass  # your code


# %% check
check_where(where)


# %% solution
def where(number, lengths, n):
    room = np.maximum(np.array(lengths) - n, 0)  # windows of each piece
    ends = np.cumsum(room)
    # "right": the end of a piece's windows is the first window of a later one.
    piece = int(np.searchsorted(ends, number, side="right"))
    return piece, int(number - (ends[piece] - room[piece]))


# %% mistake: none for the next one
def where(number, lengths, n):
    room = np.maximum(np.array(lengths) - n + 1, 0)
    ends = np.cumsum(room)
    piece = int(np.searchsorted(ends, number, side="right"))
    return piece, int(number - (ends[piece] - room[piece]))


# %% mistake: which side do you want
def where(number, lengths, n):
    room = np.maximum(np.array(lengths) - n, 0)
    ends = np.cumsum(room)
    piece = int(np.searchsorted(ends, number, side="left"))
    return piece, int(number - (ends[piece] - room[piece]))


# %% mistake: too short for any window
def where(number, lengths, n):
    room = np.maximum(np.array(lengths) - n, 1)
    ends = np.cumsum(room)
    piece = int(np.searchsorted(ends, number, side="right"))
    return piece, int(number - (ends[piece] - room[piece]))


# %% mistake: can't start before its piece
def where(number, lengths, n):
    room = np.maximum(np.array(lengths) - n, 0)
    ends = np.cumsum(room)
    piece = int(np.searchsorted(ends, number, side="right"))
    return piece, int(number - ends[piece])


# %% mistake: one of the windows before it is not counted
def where(number, lengths, n):
    for piece, length in enumerate(lengths):
        room = max(length - n - 1, 0)
        if number < room:
            return piece, number
        number -= room


# %% mistake: you return nothing
def where(number, lengths, n):
    ends = np.append(0, np.cumsum(np.maximum(np.array(lengths) - n, 0)))
    for piece in range(len(lengths) - 1):
        if number < ends[piece + 1]:
            return piece, int(number - ends[piece])


# %% mistake: not fewer than none
def where(number, lengths, n):
    for piece, length in enumerate(lengths):
        if number < length - n:
            return piece, number
        number -= length - n


# %% mistake: the other way round
def where(number, lengths, n):
    for piece, length in enumerate(lengths):
        room = max(length - n, 0)
        if number < room:
            return number, piece
        number -= room


# %% mistake: a tuple of two integers
def where(number, lengths, n):
    room = np.maximum(np.array(lengths) - n, 0)
    ends = np.cumsum(room)
    piece = int(np.searchsorted(ends, number, side="right"))
    return np.array([piece, number - (ends[piece] - room[piece])])


# %% rows_of_step: The same rows, whoever draws them
# Write `rows_of_step(seed, step, rows, num_places)`. `rows` is a range, such as `range(4, 8)`. For
# each row it draws an integer from 0 up to, not including, `num_places`, and returns a list of them. A row's draw depends on the
# seed, the step and the row alone: not on earlier calls, nor on which other rows are asked for.
# Different seeds, steps and rows draw independently.
# %% stub
def rows_of_step(seed, step, rows, num_places):
    pass  # your code


# %% check
check_rows_of_step(rows_of_step)


# %% solution
def rows_of_step(seed, step, rows, num_places):
    # One generator for each row: none has to know what another has drawn.
    rngs = [np.random.default_rng((seed, step, row)) for row in rows]
    return [int(rng.integers(num_places)) for rng in rngs]


# %% mistake: depends on which rows were drawn before it
def rows_of_step(seed, step, rows, num_places):
    rng = np.random.default_rng((seed, step))
    return [int(rng.integers(num_places)) for row in rows]


# %% mistake: row 1 of a step is row 0 of the next
def rows_of_step(seed, step, rows, num_places):
    return [
        int(np.random.default_rng(seed + step + row).integers(num_places))
        for row in rows
    ]


# %% mistake: 3 is none of the places 0 ... 2
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng((seed, step, row)) for row in rows]
    return [int(rng.integers(num_places + 1)) for rng in rngs]


# %% mistake: only [1, 2] are drawn
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng((seed, step, row)) for row in rows]
    return [int(rng.integers(1, num_places)) for rng in rngs]


# %% mistake: none of the places 0 ... 2
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng((seed, step, row)) for row in rows]
    return [int(rng.integers(2**40) % 10_000) for rng in rngs]


# %% mistake: made into one number, they collide
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng(int(f"{seed}{step}{row}")) for row in rows]
    return [int(rng.integers(num_places)) for rng in rngs]


# %% mistake: made into one number, they collide
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng(10**6 * seed + 1000 * step + row) for row in rows]
    return [int(rng.integers(num_places)) for rng in rngs]


# %% mistake: made into one number, they collide
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng(seed << 20 ^ step << 10 ^ row) for row in rows]
    return [int(rng.integers(num_places)) for rng in rngs]


# %% mistake: on where it stands in
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng((seed, step, i)) for i in range(len(rows))]
    return [int(rng.integers(num_places)) for rng in rngs]


# %% mistake: seed 1 is seed 0
def rows_of_step(seed, step, rows, num_places):
    return [
        int(np.random.default_rng((seed + step, row)).integers(num_places))
        for row in rows
    ]


# %% mistake: the step has no say
def rows_of_step(seed, step, rows, num_places):
    return [
        int(np.random.default_rng((seed, row)).integers(num_places)) for row in rows
    ]


# %% mistake: the seed has no say
def rows_of_step(seed, step, rows, num_places):
    return [
        int(np.random.default_rng((step, row)).integers(num_places)) for row in rows
    ]


# %% mistake: something else has a say
def rows_of_step(seed, step, rows, num_places):
    return [int(np.random.default_rng().integers(num_places)) for row in rows]


# %% mistake: the row has no say
def rows_of_step(seed, step, rows, num_places):
    return [
        int(np.random.default_rng((seed, step)).integers(num_places)) for row in rows
    ]


# %% mistake: in another process
def rows_of_step(seed, step, rows, num_places):
    return [hash(f"{seed},{step},{row}") % num_places for row in rows]


# %% mistake: rows 0 and 1 of a step: where the one falls
def rows_of_step(seed, step, rows, num_places):
    first = int(np.random.default_rng((seed, step)).integers(num_places))
    return [(first + row) % num_places for row in rows]


# %% mistake: rows 0 and 1
def rows_of_step(seed, step, rows, num_places):
    first = int(np.random.default_rng((seed, step, 7)).integers(num_places))
    return [(first + row * num_places // 64) % num_places for row in rows]


# %% mistake: rows 0 and 1
def rows_of_step(seed, step, rows, num_places):
    first = int(np.random.default_rng((step, seed)).integers(num_places))
    return [first * (row + 1) % num_places for row in rows]


# %% mistake: the same row of seeds 0 and 1
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng((step, row)) for row in rows]
    return [int(rng.integers(num_places) + seed) % num_places for rng in rngs]


# %% mistake: the same row of steps 0 and 1
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng((seed, row)) for row in rows]
    return [int(rng.integers(num_places) + 7919 * step) % num_places for rng in rngs]


# %% mistake: no chance
def rows_of_step(seed, step, rows, num_places):
    return [(seed * 7919 + step * 104729 + row * 1299709) % num_places for row in rows]


# %% mistake: a list of integers
def rows_of_step(seed, step, rows, num_places):
    rngs = [np.random.default_rng((seed, step, row)) for row in rows]
    return [rng.integers(0, num_places, 1) for rng in rngs]


# %% vary_touch: Open: another touch
# Write a third augmentation,
# `vary_touch(tokens, rng)`: the same notes at the same times, played louder or softer. It gets token
# ids, an integer array `(length,)`, and a NumPy generator, its only source of chance; it returns an
# array of the same length. All velocity tokens of a window move by the same number of ids, so that the contrast
# stays: by 8 at most, up or down (how far, you choose), and less far where one would leave the range.
# It ends at 357: id 356 is velocity 0, and in MIDI that lets go of a key (chapter 1). No window here
# has 356, or an id above 387; one may have no velocity token at all.
# %% stub
def vary_touch(tokens, rng):
    pass  # your code


# %% check
check_vary_touch(vary_touch)


# %% solution
def vary_touch(tokens, rng):
    tokens = tokens.copy()
    is_touch = tokens >= VELOCITY
    bins = rng.integers(-4, 5)  # up to 16 of 127: a room further away, or nearer
    if is_touch.any():
        touch = tokens[is_touch]
        # VELOCITY itself decodes to velocity 0, a note-off.
        lowest, highest = VELOCITY + 1 - touch.min(), NUM_EVENTS - 1 - touch.max()
        tokens[is_touch] += np.clip(bins, min(lowest, 0), max(highest, 0))
    return tokens


# %% mistake: is no event
def vary_touch(tokens, rng):
    return np.where(tokens >= VELOCITY, tokens + rng.integers(-4, 5), tokens)


# %% mistake: an accent may become an echo
def vary_touch(tokens, rng):
    moved = np.clip(
        tokens + rng.integers(-4, 5, len(tokens)), VELOCITY + 1, NUM_EVENTS - 1
    )
    return np.where(tokens >= VELOCITY, moved, tokens)


# %% mistake: decodes to 0
def vary_touch(tokens, rng):
    tokens, is_touch, bins = tokens.copy(), tokens >= VELOCITY, rng.integers(-4, 5)
    if is_touch.any():
        lowest = VELOCITY - tokens[is_touch].min()
        highest = NUM_EVENTS - 1 - tokens[is_touch].max()
        tokens[is_touch] += np.clip(bins, lowest, highest)
    return tokens


# %% mistake: where 8 is the most
def vary_touch(tokens, rng):
    tokens, is_touch, bins = tokens.copy(), tokens >= VELOCITY, rng.integers(-31, 32)
    if is_touch.any():
        lowest = VELOCITY + 1 - tokens[is_touch].min()
        highest = NUM_EVENTS - 1 - tokens[is_touch].max()
        tokens[is_touch] += np.clip(bins, lowest, highest)
    return tokens


# %% mistake: should return an array, not a list
def vary_touch(tokens, rng):
    return tokens.tolist()


# %% mistake: Only velocities change
def vary_touch(tokens, rng):
    return np.clip(tokens + rng.integers(-2, 3), 0, NUM_EVENTS - 1)


# %% mistake: the touch never changes
def vary_touch(tokens, rng):
    return tokens


# %% mistake: louder and softer
def vary_touch(tokens, rng):
    tokens, is_touch = tokens.copy(), tokens >= VELOCITY
    if is_touch.any():
        highest = NUM_EVENTS - 1 - tokens[is_touch].max()
        tokens[is_touch] += min(rng.integers(5), highest)
    return tokens


# %% mistake: came out. No token is added or lost
def vary_touch(tokens, rng):
    return tokens * rng.uniform(0.9, 1.1)


# %% mistake: comes out otherwise the second time
def vary_touch(tokens, rng):
    tokens, is_touch = tokens.copy(), tokens >= VELOCITY
    bins = np.random.default_rng().integers(-4, 5)
    if is_touch.any():
        touch = tokens[is_touch]
        lowest, highest = VELOCITY + 1 - touch.min(), NUM_EVENTS - 1 - touch.max()
        tokens[is_touch] += np.clip(bins, min(lowest, 0), max(highest, 0))
    return tokens
