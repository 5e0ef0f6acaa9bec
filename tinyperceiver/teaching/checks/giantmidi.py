"""Chapter 8: the exercises on token files, splits, windows and augmentation."""

import builtins
import hashlib
from itertools import pairwise
from unittest.mock import patch

import numpy as np

from tinyperceiver.dataset.token_file import END
from tinyperceiver.music.vocabulary import NUM_EVENTS, TIME_SHIFT, VELOCITY
from tinyperceiver.teaching.checking import Mistake, exercise

__all__ = ["held_out", "pieces_of", "rows_of_step", "vary_touch", "where"]

_PIECES = (
    [[5, 6, 7], [8], [9, 10]],
    [[300, 60, 188]],
    [[1, 2], [3, 4], [5, 6], [7, 8]],
    [[0, 0, 0, 0], [387]],
)


@exercise(
    "Warm-up: read a token file",
    cases=[
        (np.array([token for piece in pieces for token in (*piece, END)], dtype="<i2"),)
        for pieces in _PIECES
    ],
    returns="a list of arrays, (length,), of token ids, which are integers",
    about="of {tokens} you made {got}:",
    wrong="it should be {expected}.",
)
def pieces_of(tokens):
    """
    Write `pieces_of(tokens)`. It gets what stands in a token file, an int16 array `(N,)`: the ids
    of a piece, then -1, the ids of the next, then -1, and so on; each piece has at least one token.
    It returns a list of arrays, the ids of each piece without the -1. The file may be large: no
    Python loop over its tokens, nor a list of them (a loop over its pieces is fine).
    """
    ends = np.flatnonzero(tokens == -1)
    # A piece begins after the end of the one before.
    starts = np.append(0, ends[:-1] + 1)
    return [tokens[start:end] for start, end in zip(starts, ends, strict=True)]


pieces_of.mistakes |= {
    "the -1 is still in them. It is no event, and no embedding has a row for it (or the last row, "
    "which is worse).": {"[start:end]": "[start : end + 1]"},
    "the last -1 ends a piece, it does not begin one. There is no empty piece after it.": {
        "np.flatnonzero(tokens == -1)": "np.append(np.flatnonzero(tokens == -1), len(tokens))"
    },
    "the last piece is missing. A -1 stands after each piece, not between them.": {
        "in zip(starts, ends, strict=True)": "in zip(starts[:-1], ends)"
    },
    "the last token before each -1 is lost.": {"[start:end]": "[start : end - 1]"},
}
pieces_of.caught |= {
    "a later one is not": {"+ 1": "+ 2"},
    "which are integers": {"tokens[start:end]": "tokens[start:end].astype(float)"},
    "returns a generator": {"return [": "return (", "=True)]": "=True))"},
    "the -1 is still": lambda tokens: np.split(tokens, np.flatnonzero(tokens == -1)),
}


@pieces_of.diagnose
def _(got, expected, tokens):
    if any(END in piece for piece in got):
        return "the -1 is still in some of them."
    if len(got) == len(expected) and np.array_equal(got[0], expected[0]):
        return (
            "the first piece is right and a later one is not. Where does a piece begin, measured "
            "from the -1 before it?"
        )


class _NoLoop(np.ndarray):
    """An array that tells who goes through it token by token."""

    asked = 0

    def __iter__(self):
        raise Mistake(
            "of a file of 60,000 tokens you look at one after the other. Let NumPy find all -1 at "
            "once, and cut there."
        )

    def tolist(self):
        raise Mistake(
            "of a file of 60,000 tokens you make a Python list of all: many times the memory, and "
            "a step for each token. Let NumPy find all -1 at once."
        )

    def __getitem__(self, key):
        found = np.asarray(self)[key]
        if np.ndim(found):
            return found.view(_NoLoop)
        _NoLoop.asked += 1
        return iter(self) if _NoLoop.asked > 1000 else found  # there are 60 pieces

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        plain = [np.asarray(each) for each in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)


@pieces_of.judge
def _(answer):
    whole = (np.arange(60_000) % 300).astype("<i2")
    whole[::1000], whole[-1] = END, END
    _NoLoop.asked = 0
    found = answer(whole[1:].view(_NoLoop))
    return f"And a file of {len(whole):,} tokens falls into {len(found)} pieces."


@pieces_of.catch("you look at one after the other")
def _(tokens):
    pieces = [[]]
    for token in tokens:
        if token == -1:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [np.array(piece) for piece in pieces[:-1]]


@pieces_of.catch("you make a Python list of all")
def _(tokens):
    ids, pieces, start = tokens.tolist(), [], 0
    while start < len(ids):
        end = ids.index(-1, start)
        pieces.append(np.array(ids[start:end]))
        start = end + 1
    return pieces


@exercise("Copies on one side", returns="a set of names")
def held_out(files, share):
    """
    Write `held_out(files, share)`. `files` is a dict: name of a file -> its bytes; `share` is a
    number from 0 to 1. It returns the set of names to hold out, about `share` of them. Copies,
    files of equal bytes, are on the same side; whether a file is held out depends on its own bytes
    and on `share`, not on the other files; and a file that is held out at some share also is at a
    larger one. (Nor may it depend on the Python process; `hashlib` is imported.)
    """

    def place(data):  # 0 to 1, and the same for all copies, wherever they lie
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64

    return {name for name, data in files.items() if place(data) < share}


class _Bytes(bytes):
    """Bytes whose `hash` can be salted anew, as in another process."""

    salt = 0

    def __hash__(self):
        return hash((self.salt, bytes(self)))


@held_out.judge
def _(answer):
    # Files of MIDI begin alike, and end alike, too.
    head, tail = b"MThd" + bytes(200), bytes(100) + b"\xff\x2f\x00"
    files = {f"{i:04}, a recording.mid": _Bytes(head + b"%d" % (i * i) + tail) for i in range(3000)}

    def ask(files, share):
        found = held_out.expect(answer(files, share), set())
        if stray := found - set(files):
            stray = repr(min(stray, key=repr))[:30]
            raise Mistake(f"you hold out the name of a file, not {stray}….")
        return found

    _Bytes.salt = 0
    found = ask(files, 0.1)
    _Bytes.salt = 1
    if moved := ask(files, 0.1) ^ found:
        raise Mistake(
            f"in another process {len(moved)} of {len(files):,} files would be on the other side. "
            "Python's `hash` is salted; a generator without a seed is no better."
        )
    part = len(found) / len(files)
    if not 0.07 < part < 0.13:
        hint = " You return the files to train on." if part > 0.8 else ""
        if part in (0, 1):
            hint = (
                " They begin with the same 200 bytes and end alike, as MIDI files do: is all of a "
                "file hashed, and read as a number from 0 to 1?"
            )
        raise Mistake(
            f"of {len(files):,} files, at a share of 0.1, {100 * part:.3g}% are held out.{hint}"
        )
    _judge_copies(ask, files, found)
    for smaller, larger in pairwise((0.1, 0.15, 0.2, 0.3, 0.7)):
        if not ask(files, smaller) <= ask(files, larger):
            raise Mistake(
                f"at a share of {larger} some are trained on that were held out at {smaller}. "
                "Compare one number of each file with the share."
            )
    none, many, every = (len(ask(files, share)) for share in (0.0, 0.7, 1.0))
    if none or every != len(files):
        raise Mistake(
            f"at a share of 0, {none} files are held out, at 1, {every:,} of {len(files):,}. Is "
            "your number between 0 and 1?"
        )
    if not 0.66 < many / len(files) < 0.74:
        raise Mistake(
            f"at a share of 0.7, {many / len(files):.1%} are held out, though at 0.1 it is "
            f"{part:.1%}: is your number fine enough, and any as likely as any other?"
        )
    return f"{part:.1%} of {len(files):,} files at a share of 10 %, copies always together."


def _judge_copies(ask, files, found):
    """Judge whether others, names or the order have a say; `found` are those held out."""
    copies = {f"copy of {name}": data for name, data in files.items()}
    both = ask(files | copies, 0.1)
    if apart := [name for name in files if (name in both) != (f"copy of {name}" in both)]:
        raise Mistake(
            f"each file has a copy under another name, and {len(apart):,} of {len(files):,} copies "
            "are on the other side. What do two copies have in common, if not the name?"
        )
    stay, go = sorted(found), sorted(set(files) - found)
    for few in (stay[1:] + go, stay + go[::2], stay[:3], go[:3], go + stay[:1]):
        if moved := (ask({name: files[name] for name in few}, 0.1) ^ found) & set(few):
            raise Mistake(
                f"of the files {len(few):,} are kept, and {len(moved)} of those change sides. "
                "Whether a file is held out should depend on its own bytes, and on no other file."
            )
    for rest in (files, copies):  # of each pair one name is withdrawn
        if moved := ask(rest, 0.1) ^ (both & set(rest)):
            raise Mistake(
                f"{min(moved)!r} stands on one side alone, and on the other beside a copy "
                f"({len(moved)} of {len(rest):,} do so): the name of a copy has a say. Only the "
                "bytes should."
            )
    if ask(dict(reversed(files.items())), 0.1) != found:
        raise Mistake("the same files in another order give another split.")


_PLACE = 'int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64'
held_out.caught |= {
    "if not the name": {"place(data) <": "place(name.encode()) <"},
    "the files to train on": {"< share": ">= share"},
    "Is your number between 0 and 1": {
        _PLACE: "1 + hashlib.sha256(data).digest()[0] % 20",
        "< share": "<= 1 + 19 * share * 0.55",
    },
    "at a share of 0.1, 0.": {_PLACE: "hashlib.sha256(data).digest()[0]"},
    "is all of a file hashed": {"sha256(data)": "sha256(data[:100])"},
    "is salted": {_PLACE: "hash(data) % 10_000 / 10_000"},
    "change sides. Whether": {
        "place(data) < share": "data in sorted(set(files.values()), key=place)["
        ": round(share * len(files))]"
    },
    "of the files 3 are kept, and": {"< share": "< share * (len(files) > 50)"},
    "at a share of 0.15 some are trained on": {
        "place(data) < share": "int(1e15 * place(data)) % int(1 / (share)) == 0"
    },
    "the name of a copy has a say": {
        "return {name": "names = {data: name for name, data in sorted(files.items())}\n"
        "    return {name",
        "place(data) <": "place(names[data].encode()) <",
    },
    "at a share of 0.7": {_PLACE: "int(hashlib.sha256(data).hexdigest()[0], 16) / 16"},
    "not b'": {"{name for name": "{data for name"},
    "it should return a set of names": {"{name for": "[name for", "< share}": "< share]"},
}


_WINDOWS = (([10, 4, 9], 3), ([3, 2, 8], 4), ([5, 5, 5], 4), ([2, 30, 1, 7], 6), ([6], 2))


@exercise(
    "Which piece, and where in it?",
    cases=[
        (number, lengths, n)
        for lengths, n in _WINDOWS
        for number in range(sum(max(length - n, 0) for length in lengths))
    ],
    returns="a tuple of two integers, a piece and a start",
    about="in pieces of {lengths} tokens, number {number} of the windows of {n} + 1 is piece "
    "{expected[0]} from token {expected[1]}, and you say {got}:",
    wrong="count the windows of each piece before it.",
    praise="50 windows of five collections, and each is in one piece.",
)
def where(number, lengths, n):
    """
    Write `where(number, lengths, n)`. `lengths` is a list: how many tokens each piece has. A
    *window* here is n tokens in a row and the one after them, all n + 1 of one piece; a piece may
    be too short to have any. All windows are numbered from 0: those of piece 0 by where they start,
    then those of piece 1, and so on. It returns, of the window with this number, two integers: its
    piece, and the token of that piece at which it starts, both counted from 0.
    """
    room = np.maximum(np.array(lengths) - n, 0)  # windows of each piece
    ends = np.cumsum(room)
    # "right": the end of a piece's windows is the first window of a later one.
    piece = int(np.searchsorted(ends, number, side="right"))
    return piece, int(number - (ends[piece] - room[piece]))


where.mistakes |= {
    "there is room for the {n} tokens, and none for the next one, which is a target. How many "
    "windows has a piece?": {"- n, 0": "- n + 1, 0"},
    "all windows are right but the first ones of a piece. Where `searchsorted` finds an equal "
    "number, which side do you want?": {'side="right"': 'side="left"'},
    "a window can't start before its piece does.": {"(ends[piece] - room[piece])": "ends[piece]"},
    "a start and a piece. It should be the other way round.": {
        "piece, int(number - (ends[piece] - room[piece]))": "int(number - (ends[piece] - "
        "room[piece])), piece"
    },
}


@where.mistake(
    "a piece before it, with fewer than {n} tokens, has no window, and not fewer than none."
)
def _(number, lengths, n):
    for piece, length in enumerate(lengths):
        if number < length - n:
            return piece, number
        number -= length - n


@where.mistake(
    "one of the windows before it is not counted. How many has a piece of {lengths[0]} tokens?"
)
def _(number, lengths, n):
    for piece, length in enumerate(lengths):
        room = max(length - n - 1, 0)
        if number < room:
            return piece, number
        number -= room


@where.mistake("does your count miss a window, or a piece?")
def _(number, lengths, n):
    if number < sum(max(length - n, 0) for length in lengths[:-1]):
        return where.solution(number, lengths, n)


@where.diagnose
def _(got, expected, number, lengths, n):
    piece, start = got
    if not 0 <= piece < len(lengths):
        return "there is no such piece."
    if lengths[piece] <= n:
        return "that piece is too short for any window."
    if start + n >= lengths[piece]:
        return "the window and its last target reach beyond the piece."
    if start < 0:
        return "a window starts no earlier than its piece."
    if (piece, start) > expected:
        return "some of the windows before it are not counted."


where.caught |= {
    "too short for any window": {"- n, 0": "- n, 1"},
    "no such piece": {"return piece,": "return piece - 1,"},
    "reach beyond": {"room[piece]))": "room[piece]) + lengths[piece])"},
    "a piece and a start": {
        "return piece, int(number - (ends[piece] - room[piece]))": "return np.array([piece, "
        "number - (ends[piece] - room[piece])])"
    },
}


@exercise(
    "The same rows, whoever draws them",
    returns="a list of integers, one for each row",
)
def rows_of_step(seed, step, rows, num_places):
    """
    Write `rows_of_step(seed, step, rows, num_places)`. `rows` is a range, such as `range(4, 8)`.
    For each row it draws an integer from 0 up to, not including, `num_places`, and returns a list
    of them. A row's draw depends on the seed, the step and the row alone: not on earlier calls, nor
    on which other rows are asked for. Different seeds, steps and rows draw independently.
    """
    # One generator for each row: none has to know what another has drawn.
    rngs = [np.random.default_rng((seed, step, row)) for row in rows]
    return [int(rng.integers(num_places)) for rng in rngs]


@rows_of_step.judge
def _(answer):
    def ask(seed, step, rows, most=10_000):
        found = rows_of_step.expect(answer(seed, step, rows, most), [0] * len(rows))
        if len(found) != len(rows):
            raise Mistake(f"{len(rows)} rows were asked for, and {len(found)} came.")
        if stray := [place for place in found if not 0 <= place < most]:
            raise Mistake(f"{stray[0]} is none of the places 0 ... {most - 1}.")
        return [int(place) for place in found]

    whole = ask(0, 5, range(8))
    _judge_say(ask, whole)
    grid = np.array([ask(0, step, range(8)) for step in range(40)])
    for triples in _triples_to_tell_apart():  # by chance no two of 2^40 places are the same
        places = [ask(seed, step, range(row, row + 1), 2**40) for seed, step, row in triples]
        if places[0] == places[1]:
            one, two = triples
            raise Mistake(
                f"(seed, step, row) {one} and {two} get the same place: made into one number, "
                "they collide. NumPy takes several numbers as one seed."
            )
    different = len(np.unique(grid))
    if different < 0.9 * grid.size:
        raise Mistake(
            f"of {grid.size} places in 40 steps only {different} are different: different steps "
            "and rows share a seed."
        )
    drawn = {place for step in range(40) for place in ask(0, step, range(8), 3)}
    if drawn != {0, 1, 2}:
        raise Mistake(f"of 3 places, 0, 1 and 2, only {sorted(drawn)} are drawn in 40 steps.")
    _judge_chance(ask)
    spread = np.histogram(grid, 4, (0, 10_000))[0] / grid.size
    if spread.min() < 0.12:
        raise Mistake(
            f"the quarters of the places get {np.round(spread, 2).tolist()} of the draws."
        )
    return f"{grid.size} places drawn, {different} of them different."


def _judge_say(ask, whole):
    """Judge what has a say in `whole`, the places of eight rows, and what has none."""
    if ask(0, 5, range(8)) != whole:
        raise Mistake(
            "the same seed, step and rows give other places the second time: something else has a "
            "say. A generator that goes on from call to call?"
        )

    def salted(thing, real=hash):
        """What `hash` may give in another process: of text, something else."""
        parts = thing if isinstance(thing, tuple) else (thing,)
        has_text = any(isinstance(part, str | bytes) for part in parts)
        return real(("salt", thing)) if has_text else real(thing)

    with patch.object(builtins, "hash", salted):
        elsewhere = ask(0, 5, range(8))
    if elsewhere != whole:
        raise Mistake(
            f"one process draws {whole}, and the same rows in another process would be "
            f"{elsewhere}. Python's `hash` of text is salted."
        )
    if len(set(whole)) == 1:
        raise Mistake("all rows of a step get the same place: the row has no say.")
    if ask(0, 6, range(8)) == whole:
        raise Mistake("steps 5 and 6 are the same: the step has no say.")
    if ask(1, 5, range(8)) == whole:
        raise Mistake("seeds 0 and 1 are the same: the seed has no say.")
    halves = ask(0, 5, range(4)) + ask(0, 5, range(4, 8))
    if halves != whole:
        raise Mistake(
            f"one process draws {whole} for rows 0 to 7, two with four rows each {halves}. A row's "
            "place depends on which rows were drawn before it, or on where it stands in `rows`."
        )


def _triples_to_tell_apart():
    """Pairs of (seed, step, row) that are one number if they are written or added together."""
    for size in [10**k for k in range(7)] + [2**k for k in range(1, 21)]:
        yield (0, 1, 0), (0, 0, size)
        yield (1, 0, 0), (0, size, 0)
    yield from (((0, 1, 11), (0, 11, 1)), ((1, 11, 0), (11, 1, 0)), ((1, 12, 3), (1, 1, 23)))


def _judge_chance(ask):
    """Judge whether a draw follows from that of another row, step or seed."""

    def side_by_side(*of):
        return zip(*(ask(seed, step, range(8), 10) for seed, step in of), strict=True)

    draws = {
        "rows 0 and 1 of a step": [
            ask(seed, step, range(2), 10) for seed in range(16) for step in range(16)
        ],
        "the same row of steps 0 and 1": [
            pair for seed in range(32) for pair in side_by_side((seed, 0), (seed, 1))
        ],
        "the same row of seeds 0 and 1": [
            pair for step in range(32) for pair in side_by_side((0, step), (1, step))
        ],
    }
    bound = []
    for what, pairs in draws.items():
        counts = np.zeros((10, 10), dtype=int)
        np.add.at(counts, tuple(np.transpose(pairs)), 1)
        # By chance the most frequent of ten followers has a quarter of the draws.
        if counts.max(axis=1).sum() > len(pairs) / 2:
            place = counts.max(axis=1).argmax()
            bound.append((what, place, counts[place].argmax()))
    if len(bound) == 3:
        raise Mistake(
            "from one place follow those of the next row, the next step and the next seed: that is "
            "arithmetic, and no chance."
        )
    for what, place, follower in bound:
        raise Mistake(
            f"of 10 places, {what}: where the one falls, the other follows. If it is {place}, the "
            f"other is {follower}. Draw each for itself."
        )


_SEEDS, _DRAW = "(seed, step, row)", "int(rng.integers(num_places))"
rows_of_step.caught |= {
    "which rows were drawn before it": {
        "rngs = [np.random.default_rng((seed, step, row)) for row in rows]": "rngs = "
        "[np.random.default_rng((seed, step))] * len(rows)"
    },
    "(0, 1, 0) and (0, 0, 1) get": {_SEEDS: "seed + step + row"},
    "3 is none of the places 0 ... 2": {"num_places))": "num_places + 1))"},
    "only [1, 2] are drawn": {"rng.integers(num_places)": "rng.integers(1, num_places)"},
    "is none of the places 0 ... 2": {_DRAW: "int(rng.integers(2**40) % 10_000)"},
    "(0, 1, 0) and (0, 0, 10) get": {_SEEDS: 'int(f"{seed}{step}{row}")'},
    "(0, 1, 0) and (0, 0, 1000) get": {_SEEDS: "10**6 * seed + 1000 * step + row"},
    "(0, 1, 0) and (0, 0, 1024) get": {_SEEDS: "seed << 20 ^ step << 10 ^ row"},
    "on where it stands in": {_SEEDS: "(seed, step, i)", "row in rows": "i in range(len(rows))"},
    "(1, 0, 0) and (0, 1, 0) get": {_SEEDS: "(seed + step, row)"},
    "the step has no say": {_SEEDS: "(seed, row)"},
    "the seed has no say": {_SEEDS: "(step, row)"},
    "the row has no say": {_SEEDS: "(seed, step)"},
    "something else has a say": {_SEEDS: ""},
    "in another process": {_SEEDS: 'hash(f"{seed},{step},{row}") % 2**32'},
    "rows 0 and 1 of a step: where": {
        _SEEDS: "(seed, step)",
        _DRAW: "(int(rng.integers(num_places)) + i) % num_places",
        "for rng in rngs": "for i, rng in zip(rows, rngs)",
    },
    "the same row of seeds 0 and 1": {
        _SEEDS: "(step, row)",
        _DRAW: "(int(rng.integers(num_places)) + seed) % num_places",
    },
    "the same row of steps 0 and 1": {
        _SEEDS: "(seed, row)",
        _DRAW: "(int(rng.integers(num_places)) + 7919 * step) % num_places",
    },
    "no chance": lambda seed, step, rows, num_places: [
        (seed * 7919 + step * 104729 + row * 1299709) % num_places for row in rows
    ],
    "a list of integers, one": {_DRAW: "rng.integers(0, num_places, 1)"},
}

_SOFTEST, _LOUDEST = VELOCITY + 1, NUM_EVENTS - 1
_PHRASES = (
    [370, 60, 305, 188, 372, 64, 300, 192, 366, 55, 260, 183],
    [_SOFTEST + 1, 60, 305, 188, _LOUDEST - 1, 64, 300, 192],
    [_SOFTEST, 60, 300, 188, _SOFTEST + 9, 62, 300, 190],
    [_LOUDEST, 60, 300, 188, _LOUDEST - 9, 62, 300, 190],
    [60, 305, 188],
)


@exercise("Open: another touch", returns="an array of token ids, none added and none lost")
def vary_touch(tokens, rng):
    """
    Write a third augmentation, `vary_touch(tokens, rng)`: the same notes at the same times, played
    louder or softer. It gets token ids, an integer array `(length,)`, and a NumPy generator, its
    only source of chance; it returns an array of the same length. All velocity tokens of a window
    move by the same number of ids, so that the contrast stays: by 8 at most, up or down (how far,
    you choose), and less far where one would leave the range. It ends at 357: id 356 is velocity 0,
    and in MIDI that lets go of a key (chapter 1). No window here has 356, or an id above 387; one
    may have no velocity token at all.
    """
    tokens = tokens.copy()
    is_touch = tokens >= VELOCITY
    bins = rng.integers(-4, 5)  # up to 16 of 127: a room further away, or nearer
    if is_touch.any():
        touch = tokens[is_touch]
        # VELOCITY itself decodes to velocity 0, a note-off.
        lowest, highest = VELOCITY + 1 - touch.min(), NUM_EVENTS - 1 - touch.max()
        tokens[is_touch] += np.clip(bins, min(lowest, 0), max(highest, 0))
    return tokens


@vary_touch.judge
def _(answer):
    moved = []  # by how many ids each phrase moved
    for phrase in map(np.array, _PHRASES):
        moved.append(set())
        for seed in range(40):
            found, again = (
                vary_touch.expect(answer(phrase, np.random.default_rng(seed)), phrase)
                for _ in range(2)
            )
            if not np.array_equal(found, again):
                raise Mistake(
                    "with the same generator it comes out otherwise the second time. Draw from "
                    "`rng` and from nothing else."
                )
            moved[-1] |= _steps_of(phrase, found)
    steps = sorted(moved[0])
    if steps == [0]:
        raise Mistake("40 generators, and the touch never changes.")
    if len(steps) < 3 or not steps[0] < 0 < steps[-1]:
        raise Mistake(
            f"40 generators moved a phrase by {steps} bins. It should become louder and softer, by "
            "different amounts."
        )
    if (most := max(map(abs, steps))) > 8:
        raise Mistake(f"a phrase moved by {most} bins of 4, where 8 is the most.")
    return f"A phrase moved by {steps[0]} to {steps[-1]} bins, its accents kept."


def _steps_of(phrase, found):
    """By how many ids the velocities have moved, a set of one; none if there are none."""
    is_touch = phrase >= VELOCITY
    touch, was = found[is_touch], phrase[is_touch]
    for before, after in zip(phrase[~is_touch], found[~is_touch], strict=True):
        if before != after:
            kind = "key" if before < TIME_SHIFT else "wait"
            raise Mistake(f"token {before}, a {kind}, became {after}. Only velocities change.")
    for after in touch[(touch < _SOFTEST) | (touch > _LOUDEST)]:
        raise Mistake(
            f"a velocity became {after}, which "
            + (
                f"is no event: the loudest is {_LOUDEST}."
                if after > _LOUDEST
                else f"is a wait: the softest is {_SOFTEST}."
                if after < VELOCITY
                else "decodes to 0; and a note-on with the velocity 0 is a note-off (chapter 1). "
                f"The softest is {_SOFTEST}."
            )
        )
    steps = set((touch - was).tolist())
    if len(steps) > 1:
        raise Mistake(
            f"{was.tolist()} became {touch.tolist()}: velocities moved by different amounts, so an "
            "accent may become an echo. Move all of a window alike, as far as all can go."
        )
    return steps


vary_touch.caught |= {
    "is no event": {"np.clip(bins, min(lowest, 0), max(highest, 0))": "bins"},
    "an accent may become an echo": lambda tokens, rng: np.where(
        tokens >= VELOCITY,
        np.clip(tokens + rng.integers(-4, 5, len(tokens)), _SOFTEST, _LOUDEST),
        tokens,
    ),
    "decodes to 0": {"VELOCITY + 1 -": "VELOCITY -"},
    "is a wait": {"VELOCITY + 1 -": "VELOCITY - 4 -"},
    "where 8 is the most": {"-4, 5": "-31, 32"},
    "returns a list of": {"return tokens": "return tokens.tolist()"},
    "Only velocities change": lambda tokens, rng: np.clip(
        tokens + rng.integers(-2, 3), 0, _LOUDEST
    ),
    "the touch never changes": lambda tokens, rng: tokens,
    "louder and softer": {"-4, 5": "0, 5"},
    "none added and none lost": lambda tokens, rng: tokens * rng.uniform(0.9, 1.1),
    "comes out otherwise the second time": {"rng.integers": "np.random.default_rng().integers"},
}
