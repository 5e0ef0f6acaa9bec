"""Chapter 2: the exercises on tokens and on what they cost."""

import functools
from itertools import zip_longest

import numpy as np

from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import decode_notes, encode_midi
from tinyperceiver.music.vocabulary import (
    LONGEST_SHIFT,
    NOTE_OFF,
    NUM_EVENTS,
    PERFORMANCE,
    TIME_SHIFT,
    VELOCITY,
    VELOCITY_BIN,
)
from tinyperceiver.teaching.checking import Case, Mistake, exercise
from tinyperceiver.teaching.music import KINDS, kind_of, name_of, times_of

__all__ = ["loose_ends", "shorten", "stretch", "transpose"]


@functools.cache
def _pieces() -> dict[str, list[int]]:
    return {name: encode_midi(load_piece(name)) for name in PIECES}


def _no_event(tokens) -> str:
    """What a list holds that is no event id, in a sentence; `` if nothing is."""
    for place, token in enumerate(tokens):
        if token == PERFORMANCE:
            return (
                f"at place {place} stands {token}, the mark of `encode_performance`. These "
                "exercises are in the other dialect, that of `encode_midi`, which has no mark."
            )
        if not isinstance(token, (int, np.integer)) or not 0 <= token < NUM_EVENTS:
            return (
                f"at place {place} stands {token}, but events have the ids 0 to {NUM_EVENTS - 1}. "
                "Which kind of token did you make larger, and where does that kind end?"
            )
    return ""


def _transpositions():
    """Four notes, one at the edge of the keyboard, and whole pieces."""
    for semitones in (7, -3, 0):
        yield Case(
            [376, 60, 305, 188, 369, 64, 355, 192],
            semitones,
            wrong="no key leaves the range here, so no token should be lost or added.",
        )
    edges = (120, 12), (5, -7), (127, 1), (0, -1), (126, 1), (1, -1), (0, 1), (127, -1)
    for old, semitones in edges:
        key = old + semitones
        hint = (
            f"the key should move to {key}, which is a key too. All from 0 to 127 are, each with "
            "a note-on and a note-off."
            if 0 <= key < NOTE_OFF
            else "the key leaves 0 to 127. Its note-on and its note-off must go, and only they."
        )
        yield Case([376, old, 305, NOTE_OFF + old], semitones, wrong=hint)
    for name, tokens in _pieces().items():
        for semitones in (5, -5):
            yield Case(tokens, semitones, about=f"{name}: {{difference}}", wrong="")


@exercise(
    "Warm-up: the same tune, higher",
    cases=_transpositions,
    returns="a list of event ids",
    about="transposed by {semitones}, {tokens} becomes {got}:",
    praise="All five pieces come back unchanged from 5 semitones up and 5 down.",
)
def transpose(tokens, semitones):
    """
    A singer asks for the piece three keys lower. Write `transpose(tokens, semitones)`: it gets a
    list of event ids, 0 to 387, and a whole number of keys, up if positive, and returns a list in
    which every key has moved by so many. Nothing else changes. A key that would leave 0 to 127
    is left out, its note-on and its note-off.
    """
    moved = []
    for token in tokens:
        if token < TIME_SHIFT:  # ons and offs alike: the key is what is left by 128
            key = token % NOTE_OFF + semitones
            if 0 <= key < NOTE_OFF:
                moved.append(token - token % NOTE_OFF + key)
        else:
            moved.append(token)
    return moved


transpose.mistakes |= {
    "the key leaves 0 to 127 on one side and comes back on the other. Both its tokens must go.": {
        " + semitones": "",
        "NOTE_OFF + key": "NOTE_OFF + (key + semitones) % NOTE_OFF",
    },
}


@transpose.diagnose
def _(got, expected, tokens, semitones):
    key = tokens[1] + semitones
    if expected == [376, 305]:
        if key in got or NOTE_OFF + key in got:
            return (
                "the key leaves 0 to 127, and its id spills over into another kind, or out of the "
                "vocabulary. Both its tokens must go, and only they."
            )
        if not {376, 305} <= set(got):
            return (
                "the key leaves 0 to 127, and its two tokens must go, but only they. The velocity "
                "and the wait also count for what follows."
            )
    elif problem := _no_event(got):
        return problem
    elif len(got) == len(tokens) == len(expected):
        triples = zip(tokens, got, expected, strict=True)
        before, after, right = next(triple for triple in triples if triple[1] != triple[2])
        there = f"'{name_of(before)}' ({before})"
        if right == before:
            return (
                f"{there} becomes '{name_of(after)}' ({after}). Only keys move: waits and "
                "velocities stay."
            )
        if after == before:
            return (
                f"{there} stays. Each {KINDS[kind_of(before)]} has to move with its key, or notes "
                "start that never end."
            )
        return f"{there} becomes '{name_of(after)}', {after - before} ids away."


transpose.caught |= {
    "Only keys move": lambda tokens, semitones: [token + semitones for token in tokens],
    "notes start that never end": {"token < TIME_SHIFT": "token < NOTE_OFF"},
    "spills over": {"0 <= key < NOTE_OFF": "True"},
    "becomes [376, 128, 305, 256]: the key leaves 0 to 127, and its id spills over": {
        "key < NOTE_OFF": "key <= NOTE_OFF"
    },
    "is a key too": {"0 <= key < NOTE_OFF": "21 <= key <= 108"},
    "also count for what follows": {
        "+ key)": "+ key)\n            else:\n                moved.pop()"
    },
    "14 ids away": {"% NOTE_OFF + semitones": "% NOTE_OFF + 2 * semitones"},
    "at place 0 stands 389": lambda tokens, semitones: [389, *tokens],
    "ids 0 to 387": lambda tokens, semitones: [max(t, 400) for t in tokens],
}


def _slips():
    """Tokens, and why the counts are what they are; whole pieces, cut in the middle."""
    for tokens, why in (
        ([376, 60, 305, 188], "a note with an end has none"),
        ([], "there is nothing in an empty list"),
        ([60, 188, 60, 188], "two notes of one key, one after the other, have none"),
        ([376, 305, 188], "the note-off has no note-on before it"),
        ([376, 60, 305], "the note-on never gets its note-off"),
        ([60, 192], "the note-off belongs to another key than the note-on"),
        (
            [376, 60, 305, 188, 305, 188],
            "the first note-off ends the note, so the second note-off is loose",
        ),
        (
            [376, 60, 305, 60, 305, 188],
            "the key is struck again before it comes up, so the first note-on gets no end",
        ),
        (
            [376, 60, 305, 60, 305, 188, 305, 188],
            "the first note-off lifts the key, so the second finds it up, and of two note-ons only "
            "one gets an end",
        ),
        ([60, 60, 188, 188], "a note-off lifts the key, however often it was struck"),
        ([127, 255, 0, 128], "keys 0 and 127 are keys too"),
    ):
        yield Case(tokens, about="{tokens} gives {got}, but " + why + ".")
    for name, tokens in _pieces().items():
        half = tokens[: len(tokens) // 2]
        yield Case(half, about=f"{name}, cut in the middle, gives {{got}}, not {{expected}}.")


@exercise(
    "Loose ends",
    cases=_slips,
    returns="a tuple of two counts, integers",
    wrong="",
)
def loose_ends(tokens):
    """
    A model makes slips that no encoder makes. Write `loose_ends(tokens)`: it gets a list of event
    ids and returns a tuple of two counts: note-offs of a key that is not down, and note-ons that
    never get a note-off of their own. A note-off lifts its key. A key that is struck while it is
    down leaves the earlier note-on without an end.
    """
    down, offs, ons = set(), 0, 0
    for token in tokens:
        if token < NOTE_OFF:
            ons += token in down  # the stroke before this one will get no end
            down.add(token)
        elif token < TIME_SHIFT:
            offs += token - NOTE_OFF not in down
            down.discard(token - NOTE_OFF)
    return offs, ons + len(down)


@loose_ends.judge
def _(answer):
    left = sum(answer(tokens[: len(tokens) // 2])[1] for tokens in _pieces().values())
    return f"Cut in the middle, the five pieces leave {left} keys down."


loose_ends.mistakes |= {
    "Did you swap the two?": {"offs, ons + len(down)": "ons + len(down), offs"},
}
loose_ends.caught |= {
    "the second note-off is loose": {
        "down.discard(token - NOTE_OFF)": "ons -= token - NOTE_OFF in down"
    },
    "struck again": {"ons += token in down": ""},
    "only one gets an end": {
        "set()": "[]",
        "ons += token in down": "",
        "add": "append",
        "down.discard(token - NOTE_OFF)": "down = down.copy()\n"
        "            if token - NOTE_OFF in down:\n                down.remove(token - NOTE_OFF)",
    },
    "a tuple of two counts": {"return offs, ons + len(down)": "return [offs, ons + len(down)][:1]"},
    "item 0 is a float": {"set(), 0, 0": "set(), 0.0, 0.0"},
}


def _moments(tokens) -> np.ndarray:
    """When each key goes down or comes up, in steps."""
    tokens = np.asarray(tokens)
    return times_of(tokens)[:-1][tokens < TIME_SHIFT]


def _mistimed(got, tokens, factor) -> str:
    """What is wrong with tokens that should be `factor` times as slow, or ``."""
    if problem := _no_event(got):
        return problem
    before, after = ([t for t in part if kind_of(t) != 2] for part in (tokens, got))  # no waits
    for place, (right, found) in enumerate(zip_longest(before, after)):
        if right == found:
            continue
        should, comes = (
            "nothing" if token is None else f"'{name_of(token)}' ({token})"
            for token in (right, found)
        )
        hint = ""
        if len(after) > len(before) and found >= VELOCITY:
            hint = " Too long a wait spills into the velocities (356 and up)."
        elif len(after) > len(before) and found == TIME_SHIFT - 1:
            hint = " A wait of nothing has no id: 255 is the note-off of key 127."
        return (
            f"other tokens than waits change. Waits not counted, {should} should come at place "
            f"{place}, and {comes} comes.{hint}"
        )
    right, found = factor * _moments(tokens), _moments(got)
    errors = np.abs(found - right)
    if errors[-1] > 0.3 * right[-1] * abs(1 - 1 / factor) + 1:
        return f"it lasts {found[-1] / 100:.2f} s in place of {right[-1] / 100:.2f} s."
    if errors.max() > 0.5 + 1e-6:
        return (
            f"a key is {10 * errors.max():.1f} ms off; up to 5 can't be avoided, more is drift. "
            "Which do you round, the waits or the moments? And may a wait become nothing?"
        )
    return ""


@exercise(
    "Slower, and in time",
    cases=lambda: [
        Case(tokens, factor, piece=name)
        for name, tokens in {
            "four tokens": [376, 60, 305, 188],
            "30 tokens": _pieces()["bach-prelude"][:30],
            **_pieces(),
        }.items()
        for factor in (2.0, 1.04, 0.97, 0.5, 3.0)
    ],
    returns="a list of event ids",
    about="{piece} at factor {factor}:",
    praise="Five pieces, five speeds, and no key is more than 5.0 ms off.",
    accepts=lambda got, expected, *arguments: not _mistimed(got, *arguments),
)
def stretch(tokens, factor):
    """
    Practise at another speed, without a MIDI file. Write `stretch(tokens, factor)`: it gets a list
    of event ids and a positive number, and returns a list of event ids with the same keys and
    velocities in the same order, in which every moment comes `factor` times as late, rounded to a
    step of 10 ms. No key may be more than 5 ms off, however long the piece. Waits may be of any
    length afterwards: none, or several seconds. A wait at the end, with nothing after it, may go.
    """
    stretched, moment, written = [], 0, 0  # in steps: of the original, and so far
    for token in tokens:
        if TIME_SHIFT <= token < VELOCITY:
            moment += token - TIME_SHIFT + 1
            continue
        # Round the moment, then take the gap: what is lost here is given back later.
        steps = round(moment * factor) - written
        written += steps
        longest, rest = divmod(steps, LONGEST_SHIFT)
        stretched += [VELOCITY - 1] * longest
        if rest:
            stretched.append(TIME_SHIFT - 1 + rest)
        stretched.append(token)
    return stretched


@stretch.diagnose
def _(got, expected, *arguments):
    return _mistimed(got, *arguments)


stretch.mistakes |= {
    "nothing changes: here the wait of 500 ms should become 1 s.": lambda tokens, factor: tokens,
}
stretch.caught |= {
    "more is drift": {" - written": "", "written += steps": "moment = 0"},
    "may a wait become nothing": {
        "round(moment * factor) - written": "max(1, round(moment * factor) - written)"
    },
    "spills into the velocities": {"divmod(steps, LONGEST_SHIFT)": "0, min(steps, 132)"},
    "255 is the note-off of key 127": {"if rest": "if steps"},
    "Which kind of token did you": {"divmod(steps, LONGEST_SHIFT)": "0, steps"},
    "it lasts": {"divmod(steps, LONGEST_SHIFT)": "0, min(steps, LONGEST_SHIFT)"},
    "should come": {"append(token)": "extend([token] * (token < VELOCITY))"},
}


def _spoilt(got, tokens) -> str:
    """How the notes of shortened tokens differ by too much from those of `tokens`, or ``."""
    if problem := _no_event(got):
        return problem
    before, after = (
        np.array(sorted((n.pitch, n.start, n.end, n.velocity) for n in decode_notes(part)))
        for part in (tokens, got)
    )
    if [row[0] for row in before] != [row[0] for row in after]:
        return (
            f"{len(before)} notes become {len(after)}, or other keys. Are there notes that have "
            "lost their length, or an end?"
        )
    _, starts, ends, loudness = np.abs(before - after).max(axis=0)
    if max(starts, ends) > 0.02 + 1e-6:
        return (
            f"a note starts or ends {1000 * max(starts, ends):.0f} ms off; 20 are allowed. A wait "
            "that you leave out is missing from all that follows."
        )
    if loudness > 8:
        return (
            f"a velocity is {loudness:.0f} off; 8 are allowed. A note gets the last velocity that "
            "you wrote, not the last that you read."
        )
    return ""


@exercise(
    "Open: a shorter text",
    cases=lambda: [Case(tokens, piece=name) for name, tokens in _pieces().items()],
    returns="a list of event ids",
    about="{piece}:",
    accepts=lambda got, expected, tokens: not _spoilt(got, tokens),
)
def shorten(tokens):
    """
    A window holds more music if the music takes fewer tokens. Write `shorten(tokens)`: it gets what
    `encode_midi` wrote and returns a list of event ids in which `decode_midi` reads the notes that
    it reads in `tokens`: as many, the same keys, starts and ends at most 20 ms off, velocities at
    most 8. Over the five pieces together it may have at most 80% of the tokens. You need more than
    one way. Ours gives 74.5%, and is not the end.
    """
    groups, now, velocity = [], 0, None  # now in steps
    for token in tokens:
        if TIME_SHIFT <= token < VELOCITY:
            now += token - TIME_SHIFT + 1
            continue
        if token >= VELOCITY:
            # A new word only where the old one would be more than two bins off.
            if velocity is not None and abs(token - velocity) <= 8 // VELOCITY_BIN:
                continue
            velocity = token
        # Moments 40 ms apart can meet in the middle, unless a note loses its length.
        own_on = token - NOTE_OFF if NOTE_OFF <= token < TIME_SHIFT else None
        if groups and now - groups[-1][0] <= 4 and own_on not in groups[-1][2]:
            groups[-1][1] = now
            groups[-1][2].append(token)
        else:
            groups.append([now, now, [token]])
    kept, written = [], 0
    for first, last, events in groups:
        middle = (first + last) // 2
        longest, rest = divmod(middle - written, LONGEST_SHIFT)
        kept += [VELOCITY - 1] * longest + [TIME_SHIFT - 1 + rest] * (rest > 0) + events
        written = middle
    return kept


@shorten.diagnose
def _(got, expected, tokens):
    return _spoilt(got, tokens)


@shorten.judge
def _(answer):
    written = sum(map(len, _pieces().values()))
    kept = sum(len(answer(tokens)) for tokens in _pieces().values())
    if kept > 0.8 * written:
        raise Mistake(
            f"your tokens are {kept / written:.1%} of the original; 80% is the goal. What do most "
            "of the tokens say, and how exactly do they have to say it? Loudness alone does not "
            "get you there, and neither do waits."
        )
    return f"{written:,} tokens became {kept:,}, which is {kept / written:.1%}."


shorten.caught |= {
    "80% is the goal": lambda tokens: tokens,
    "missing from all that follows": lambda tokens: [t for t in tokens if t not in (256, 257)],
    "8 are allowed": {
        "                continue\n            v": "                velocity = token\n"
        "                continue\n            v"
    },
    "lost their length, or an end": lambda tokens: [t for t in tokens if not 128 <= t < 256],
    "the mark of `encode_performance`": lambda tokens: [389, *tokens],
}
