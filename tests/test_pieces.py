"""The pieces that ship: every note against music21's corpus, and whether they are performances."""

import importlib.util
import statistics
import subprocess
import sys
from collections import defaultdict
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import music21
import numpy as np
import pretty_midi
import pytest

from tinyperceiver.music import pieces
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import decode_midi, encode_midi

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "enter_pieces.py"
FOLDER = ROOT / "tinyperceiver" / "assets" / "pieces"

# Piece -> entry of music21's corpus, the parts of it that are the piano, and which stretches of
# it are played, in quarter notes.
CORPUS = {
    "bach-prelude": ("bach/bwv846", (0, 1), [(0, 76)]),
    "mozart-sonata": ("mozart/k545/movement1_exposition", (0, 1), [(0, 48)]),
    # The strophe's upbeat follows at 23.5.
    "schubert-lindenbaum": ("schubert/Lindenbaum", (1, 2), [(0, 23.5)]),
    # The next strain's upbeat follows at 47.
    "chopin-mazurka": ("chopin/mazurka06-2", (0, 1), [(0, 47)]),
    # The last bar is that of the repeat (second ending), up to the next strain's upbeat.
    "joplin-maple-leaf-rag": ("joplin/maple_leaf_rag", (0, 1), [(0, 30.5), (32.5, 34)]),
}
# What is played for an ornament sign: piece -> (onset, pitch) of the sign -> (onset, pitch) played.
ORNAMENTS = {
    "mozart-sonata": {
        (Fraction(13), 77): [
            (Fraction(13), 77),
            (Fraction(13) + Fraction(1, 6), 79),
            (Fraction(13) + Fraction(1, 3), 77),
        ]
    }
}


def on_grid(quarters):
    """Triplets come from some encoders as decimals."""
    return Fraction(round(Fraction(quarters) * 48), 48)


@cache
def corpus_notes(name):
    """(onset, pitch) -> length, in quarter notes, tied notes joined, unisons of voices as one."""
    entry, parts, stretches = CORPUS[name]
    score = music21.corpus.parse(entry)
    notes, shift = {}, Fraction(0)
    for begin, end in stretches:
        for part in parts:
            tied = {}  # pitch -> onset of the note that is still held
            for element in score.parts[part].flatten().notes:
                if not begin <= element.offset < end:
                    continue
                onset = on_grid(element.offset) - Fraction(begin) + shift
                for note in element.notes if element.isChord else [element]:
                    pitch, length = note.pitch.midi, on_grid(element.quarterLength)
                    assert length > 0, "a grace note has no length to be checked"
                    kind = note.tie.type if note.tie else None
                    first = tied.pop(pitch) if kind in ("stop", "continue") else onset
                    length += onset - first
                    notes[first, pitch] = max(length, notes.get((first, pitch), 0))
                    if kind in ("start", "continue"):
                        tied[pitch] = first
        shift += Fraction(end) - Fraction(begin)
    return notes


@cache
def script():
    spec = importlib.util.spec_from_file_location("enter_pieces", SCRIPT)
    module = sys.modules["enter_pieces"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def played_at(name):
    """(onset, pitch) in the corpus -> the shipped note that plays it."""
    wanted = []
    for sign in sorted(corpus_notes(name)):
        wanted += ORNAMENTS.get(name, {}).get(sign, [sign])
    by_pitch = defaultdict(list)
    for note in sorted(load_piece(name).instruments[0].notes, key=lambda note: note.start):
        by_pitch[note.pitch].append(note)
    matched = {}
    for pitch in {pitch for _, pitch in wanted} | set(by_pitch):
        onsets = [onset for onset, other in wanted if other == pitch]
        assert len(onsets) == len(by_pitch[pitch]), f"{len(onsets)} notes of pitch {pitch} wanted"
        matched.update(
            {(onset, pitch): note for onset, note in zip(onsets, by_pitch[pitch], strict=True)}
        )
    return matched


def test_names_agree_everywhere():
    assert set(PIECES) == set(script().PIECES) == set(CORPUS)
    assert {file.stem for file in FOLDER.iterdir()} == set(PIECES)
    for piece in PIECES.values():
        assert piece.title and piece.composer


@pytest.mark.parametrize("name", PIECES)
def test_score_is_that_of_the_corpus(name):
    notes, _ = script().read_score(script().PIECES[name].score)
    ours = {(note.onset, note.pitch): note.length for note in notes}
    assert len(ours) == len(notes)
    theirs = corpus_notes(name)
    assert set(ours) - set(theirs) == set()
    assert set(theirs) - set(ours) == set()
    assert {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]} == {}


@pytest.mark.parametrize("name", PIECES)
def test_shipped_file_plays_the_corpus(name):
    groups = defaultdict(list)
    for (onset, _), note in played_at(name).items():
        groups[onset].append(note.start)
    assert max(max(starts) - min(starts) for starts in groups.values()) < 0.06  # one chord
    onsets = sorted(groups)
    times = [statistics.mean(groups[onset]) for onset in onsets]
    for i in range(1, len(onsets) - 1):
        (a, b, c), (x, y, z) = onsets[i - 1 : i + 2], times[i - 1 : i + 2]
        assert x < y < z
        even = x + (z - x) * float((b - a) / (c - a))
        assert abs(y - even) < max(0.06, 0.07 * (z - x)), f"uneven at {float(b)} quarters"


@pytest.mark.parametrize("name", PIECES)
def test_shipped_file_is_a_performance(name):
    midi = load_piece(name)
    (piano,) = midi.instruments
    assert piano.program == 0 and not piano.is_drum
    assert 15 <= midi.get_end_time() <= 90
    matched = played_at(name)

    # Dynamics: many levels, and the highest note of a chord is louder than those below it.
    assert len({note.velocity for note in piano.notes}) >= 25
    chords = defaultdict(list)
    for (onset, _), note in matched.items():
        chords[onset].append(note)
    chords = [sorted(c, key=lambda note: note.pitch) for c in chords.values() if len(c) > 1]
    assert bool(chords) == (name != "bach-prelude")  # which has one note at a time
    if chords:
        gain = [c[-1].velocity - np.mean([note.velocity for note in c[:-1]]) for c in chords]
        assert np.mean(gain) > 4
        spread = [np.ptp([note.start for note in c]) for c in chords]
        assert 0.005 < np.median(spread) < 0.05, "chords are struck as one, or not as chords"

    # Timing: the tempo moves, and the end is slower than the middle.
    onset, time = np.array(
        sorted((float(onset), note.start) for (onset, _), note in matched.items())
    ).T
    every = np.arange(onset[0], onset[-1] + 0.01)
    seconds = np.diff(np.interp(every, onset, time))  # of each quarter
    assert 0.02 < np.std(seconds) / np.mean(seconds) < 0.4
    assert seconds[-1] > 1.08 * np.median(seconds)


@pytest.mark.parametrize("name", PIECES)
def test_shipped_file_suits_the_encoder(name):
    (piano,) = load_piece(name).instruments
    pedal = piano.control_changes
    assert {change.number for change in pedal} == {64}
    assert {change.value for change in pedal} == {0, 127}
    times = [change.time for change in pedal]
    assert times == sorted(set(times))
    assert all(a.value != b.value for a, b in pairwise(pedal))
    # The released encoder drops what starts after the last release, and that release lengthens
    # nothing.
    assert pedal[-1].value == 0 and pedal[-1].time > max(note.end for note in piano.notes)
    last = max(note.start for note in piano.notes)
    assert max(note.end for note in piano.notes if note.start == last) > pedal[-2].time
    assert all(b.time - a.time > 0.02 for a, b in pairwise(pedal))
    for pitch in {note.pitch for note in piano.notes}:
        same = [note for note in piano.notes if note.pitch == pitch]
        same.sort(key=lambda note: note.start)
        assert all(a.end < b.start for a, b in pairwise(same)), "a key is struck while it is down"
    assert min(note.end - note.start for note in piano.notes) >= 0.03
    # Nor does it drop or double a note of these.
    again = decode_midi(encode_midi(load_piece(name))).instruments[0].notes
    assert sorted(n.pitch for n in again) == sorted(n.pitch for n in piano.notes)


def test_script_writes_the_same_bytes_again(tmp_path):
    subprocess.run([sys.executable, SCRIPT, tmp_path], check=True, capture_output=True)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in FOLDER.iterdir()}
    for file in FOLDER.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("score", "why"),
    [
        ("M c4q h4", "cannot read 'h4'"),
        ("M c4 d4q", "line 1 .* cannot read 'c4'"),
        ("M =q", "cannot read '=q'"),
        ("X c4q", "line 1 .* no role 'X'"),
        ("M c4q / A c4h", "line 1 .* do not match"),
        ("M c4q~\nM d4q", "line 2 .* do not match"),
        ("M c4q~", "ends in a tie"),
    ],
)
def test_misspelt_score_is_refused(score, why):
    with pytest.raises(ValueError, match=why):
        script().read_score(score)


def test_score_notation():
    notes, ends = script().read_score("M re3 c#4 =~ / B bb2+d3e3! rq3\nM c#4h.~s bbb4t")
    third = Fraction(1, 3)
    assert [(n.onset, n.length, n.pitch, n.role, n.leads, n.trill) for n in notes] == [
        (0, third, 46, "B", False, True),
        (0, third, 50, "B", True, True),
        (third, third, 61, "M", True, False),
        (2 * third, third + Fraction(13, 4), 61, "M", True, False),
        (Fraction(17, 4), Fraction(1, 8), 69, "M", True, False),
    ]
    assert ends == [1, Fraction(35, 8)]


def test_load_piece_gives_a_new_object_each_time():
    first, again = load_piece("bach-prelude"), load_piece("bach-prelude")
    assert isinstance(first, pretty_midi.PrettyMIDI)
    assert first is not again and first.instruments[0].notes[0] is not again.instruments[0].notes[0]


def test_load_piece_names_what_there_is():
    with pytest.raises(ValueError, match=r"'bach'.*bach-prelude, .*joplin-maple-leaf-rag"):
        load_piece("bach")


def test_load_piece_says_what_to_do_about_a_missing_file(monkeypatch):
    monkeypatch.setitem(pieces.PIECES, "lost", pieces.Piece("Lost", "Nobody"))
    with pytest.raises(FileNotFoundError, match=r"lost\.mid is missing: install tinyperceiver"):
        load_piece("lost")
