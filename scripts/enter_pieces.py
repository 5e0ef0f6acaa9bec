"""Enter the pieces that ship with tinyperceiver, as performances.

    python scripts/enter_pieces.py [FOLDER]

writes one MIDI file per piece, by default into tinyperceiver/assets/pieces. The scores are in the
public domain and were typed in below; tests/test_pieces.py checks every note against music21's
corpus. What a player adds to a score (tempo, loudness, touch, pedal) is added by the functions
after the scores. Their chance comes from a seeded generator: each run writes the same bytes.

How a score is written. One line is one bar, `/` parts its voices. A voice begins with its role,
M melody, A accompaniment or B bass, and continues with notes: `c#4q` is a quarter note C sharp (c4
is middle C), `e4+g4h.` a dotted half-note chord, `rq` a rest, `=` the note before it again. Lengths
are w h q e s t, whole to thirty-second; a note without one is as long as the note before it. `3`
makes a length that of a triplet, `h~e` is a half tied to an eighth, `~` at the end ties into the
next bar, and `!` is a short trill with the whole tone above. Accidentals are always written.
"""

import argparse
import math
import random
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import pretty_midi

FOLDER = Path(__file__).resolve().parent.parent / "tinyperceiver" / "assets" / "pieces"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A score and how it is to be played. Bars count from 1, an upbeat is bar 0.

    Attributes:
        score: one bar a line.
        tempo: quarter notes a minute in the middle of a phrase.
        rubato: share of the tempo that is lost by the end of a phrase.
        phrases: the bars in which phrases begin.
        loudness: bar -> MIDI velocity of the accompaniment, linear between the bars named.
        pedal: bar -> at which quarters of the bar the pedal is changed, `^` where it is lifted;
            the bars that follow, up to the next one named, are pedalled alike.
        pedal_with_beat: press the pedal with the beat and lift it just before the next, as in
            dances; otherwise change it just after the beat, so that nothing comes between.
        voicing: role -> velocity above the accompaniment's.
        touch: role -> share of its length for which a key is held; 1 is legato.
        lilt: relative lengths of the quarters in a bar.
        ritard: over how many quarters the end slows down, and to what share of the tempo.
        hold: seconds by which the last notes outlast their length.
    """

    score: str
    tempo: float
    rubato: float
    phrases: tuple[int, ...]
    loudness: dict[int, int]
    pedal: dict[int, str]
    pedal_with_beat: bool = True
    voicing: dict[str, int] = field(default_factory=lambda: {"M": 16, "A": 0, "B": 6})
    touch: dict[str, float] = field(default_factory=lambda: {"M": 1.0, "A": 0.9, "B": 1.0})
    lilt: tuple[float, ...] = (1.0,)
    ritard: tuple[int, float] = (4, 0.6)
    hold: float = 1.0


# --- The scores -----------------------------------------------------------------------------------


def broken_chords(chords: str) -> str:
    """The figure of Bach's prelude: five notes a bar, from the bass up, broken twice."""
    bars = []
    for chord in chords.strip().splitlines():
        bass, tenor, low, middle, top = chord.split()
        half = f"re {low}s {middle} {top} {low} {middle} {top}"
        bars.append(f"M {half} {half} / A rs {tenor}e.~q rs {tenor}e.~q / B {bass}h {bass}h")
    return "\n".join(bars)


BACH = broken_chords("""
    c4  e4  g4  c5  e5
    c4  d4  a4  d5  f5
    b3  d4  g4  d5  f5
    c4  e4  g4  c5  e5
    c4  e4  a4  e5  a5
    c4  d4  f#4 a4  d5
    b3  d4  g4  d5  g5
    b3  c4  e4  g4  c5
    a3  c4  e4  g4  c5
    d3  a3  d4  f#4 c5
    g3  b3  d4  g4  b4
    g3  bb3 e4  g4  c#5
    f3  a3  d4  a4  d5
    f3  ab3 d4  f4  b4
    e3  g3  c4  g4  c5
    e3  f3  a3  c4  f4
    d3  f3  a3  c4  f4
    g2  d3  g3  b3  f4
    c3  e3  g3  c4  e4
""")

MOZART = """
    M c5h e5q g5 / A c4e g4 e4 g4 c4 g4 e4 g4
    M b4q. c5s d5 c5q rq / A d4e g4 f4 g4 c4 g4 e4 g4
    M a5h g5q c6 / A c4e a4 f4 a4 c4 g4 e4 g4
    M g5q f5e! e5s f5 e5q rq / A b3e g4 d4 g4 c4 g4 e4 g4
    M a4e b4s c5 d5 e5 f5 g5 a5 g5 f5 e5 d5 c5 b4 a4 / A f4q rq rq f3+c4
    M g4e a4s b4 c5 d5 e5 f5 g5 f5 e5 d5 c5 b4 a4 g4 / A e3+c4q rq rq e3+c4
    M f4e g4s a4 b4 c5 d5 e5 f5 e5 d5 c5 b4 a4 g4 f4 / A d3+b3q rq rq d3+b3
    M e4e f4s g4 a4 b4 c5 d5 e5 d5 c5 b4 a4 g4 f4 e4 / A c3+c4q rq rq c3+e3
    M d4e e4s f4 g4 a4 b4 c#5 d5 a4 b4 c#5 d5 e5 f5 g5 / A f3+a3w
    M a5s b5 c6 b5 a5 g5 f5 e5 f5 g5 a5 g5 f5 e5 d5 c5 / A f3q. g3e a3q. f#3e
    M b4e g5 e5 c5 d5 g5 e5 c5 / A g2s b2 d3 g3 g2 c3 e3 g3 g2 b2 d3 g3 g2 c3 e3 g3
    M d5q b4+d5+g5 g4 rq / B g2q g3 g2 rq
"""

SCHUBERT = """
    M g#3s3 e4 g#3 f#3 d#4 f#3 g#3 e4 g#3 b3 g#4 b3 a3 f#4 a3 g#3 e4 g#3 / A b2h.~ / B e2h.
    M f#3+b3e. c#5s b4h / A b2e re rh / B b1e re rh
    M g#4s3 e5 g#4 f#4 d#5 f#4 g#4 e5 g#4 b4 g#5 b4 a4 f#5 a4 g#4 e5 g#4 / A b3h.~ / B e3h.
    M f#4s3 d#5 f#4 e4 c#5 e4 d#4 b4 d#4 c#4 a4 c#4 b3 g#4 b3 a3 f#4 a3 \
      / A b3e re rh / B b2e rs c#3 b2q. b#2e
    M g#3s3 e4 g#3 a3 f#4 a3 g#3 e4 g#3 a3 f#4 a3 g#3 e4 g#3 d4 e#4 d4 / B c#3e b#2 c#3 b#2 c#3 b2
    M c#4s3 f#4 c#4 e#4+g#4 c#4 e#4+g#4 f#4+a4e c#4+f#4+a4 d#4+f#4+a4 e4+f#4+a4 \
      / B a2e g#2 f#2 e2 d#2 c#2
    M f#4+a4e. e4+g#4t b3+f#4 b3+f#4h / B b1h.
    M f#4+a4e. e4+g#4t b3+f#4 b3+f#4q. re / B b1h~e re
"""

CHOPIN = """
    M b#3q a#3 b#3e c#4 / A g#4q g#4h / B g#2+d#3q g#2+d#3h
    M d#4e b#3 c#4q. a#3e / A g#4q g#4h / B g#2+d#3q g#2+d#3h
    M b#3e3 c#4 b#3 a#3q b#3e c#4 / A g#4q g#4h / B g#2+d#3q g#2+d#3h
    M d#4e3 f#4 e4 d#4h / A g#4q g#4h / B g#2+d#3q g#2+d#3h
    M b#3e3 c#4 b#3 a#3q b#3e c#4 / A g#4q = = / B g#2+d#3q = =
    M d#4e b#3 c#4 b#3 c#4 a#3 / A g#4q = = / B g#2+d#3q = =
    M b#3e3 c#4 b#3 a#3q b#3e c#4 / A g#4q g#4 g#4e g#4 / B g#2+d#3q = =
    M d#4e3 f#4 e4 d#4q g#4q / A g#4e3 g#4 g#4 g#4q rq / B g#2+d#3q g#2+d#3 rq
    M g#5e rs a5 f#5q. g#5e / A rq g#3+d#4+f#4 = / B b#2q rh
    M e5e. g#5s c#5q e5 / A rq g#3+c#4+e4 = / B c#3q rh
    M g#5e. a5s f#5q g#5 / A rq g#3+d#4+f#4 = / B b#2q rh
    M e5e3 f#5 g#5 c#5q. c##5e / A rq g#3+c#4+e4 rq / B c#3q rh
    M d#5e rs e5 c#5q. d#5e / A rq d#3+a#3+c#4 = / B f##2q rh
    M b#4e. d#5s g#4q a4 / A rq d#3+f#3+b#3 = / B g#2q rh
    M g#4e rs f#4 d#4q g#4 / A rq d#3+f#3+b#3 = / B g#2q rh
    M c#4h rq / A rq c#3+g#3+e4 rq / B c#2q rh
"""

JOPLIN = """
    B eb2+eb3e
    M rs ab4 eb4+eb5 ab4 c5 eb4+eb5e g4s / A re eb3+ab3+c4 = re / B ab2+ab3e rq a2+a3e
    M eb4+eb5s g4 bb4 eb4+eb5s~q / A re eb3+g3+db4 = re / B bb2+bb3e rq eb2+eb3e
    M rs ab4 eb4+eb5 ab4 c5 eb4+eb5e g4s / A re eb3+ab3+c4 = re / B ab2+ab3e rq a2+a3e
    M eb4+eb5s g4 bb4 eb4+eb5s~e rs eb4+eb5 / A re eb3+g3+db4 = re / B bb2+bb3e rq eb2+eb3e
    M rs ab4 cb5 fb4+fb5 rs eb4+eb5 rs eb4+eb5 / B fb2+fb3q eb2+eb3e eb2+eb3
    M rs ab4 cb5 fb4+fb5 rs eb4+eb5 re / B fb2+fb3q eb2+eb3e re
    M rs ab2 cb3 ab3 rs ab3 cb4 ab4 / B ab1e re ab2 re
    M rs ab4 cb5 ab5 rs ab5 cb6 ab6 / B ab3e re ab4 re
    M ab5+ab6e = = ab5+ab6s ab5+ab6~ / A d4+f4+ab4+b4e = = =
    M ab5+ab6s eb6 f6 c6 eb6 ab5+f6e fb5+ab5s~ / A eb4+ab4+c5e = = =
    M fb5+ab5s bb5 fb5+cb6 ab5 bb5 eb5+c6e ab5s / A fb4+ab4+cb5e = eb4+ab4+c5 =
    M eb5+c6s ab5 eb5+bb5e eb5+ab5 rs ab4+ab5~ / A eb4+ab4+c5e eb4+g4+db5 ab4+c5 re
    M ab4+ab5e = = ab4+ab5s ab4+ab5~ / A d3+f3+ab3+b3e = = =
    M ab4+ab5s eb5 ab4+f5 c5 eb5 ab4+f5e fb4+ab4s~ / A eb3+ab3+c4e = = =
    M fb4+ab4s bb4 fb4+cb5 ab4 bb4 eb4+c5e ab4s / A fb3+ab3+cb4e = eb3+ab3+c4 =
    M eb4+c5s ab4 eb4+bb4e eb4+ab4 re / A eb3+ab3+c4e eb3+g3+db4 ab3+c4 re
"""

PIECES = {
    "bach-prelude": Piece(
        score=BACH,
        tempo=68,
        rubato=0.15,
        phrases=(1, 5, 8, 12, 16),
        loudness={1: 48, 5: 56, 8: 50, 10: 60, 12: 54, 14: 62, 16: 54, 19: 44},
        pedal={1: "0 2", 19: "0"},
        pedal_with_beat=False,
        voicing={"M": 3, "A": 0, "B": 8},
        ritard=(7, 0.5),
        hold=2.0,
    ),
    "mozart-sonata": Piece(
        score=MOZART,
        tempo=126,
        rubato=0.09,
        phrases=(1, 3, 5, 9),
        loudness={1: 46, 3: 52, 5: 50, 9: 48, 10: 62, 12: 66},
        pedal={
            1: "0 ^1.5 2 ^3.5",
            4: "0 ^0.9 2 ^3.5",
            5: "0 ^0.45 3 ^3.5",
            9: "0 ^0.45",
            10: "",
            11: "0 1 2 3",
            12: "0 1 2",
        },
        ritard=(4, 0.6),
        hold=0.6,
    ),
    "schubert-lindenbaum": Piece(
        score=SCHUBERT,
        tempo=54,
        rubato=0.17,
        phrases=(1, 3, 5, 7),
        loudness={1: 38, 2: 46, 3: 44, 4: 50, 5: 44, 6: 56, 7: 50, 8: 38},
        pedal={
            1: "0 1 2",
            2: "0 1",
            3: "0 1 2",
            4: "0 1 1.5 2 2.5",
            5: "0 0.5 1 1.5 2 2.5",
            6: "0 0.5 1 1.5 2 2.5",
            7: "0 0.875",
        },
        pedal_with_beat=False,
        voicing={"M": 10, "A": 2, "B": 4},
        ritard=(4, 0.6),
        hold=1.8,
    ),
    "chopin-mazurka": Piece(
        score=CHOPIN,
        tempo=136,
        rubato=0.2,
        phrases=(1, 5, 9, 13),
        loudness={1: 34, 4: 44, 6: 40, 8: 36, 9: 52, 11: 58, 13: 52, 15: 44, 16: 36},
        pedal={1: "0 1 2", 8: "0 1 ^2", 9: "0 ^2", 16: "0"},
        voicing={"M": 20, "A": 0, "B": 7},
        touch={"M": 1.0, "A": 0.75, "B": 0.9},
        lilt=(0.93, 1.08, 0.99),
        ritard=(5, 0.55),
        hold=1.5,
    ),
    "joplin-maple-leaf-rag": Piece(
        score=JOPLIN,
        tempo=84,
        rubato=0.05,
        phrases=(1, 5, 7, 9, 13),
        loudness={0: 58, 1: 58, 5: 62, 6: 54, 7: 46, 8: 56, 9: 68, 12: 62, 13: 66, 16: 60},
        pedal={
            0: "0",
            1: "0 ^0.5 1.5",
            2: "0 ^0.5 0.75 ^1.25 1.5",
            3: "0 ^0.5 1.5",
            4: "0 ^0.5 0.75 ^1.25 1.5",
            5: "0 ^0.75 1 ^1.25",
            7: "0",
            8: "",
            9: "0 ^0.25 1 ^1.25",
            16: "0 0.5 1",
        },
        touch={"M": 0.95, "A": 0.6, "B": 0.75},
        ritard=(3, 0.65),
        hold=0.5,
    ),
}

# --- Reading a score ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """A note of a score; `onset` and `length` in quarter notes, counted from the first note."""

    onset: Fraction
    length: Fraction
    pitch: int
    role: str
    leads: bool  # the top of its chord
    trill: bool


PITCH = r"[a-g](?:##|#|bb|b)?\d"
LENGTH = r"[whqest]\.?3?"
NOTE = re.compile(rf"(=|r|{PITCH}(?:\+{PITCH})*)((?:{LENGTH})(?:~{LENGTH})*)?(!?)(~?)")
QUARTERS = {"w": 4, "h": 2, "q": 1, "e": Fraction(1, 2), "s": Fraction(1, 4), "t": Fraction(1, 8)}


def quarters(length: str) -> Fraction:
    """The quarter notes in a length such as `e.`, `s3` or `h~e`."""
    total = Fraction(0)
    for part in length.split("~"):
        dot = Fraction(3, 2) if "." in part else 1
        total += QUARTERS[part[0]] * dot * (Fraction(2, 3) if "3" in part else 1)
    return total


def midi_pitch(name: str) -> int:
    """The MIDI note number of a name such as `c#5`; c4 is 60."""
    step = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}[name[0]]
    return step + name.count("#") - name[1:].count("b") + 12 * (int(name[-1]) + 1)


def read_voice(voice: str) -> Iterator[tuple[list[int], Fraction, bool, bool]]:
    """Of each note, chord or rest: its pitches, its length, whether it trills and whether it ties.

    Raises:
        ValueError: a word is not a note, or leaves out what no word before it has said.
    """
    pitches, length = None, None
    for word in voice.split():
        match = NOTE.fullmatch(word)
        name, written, trill, tie = match.groups() if match else (None,) * 4
        if written:
            length = quarters(written)
        if name and name != "=":
            pitches = [] if name == "r" else [midi_pitch(part) for part in name.split("+")]
        if match is None or pitches is None or length is None:
            raise ValueError(f"cannot read {word!r}")
        yield pitches, length, bool(trill), bool(tie)


def read_score(score: str) -> tuple[list[Note], list[Fraction]]:
    """The notes of a score in order of time, and where each bar ends, in quarter notes.

    Notes of two voices that begin together on one pitch are one note: it is one key.

    Raises:
        ValueError: a bar that cannot be read, voices of a bar that differ in length, or a tie
            that leads nowhere. The message names the bar's line.
    """
    found: dict[tuple[Fraction, int], Note] = {}
    ends: list[Fraction] = []
    open_ties: dict[int, Fraction] = {}  # pitch -> onset of the note to be continued
    for number, line in enumerate(score.strip().splitlines(), start=1):
        start = ends[-1] if ends else Fraction(0)
        voice_ends, new_ties = set(), {}
        for voice in line.split("/"):
            role, _, words = voice.strip().partition(" ")
            if role not in ("M", "A", "B"):
                raise ValueError(f"line {number} of the score: no role {role!r}; M, A or B")
            at = start
            try:
                for pitches, length, trill, tie in read_voice(words):
                    for pitch in pitches:
                        onset = open_ties.pop(pitch, at) if at == start else at
                        known = found.get((onset, pitch))
                        if known is None or known.onset + known.length < at + length:
                            leads = pitch == max(pitches)
                            note = Note(onset, at + length - onset, pitch, role, leads, trill)
                            found[onset, pitch] = note
                        if tie:
                            new_ties[pitch] = onset
                    at += length
            except ValueError as error:
                raise ValueError(f"line {number} of the score: {error}") from error
            voice_ends.add(at)
        if len(voice_ends) > 1 or open_ties:
            raise ValueError(f"line {number} of the score: voices or ties do not match: {line}")
        open_ties = new_ties
        ends.append(at)
    if open_ties:
        raise ValueError("the last line of the score ends in a tie")
    return sorted(found.values(), key=lambda note: (note.onset, note.pitch)), ends


# --- Playing it -----------------------------------------------------------------------------------
#
# Where the rules come from:
# Todd 1985, A model of expressive timing in tonal music, Music Perception 3
# Friberg 1991, Generative rules for music performance, Computer Music Journal 15
# Friberg and Sundberg 1999, Does music performance allude to locomotion?, JASA 105
# Goebl 2001, Melody lead in piano performance: expressive device or artifact?, JASA 110

LEAD_IN = 0.1  # seconds before the first note
MELODY_LEAD = 0.016  # seconds by which the melody comes before what accompanies it (Goebl 2001)
UNEVENNESS = 0.005  # standard deviation of a finger's timing, in seconds
OVERLAP = 0.03  # seconds for which a legato note sounds into the next one
REPEAT = 0.04  # seconds for which a key is up before it is struck again
# When the pedal is lifted and pressed again, in seconds from the beat. Pressed with the beat it is
# down before the first key, and what was played before has been let go of.
WITH_BEAT = (-0.08, -0.035)
AFTER_BEAT = (0.03, 0.09)
STEPS = 48  # tempo steps in a quarter note; every onset is on this grid


def chance(source: random.Random) -> float:
    """A draw with mean 0 and standard deviation 1, bounded by 3.5: four uniform draws.

    Python promises the same `random()` in every version, and of nothing else in the module.
    """
    return (sum(source.random() for _ in range(4)) - 2) * math.sqrt(3)


def between(marks: dict[int, int], bar: float) -> float:
    """The value at `bar`, linear between the bars marked and constant outside them."""
    bars = sorted(marks)
    i = bisect_right(bars, bar)
    if i in (0, len(bars)):
        return marks[bars[max(i - 1, 0)]]
    low, high = bars[i - 1], bars[i]
    return marks[low] + (marks[high] - marks[low]) * (bar - low) / (high - low)


class Clock:
    """Where a point of the score falls in its bar and phrase, and in the performance's time.

    Tempo is an arc over each phrase (Todd 1985), bent by the lilt of the bar and a slow drift; the
    end slows down like a runner who comes to a halt (Friberg and Sundberg 1999, with q = 3).
    """

    def __init__(self, piece: Piece, ends: list[Fraction], source: random.Random) -> None:
        self.bars = [Fraction(0), *ends]  # where bars begin, and where the last one ends
        self.first = 0 if ends[0] < ends[1] - ends[0] else 1  # an upbeat is bar 0
        # An upbeat belongs to the first phrase.
        later = [self.bars[bar - self.first] for bar in piece.phrases[1:]]
        self.phrases = [Fraction(0), *later, ends[-1]]
        count = int(ends[-1] * STEPS)
        drift = [0.0]
        while len(drift) < count // STEPS + 2:
            drift.append(0.6 * drift[-1] + 0.025 * chance(source))
        span, slowest = piece.ritard
        self.times = [LEAD_IN]
        for step in range(count):
            beat, part = divmod(step, STEPS)
            at = Fraction(step, STEPS)
            through = self.phrase(at)
            speed = 1 - piece.rubato * ((through - 0.4) / 0.6) ** 2
            speed *= 1 + drift[beat] + (drift[beat + 1] - drift[beat]) * part / STEPS
            speed /= piece.lilt[int(self.place(at)[1]) % len(piece.lilt)]
            halting = 1 - min(1.0, float(ends[-1] - at) / span)
            speed *= (1 + (slowest**3 - 1) * halting) ** (1 / 3)
            self.times.append(self.times[-1] + 60 / (piece.tempo * speed * STEPS))

    def time(self, at: Fraction) -> float:
        """Seconds at which the score is `at` quarter notes."""
        return self.times[int(at * STEPS)]

    def place(self, at: Fraction) -> tuple[float, Fraction]:
        """The bar's number, with how much of it has passed, and the quarters since it began."""
        i = min(bisect_right(self.bars, at), len(self.bars) - 1) - 1
        since, length = at - self.bars[i], self.bars[i + 1] - self.bars[i]
        return i + self.first + float(since / length), since

    def phrase(self, at: Fraction) -> float:
        """How much of its phrase has passed, 0 to 1."""
        i = min(bisect_right(self.phrases, at), len(self.phrases) - 1)
        begin, end = self.phrases[i - 1], self.phrases[i]
        return float((at - begin) / (end - begin))


def written_out(note: Note) -> list[Note]:
    """A note with a trill as the notes to be played, main note first; any other as itself."""
    if not note.trill:
        return [note]
    third = note.length / 3
    return [
        Note(note.onset + i * third, third, note.pitch + up, note.role, note.leads, False)
        for i, up in enumerate((0, 2, 0))
    ]


def velocity(note: Note, piece: Piece, clock: Clock, source: random.Random) -> int:
    """How hard a key is struck: mark, voice, phrase, register and beat, and a little chance."""
    bar, since = clock.place(note.onset)
    loud = between(piece.loudness, bar) + piece.voicing[note.role]
    loud += 7 * math.sin(math.pi * clock.phrase(note.onset)) - 3  # a phrase swells and fades
    loud += 0.3 * (note.pitch - 64)  # higher is louder (Friberg 1991)
    loud += 3 if since == 0 else 0 if since.denominator == 1 else -2
    loud -= 0 if note.leads else 7  # the top of a chord is what is heard
    return max(15, min(115, round(loud + 2.2 * chance(source))))


def pedal_changes(piece: Piece, clock: Clock) -> list[tuple[float, bool]]:
    """When the pedal goes down (True) and up (False), in seconds; it is down at the end."""
    moves: list[tuple[float, bool]] = []
    lift, press = WITH_BEAT if piece.pedal_with_beat else AFTER_BEAT
    down, spec = False, ""
    for i, start in enumerate(clock.bars[:-1]):
        spec = piece.pedal.get(i + clock.first, spec)
        for word in spec.split():
            at = clock.time(start + Fraction(word.lstrip("^")))
            if down:
                moves.append((at + lift, False))
            down = not word.startswith("^")
            if down:
                moves.append((at + press, True))
    if not down:
        raise ValueError("the pedal must be down at the end: the encoder drops what comes later")
    return moves


def perform(piece: Piece) -> pretty_midi.PrettyMIDI:
    """Play a piece. The same piece always gives the same performance."""
    source = random.Random(846)
    notes, ends = read_score(piece.score)
    clock = Clock(piece, ends, source)
    moves = pedal_changes(piece, clock)
    presses = [time for time, down in moves if down] if piece.pedal_with_beat else []
    last_press = moves[-1][0]
    over = clock.times[-1] + piece.hold  # the pedal's last release

    melody = {note.onset for note in notes if note.role == "M"}
    accompanied = melody & {note.onset for note in notes if note.role != "M"}
    instrument = pretty_midi.Instrument(program=0, name="Piano")
    for note in chain.from_iterable(map(written_out, notes)):
        start = clock.time(note.onset) + UNEVENNESS * chance(source)
        if note.role == "M" and note.leads and note.onset in accompanied:
            start -= MELODY_LEAD
        written = clock.time(note.onset + note.length)
        touch = piece.touch[note.role]
        end = written + OVERLAP if touch == 1 else start + touch * (written - start)
        for press in presses:  # a key that is down then would ring on in the next harmony
            if start < press - 0.02 < written < press + 0.05:
                end = min(end, press - 0.01)
        if end > last_press:
            # What rings in the last pedal is held by hand too: the released encoder lets a pedal
            # lengthen notes only when another note follows it.
            end = over - 0.02
        loud = velocity(note, piece, clock, source)
        instrument.notes.append(pretty_midi.Note(loud, note.pitch, max(start, 0.0), end))

    instrument.notes.sort(key=lambda note: (note.start, note.pitch))
    for pitch in {note.pitch for note in instrument.notes}:
        for one, another in pairwise(n for n in instrument.notes if n.pitch == pitch):
            one.end = min(one.end, max(another.start - REPEAT, (one.start + another.start) / 2))
    instrument.control_changes = [
        pretty_midi.ControlChange(64, 127 if down else 0, time)
        for time, down in [*moves, (over, False)]
    ]
    midi = pretty_midi.PrettyMIDI(resolution=480, initial_tempo=120)
    midi.instruments.append(instrument)
    return midi


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the pieces that ship, as MIDI files.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to write")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, piece in PIECES.items():
        midi = perform(piece)
        midi.write(str(folder / f"{name}.mid"))
        count = len(midi.instruments[0].notes)
        print(f"{name}: {midi.get_end_time():.1f} s, {count} notes")


if __name__ == "__main__":
    main()
