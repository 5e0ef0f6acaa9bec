"""The cleaner encoding: every stroke once, on the grid, and never taken for the released one."""

import math
import random

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st
from pretty_midi import ControlChange, Instrument, Note, PrettyMIDI

from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.tokenizer import decode_midi, encode_midi, encode_performance

MARK = 389


def performance(*instruments) -> PrettyMIDI:
    """Of (is drum, [velocity, pitch, start, end] ..., [controller, value, time] ...)."""
    midi = PrettyMIDI()
    for is_drum, notes, changes in instruments:
        instrument = Instrument(program=0, is_drum=is_drum)
        instrument.notes = [Note(*note) for note in notes]
        instrument.control_changes = [ControlChange(*change) for change in changes]
        midi.instruments.append(instrument)
    return midi


def piano(notes, changes=()) -> PrettyMIDI:
    return performance((False, notes, changes))


def events_of(tokens) -> list[tuple[int, str, int, int]]:
    """(step, "on" or "off", pitch, velocity bin in force), by the papers' vocabulary alone.

    Refuses what no encoder should write: a mark that does not come first, a shift that could be
    shorter, a velocity token that says nothing new or stands before no note.
    """
    assert tokens[0] == MARK
    events, step, loudness, before = [], 0, None, MARK
    for token in tokens[1:]:
        assert 0 <= token < 388
        if 256 <= token < 356:
            assert before < 256 or before == 355 or before == MARK  # full seconds, then one rest
            step += token - 255
        elif token >= 356:
            assert token - 356 != loudness
            loudness = token - 356
        else:
            events.append((step, "on" if token < 128 else "off", token % 128, loudness))
        if before >= 356 and before != MARK:
            assert token < 128
        before = token
    assert not 256 <= before < 388  # ends with a note
    return events


# The same again, note by note in plain loops, as the docstring says it.


def held_to(end: float, changes, last: float) -> float:
    """When a key released at `end` falls silent. `changes` are (value, time) of the pedal."""
    is_down = False
    for value, moment in sorted(changes, key=lambda change: change[1]):
        if moment <= end:
            is_down = value >= 64
        elif is_down and value < 64:
            return min(moment, max(last, end))
    return max(last, end) if is_down else end


def slow_strokes(instruments) -> list[tuple[int, int, int, int]]:
    """(pitch, step down, step up, velocity) of each stroke, by pitch and time."""
    strokes = {}
    for is_drum, notes, changes in instruments:
        if is_drum or not notes:
            continue
        pedal = [(value, moment) for number, value, moment in changes if number == 64]
        last = max(end for *_, end in notes)
        for velocity, pitch, start, end in notes:
            end = held_to(end, pedal, last)
            key = pitch, round(start * 100)
            off, loudness = strokes.get(key, (0, 0))
            strokes[key] = max(off, round(end * 100)), max(loudness, velocity)
    ordered = sorted(strokes)
    result = []
    for place, (pitch, on) in enumerate(ordered):
        off, loudness = strokes[pitch, on]
        off = max(off, on + 1)
        if place + 1 < len(ordered) and ordered[place + 1][0] == pitch:
            off = min(off, ordered[place + 1][1])
        result.append((pitch, on, off, loudness))
    return result


def check(tokens, instruments) -> None:
    """The tokens hold exactly the strokes of the slow reading, in the order of time."""
    strokes, events = slow_strokes(instruments), events_of(tokens)
    expected = [(on, "on", pitch) for pitch, on, _, _ in strokes]
    expected += [(off, "off", pitch) for pitch, _, off, _ in strokes]
    assert [event[:3] for event in events] == sorted(expected)  # "off" sorts before "on"
    loudness = {(on, pitch): velocity // 4 for pitch, on, _, velocity in strokes}
    for step, kind, pitch, bin_in_force in events:
        if kind == "on":
            assert bin_in_force == loudness[step, pitch]


coarse = st.integers(0, 24).map(lambda eighth: eighth / 8)
near = st.integers(0, 40).map(lambda milliseconds: milliseconds / 1000 + 0.0003)
fine = st.floats(0, 5, allow_nan=False)
number, value = st.sampled_from([64, 64, 64, 67]), st.sampled_from([0, 63, 64, 127])
loudness = st.sampled_from([0, 1, 3, 4, 80, 81, 127])


def instruments_at(moments):
    times = st.tuples(moments, moments).map(sorted)
    notes = st.tuples(loudness, st.sampled_from([0, 60, 61, 127]), times)
    notes = notes.map(lambda note: (note[0], note[1], *note[2]))
    changes = st.lists(st.tuples(number, value, moments), max_size=8, unique_by=lambda c: c[2])
    instrument = st.tuples(st.booleans(), st.lists(notes, max_size=8), changes)
    return st.lists(instrument, max_size=3)


any_instruments = st.one_of(instruments_at(coarse), instruments_at(near), instruments_at(fine))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(any_instruments, st.randoms(use_true_random=False))
def test_what_the_docstring_says_holds(instruments, rng):
    midi = performance(*instruments)
    before = repr(midi.instruments), [repr(i.notes) for i in midi.instruments]
    tokens = encode_performance(midi)
    assert (repr(midi.instruments), [repr(i.notes) for i in midi.instruments]) == before
    assert all(type(token) is int for token in tokens)
    check(tokens, instruments)

    # What it wrote comes back the same from what is read.
    decoded = decode_midi(tokens)
    read = [
        (n.pitch, round(n.start * 100), round(n.end * 100)) for n in decoded.instruments[0].notes
    ]
    assert sorted(read) == [stroke[:3] for stroke in slow_strokes(instruments)]
    assert encode_performance(decoded) == tokens

    # The order in which notes, pedals and instruments are listed says nothing.
    shuffled = [
        (is_drum, rng.sample(notes, len(notes)), rng.sample(changes, len(changes)))
        for is_drum, notes, changes in rng.sample(instruments, len(instruments))
    ]
    assert encode_performance(performance(*shuffled)) == tokens


def test_nothing_drifts_over_an_hour():
    # Gaps of 4 ms, which the released model's encoder loses, and any other: 20,000 notes.
    rng = np.random.default_rng(0)
    start = np.cumsum(np.where(rng.random(20_000) < 0.5, 0.004, rng.exponential(0.36, 20_000)))
    end = start + rng.uniform(0.02, 0.1, len(start))
    pitch = np.arange(len(start)) % 88 + 21  # a key comes again after at least a second or so
    assert start[-1] > 3500
    notes = [(64, int(p), float(s), float(e)) for p, s, e in zip(pitch, start, end, strict=True)]
    events = events_of(encode_performance(piano(notes)))

    for kind, moments in (("on", start), ("off", end)):
        by_key = {}
        for p, moment in zip(pitch, moments, strict=True):
            by_key.setdefault(int(p), []).append(moment)
        for step, kind_of_event, p, _ in events:
            if kind_of_event == kind:
                assert abs(step / 100 - by_key[p].pop(0)) <= 0.005 + 1e-9
        assert not any(by_key.values())  # every stroke once

    # The same notes do drift in the other encoding: the test can tell.
    steps = sum(token - 255 for token in encode_midi(piano(notes)) if 256 <= token < 356)
    assert abs(steps / 100 - end.max()) > 1


def test_a_velocity_token_comes_only_when_the_bin_changes():
    notes = [
        (v, 60 + i, i / 10, i / 10 + 0.05) for i, v in enumerate([80, 81, 83, 84, 84, 80, 0, 3])
    ]
    tokens = encode_performance(piano(notes))
    assert [token for token in tokens if 356 <= token < 388] == [376, 377, 376, 356]
    assert tokens[1:3] == [376, 60]
    first_is_silent = encode_performance(piano([(0, 60, 0.0, 0.5)]))
    assert first_is_silent == [MARK, 356, 60, 305, 188]  # said, not taken for granted


@pytest.mark.parametrize(
    ("changes", "steps_up"),
    [
        ([], [20, 60, 160]),
        ([(64, 127, 0.0), (64, 0, 1.0)], [50, 100, 160]),  # 60 until struck again, then to the up
        ([(64, 64, 0.0), (64, 63, 1.0)], [50, 100, 160]),  # from 64 on it is down
        ([(64, 63, 0.0), (64, 0, 1.0)], [20, 60, 160]),
        ([(66, 127, 0.0), (66, 0, 1.0)], [20, 60, 160]),  # not the sustain pedal
        ([(64, 127, 0.3), (64, 0, 1.0)], [20, 100, 160]),  # down after the first release
        ([(64, 127, 0.2), (64, 0, 1.0)], [50, 100, 160]),  # down with the release
        ([(64, 127, 0.0), (64, 0, 0.2)], [20, 60, 160]),  # up with the release
        ([(64, 127, 0.0), (64, 0, 0.4), (64, 127, 0.45)], [40, 160, 160]),  # up, and down for good
        ([(64, 127, 0.0)], [50, 160, 160]),  # never up: to the end of the last note
        ([(64, 127, 0.0), (64, 0, 9.0)], [50, 160, 160]),  # up after it: the same
        ([(64, 127, 0.0), (64, 90, 0.5), (64, 0, 1.0)], [50, 100, 160]),  # down when down
        ([(64, 0, 0.0), (64, 0, 0.1)], [20, 60, 160]),  # up when up
        ([(64, 0, 1.0), (64, 127, 0.0)], [50, 100, 160]),  # listed out of order
    ],
)
def test_the_pedal(changes, steps_up):
    notes = [(80, 60, 0.1, 0.2), (80, 60, 0.5, 0.6), (80, 62, 1.5, 1.6)]
    events = events_of(encode_performance(piano(notes, changes)))
    assert sorted(step for step, kind, *_ in events if kind == "off") == steps_up
    assert [step for step, kind, *_ in events if kind == "on"] == [10, 50, 150]


def test_the_pedal_holds_its_own_instrument_alone():
    held = (False, [(80, 60, 0.0, 0.1), (80, 62, 2.0, 2.1)], [(64, 127, 0.0), (64, 0, 1.0)])
    free = (False, [(80, 72, 0.0, 0.1)], [])
    ups = {
        pitch: step
        for step, kind, pitch, _ in events_of(encode_performance(performance(held, free)))
        if kind == "off"
    }
    assert ups == {60: 100, 62: 210, 72: 10}


def test_drums_are_left_out():
    drums = (True, [(90, 36, 0.0, 0.1)], [])
    assert encode_performance(performance(drums)) == [MARK]
    both = performance((False, [(80, 60, 0.0, 0.5)], []), drums)
    assert encode_performance(both) == [MARK, 376, 60, 305, 188]


def test_one_stroke_listed_twice_is_one():
    twice = [(80, 60, 0.1, 0.3), (100, 60, 0.104, 0.2)]  # within one step: the longer, the louder
    assert events_of(encode_performance(piano(twice))) == [(10, "on", 60, 25), (30, "off", 60, 25)]
    short = [(80, 60, 0.1, 0.1), (80, 61, 0.1, 0.102)]  # any key for at least one step
    assert [event[:3] for event in events_of(encode_performance(piano(short)))] == [
        (10, "on", 60),
        (10, "on", 61),
        (11, "off", 60),
        (11, "off", 61),
    ]


def test_no_notes_are_the_mark_alone():
    assert encode_performance(PrettyMIDI()) == [MARK]
    assert encode_performance(piano([], [(64, 127, 0.0), (64, 0, 1.0)])) == [MARK]
    assert decode_midi([MARK]).instruments[0].notes == []


@pytest.mark.parametrize(
    ("notes", "changes", "words"),
    [
        ([(128, 60, 0.0, 0.5)], [], "velocity is 128"),
        ([(80, 128, 0.0, 0.5)], [], "pitch is 128"),
        ([(80, 60, -0.5, 0.5)], [], "start is -0.5"),
        ([(80, 60, 0.0, math.inf)], [], "end is inf"),
        ([(80, 60, math.nan, 0.5)], [], "start is nan"),
        ([(80, 60, 0.0, 1e9)], [], "end is 1000000000"),
        ([(80, 60, 0.0, 0.5)], [(64, 127, math.nan)], "pedal's time"),
        ([(80, 60, 0.0, 0.5)], [(64, 127, math.inf)], "pedal's time"),
    ],
)
def test_what_is_not_midi_is_refused(notes, changes, words):
    with pytest.raises(ValueError, match=words):
        encode_performance(piano(notes, changes))


# One kind of tokens for the other.

NOTES = [(80, 60, 0.0, 0.5), (82, 64, 0.25, 0.5), (82, 60, 1.0, 1.25)]


def test_each_encoding_is_decoded_by_its_own_rules():
    ours, released = encode_performance(piano(NOTES)), encode_midi(piano(NOTES))
    assert ours[0] == MARK
    assert max(released) < 388

    def read(tokens):
        notes = decode_midi(tokens).instruments[0].notes
        return [(n.velocity, n.pitch, n.start, n.end) for n in notes]

    assert read(ours) == [(82, *note[1:]) for note in NOTES]  # the middle of the bin
    assert read(released) == [(80, *note[1:]) for note in NOTES]
    twice_off = [376, 60, 305, 188, 305, 188]
    assert len(read(twice_off)) == 2
    assert len(read([MARK, *twice_off])) == 1
    assert read(np.array(ours, np.int16)) == read(torch.tensor(ours)) == read(ours)


def test_the_mark_is_no_event_anywhere_else():
    ours = encode_performance(piano(NOTES))
    with pytest.raises(ValueError, match="token 389 at place 1 "):
        decode_midi([*encode_midi(piano(NOTES))[:1], *ours])
    with pytest.raises(ValueError, match=f"token 389 at place {len(ours)} "):
        decode_midi(ours + ours)


@pytest.mark.parametrize("name", ["golden", "tiny"])
def test_models_of_the_released_encoding_refuse_the_other(name):
    model = PerceiverAR.from_pretrained(REFERENCE / "hub" if name == "golden" else name)
    ours, released = encode_performance(piano(NOTES)), encode_midi(piano(NOTES))
    with pytest.raises(ValueError, match=r"token 389 at place 0 .* vocabulary of 389"):
        model.generate(torch.tensor([ours]), max_new_tokens=1)
    with pytest.raises((ValueError, IndexError)):
        model(torch.tensor([ours]), 0)
    more = model.generate(torch.tensor([released]), max_new_tokens=1)
    assert more.shape == (1, len(released) + 1)


def test_random_order_of_a_long_performance_says_nothing():
    rng = random.Random(0)
    notes = []
    for _ in range(2000):
        start = rng.uniform(0, 300)
        notes.append((rng.randrange(1, 128), rng.randrange(21, 109), start, start + rng.random()))
    changes = [(64, rng.randrange(128), rng.uniform(0, 300)) for _ in range(300)]
    tokens = encode_performance(piano(notes, changes))
    check(tokens, [(False, notes, changes)])
    rng.shuffle(notes)
    rng.shuffle(changes)
    assert encode_performance(piano(notes, changes)) == tokens
