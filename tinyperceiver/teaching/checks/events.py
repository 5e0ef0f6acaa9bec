"""Chapter 1: the exercises on the bytes of a MIDI file and on the pedal."""

import io
import re

import mido
import numpy as np
from pretty_midi import PrettyMIDI

from tinyperceiver.teaching.checking import Case, Mistake, exercise

__all__ = ["compose", "cut_at_restrike", "most_at_once", "write_number"]

_NUMBERS = (0, 96, 127, 128, 240, 16_383, 16_384, 2_097_151, 268_435_455)


@exercise(
    "The other way round",
    cases=[(number,) for number in _NUMBERS],
    returns="bytes; bytes([129, 112]) makes two of them",
    about=lambda got, expected, value: f"write_number({value}) gives {got.hex(' ') or 'no bytes'}.",
    wrong=lambda got, expected, value: f"It should be {expected.hex(' ')}: digits to base 128.",
    praise="From 0 to 268,435,455 ticks, in one to four bytes.",
)
def write_number(value):
    """
    `read_number` reads a variable-length number. Write one: `write_number(value)` gets an integer
    from 0 to 268,435,455, in ticks, and returns its one to four `bytes`, no more than needed. 240
    becomes `b"\\x81\\x70"`.
    """
    digits = [value & 127]  # the last byte: its first bit is 0
    while value := value >> 7:
        digits.append(value & 127 | 128)  # 128: more follow
    return bytes(reversed(digits))


write_number.mistakes |= {
    "Even 0 takes one byte: the reader waits for it.": {
        "[value & 127]": "[value & 127] if value else []"
    },
    "Those are digits of eight bits; a byte has room for seven here, since its first bit says "
    "whether another follows.": lambda value: value.to_bytes(
        max(1, (value.bit_length() + 7) // 8), "big"
    ),
}


@write_number.diagnose
def _(got, expected, value):
    digits, right = ([byte & 127 for byte in number] for number in (got, expected))
    if digits == right:
        return (
            "The seven low bits are right. Look at the first bit of each byte: it is 1 where "
            "another byte follows, and 0 in the last byte alone."
        )
    if digits == right[::-1]:
        return "That is the wrong way round: the most significant digit comes first."
    if digits == [0] * (len(got) - len(right)) + right:
        return (
            f"That is {len(got)} bytes for what needs {len(right)}: leave out the zeros in front."
        )


write_number.caught |= {
    "gives 00 81. That is the wrong way round": {"reversed(digits)": "digits"},
    "gives 80 01. That is the wrong way round": {
        "reversed(digits)": "[*(digit | 128 for digit in digits[:-1]), digits[-1] & 127]"
    },
    "first bit of each byte": {" | 128": ""},
    "zeros in front": lambda value: bytes(
        [*(value >> shift & 127 | 128 for shift in (21, 14, 7)), value & 127]
    ),
}


def _notes():
    """Starts and ends of notes, with words about them."""
    together = [(0, 4), (1, 3), (2, 5)]
    yield (
        [(0, 1), (2, 3), (4, 5)],
        "three notes, one after the other with gaps",
        "Are you counting notes that have ended?",
    )
    yield (
        together,
        "three notes, all of them sounding from second 2 to 3",
        "Notes that start later count too, not only pairs that start together.",
    )
    yield (
        [(0, 5), (1, 5), (2, 5), (3, 5)],
        "four notes, all of them sounding from second 3 to 5",
        "Count the notes.",
    )
    yield (
        [(0, 1), (1, 2), (2, 3)],
        "three notes, each starting at the very time when the one before it ends",
        "A note that ends leaves before the next one comes.",
    )
    yield (
        [(9, 10), together[2], *together[:2]],
        "three notes sounding from second 2 to 3, and a fourth later, in another order",
        "Files list notes by their ends: sort the times, or do not depend on the order.",
    )
    for end in (1.0437, 1.0435):
        yield (
            [(0, end), (1.0436, 1.5)],
            f"notes from 0 to {end} and from 1.0436 to 1.5 s",
            "Compare the times themselves, not frames or samples of time.",
        )
    for piece in range(20):
        start = np.random.randint(0, 40, 30) / 4
        end = start + np.random.randint(1, 12, 30) / 4
        if piece % 2:  # off the grid
            start, end = start + np.random.rand(30), end + 1 + np.random.rand(30)
        yield np.stack((start, end), axis=1), "30 random notes", ""


@exercise(
    "How many fingers?",
    cases=lambda: [
        Case(*np.array(notes, dtype=float).T, notes=words, wrong=hint)
        for notes, words, hint in _notes()
    ],
    returns="one integer",
    about="{notes}: you find {got} at once, and it should be {expected}.",
    praise="It agrees with a count at each start, on 20 random pieces of 30 notes.",
)
def most_at_once(start, end):
    """
    `most_at_once(start, end)` gets the starts and ends of n notes in seconds, two float arrays
    (n,), in any order, n at least 1, and returns the greatest number of notes that sound at the
    same time, an integer. A note that ends at the very time when another starts does not sound
    together with it. It knows no pitches: a key struck again while its sound is held counts twice.
    With your function, find out how many fingers the mazurka takes, and how many notes its pedal
    piles up (5 and 8).
    """
    # The number rises only where a note starts: count there, all starts at once.
    started = np.searchsorted(np.sort(start), start, side="right")
    ended = np.searchsorted(np.sort(end), start, side="right")  # right: out first
    return int((started - ended).max())


most_at_once.mistakes |= {
    "That is too few: at its start, a note sounds already.": lambda start, end: max(
        int(((start < time) & (time < end)).sum()) for time in start
    ),
    "Those are the pairs that sound together. Count the notes.": lambda start, end: max(
        1, int(np.triu((start[:, None] < end) & (start < end[:, None]), 1).sum())
    ),
}
most_at_once.caught |= {
    "counting notes that have ended": lambda start, end: len(start),
    "pairs that start together": lambda start, end: int(
        np.unique(start, return_counts=True)[1].max()
    ),
    "A note that ends leaves": {'right")  # right': 'left")  # right'},
    "return one integer": {"int(": "float("},
}


@most_at_once.catch("in another order")
def _(start, end):
    most, sounding = 0, []
    for on, off in zip(start, end, strict=True):
        sounding = [other for other in sounding if other > on] + [off]
        most = max(most, len(sounding))
    return most


@most_at_once.catch("Compare the times themselves")
def _(start, end):
    roll = np.zeros(round(10 * end.max()) + 1, int)
    for on, off in zip(start, end, strict=True):
        roll[round(10 * on) : round(10 * off)] += 1
    return int(roll.max())


def _strokes():
    """Notes and what is said when their ends are wrong."""

    def case(start, end, pitch, about, wrong):
        arrays = np.array(start, float), np.array(end, float), np.array(pitch, np.uint8)
        return Case(*arrays, about=about, wrong=wrong)

    for other, hint in (
        (64, "Here no key is struck again, so the ends stay as they are."),
        (72, "They are an octave apart, and two keys."),
    ):
        about = (
            f"keys 60 and {other} sound together, 0 to 3 s and 1 to 4 s; you end them at {{got}}."
        )
        yield case([0, 1], [3, 4], [60, other], about, hint)
    yield case(
        [0, 2],
        [1, 3],
        [60, 60],
        "key 60 sounds 0 to 1 s, and again 2 to 3 s; you end the notes at {got}.",
        "A note that has ended is not to be lengthened.",
    )
    yield case(
        [0, 1, 2],
        [9, 9, 9],
        [60, 60, 60],
        "key 60 is struck at 0, 1 and 2 s and held to 9 s: the ends are 1, 2, 9, not {got}.",
        "Each stroke is cut by the next one alone.",
    )
    yield case(
        [2, 0, 1],
        [9, 9, 9],
        [60, 60, 60],
        "strokes of key 60 listed as 2, 0, 1 s, held to 9 s, end at 9, 1, 2 s, not at {got}.",
        "The next stroke is next in time, not in the list.",
    )
    for _ in range(20):
        start = np.random.permutation(40) / 8
        pitch = np.random.choice([48, 60, 61, 62, 64, 72], 40)
        end = start + np.random.randint(1, 30, 40) / 8
        yield case(start, end, pitch, "40 random notes on six keys.", "{difference}")


@exercise(
    "Struck again",
    cases=_strokes,
    returns="an array, the new ends (n,), one for each note, in the order of the notes",
    praise="No key of 20 random pieces sounds twice at once, and nothing got longer.",
)
def cut_at_restrike(start, end, pitch):
    """
    The pedal holds a note, and its key is struck again: one string cannot sound twice. Write
    `cut_at_restrike(start, end, pitch)`: three arrays (n,), seconds, seconds and MIDI pitches, in
    any order, n at least 1. Return the new ends, an array (n,) in the order of the notes: a note
    ends no later than the next start of the same pitch. No two notes of one pitch start at the same
    time.
    """
    cut = end.copy()
    order = np.lexsort((start, pitch))  # by pitch, and by time within a pitch
    this, following = order[:-1], order[1:]
    same = pitch[this] == pitch[following]
    this, following = this[same], following[same]
    cut[this] = np.minimum(end[this], start[following])
    return cut


cut_at_restrike.mistakes |= {
    "Only the same key cuts a note: mind the pitch.": {
        "(start, pitch)": "(start,)",
        "this, following = this[same], following[same]": "",
    },
    "You give the right ends in another order. Put each back where its note stands in the list.": {
        "cut = end.copy()\n    order": "order",
        "this, following = order[:-1], order[1:]": "start, end, pitch = start[order], end[order], "
        "pitch[order]\n    cut = end.copy()\n    this = np.arange(len(end) - 1)\n"
        "    following = this + 1",
    },
    "Those are their starts: no note is its own next stroke.": lambda start, end, pitch: np.array(
        [
            min(e, *start[(pitch == p) & (start >= s)])
            for s, e, p in zip(start, end, pitch, strict=True)
        ]
    ),
}
cut_at_restrike.caught |= {
    "not to be lengthened": {"np.minimum(end[this], start[following])": "start[following]"},
    "an octave apart": {
        "(start, pitch)": "(start, pitch % 12)",
        "pitch[this] == pitch[following]": "pitch[this] % 12 == pitch[following] % 12",
    },
    "an array, the new ends": {"return cut": "return list(cut)"},
    "here of shape (2,)": lambda start, end, pitch: np.minimum(end[:-1], start[1:]),
    "no key is struck again": lambda start, end, pitch: end - 0.001,
}


@cut_at_restrike.catch("next in time")
def _(start, end, pitch):
    cut, struck = end.copy(), {}
    for i in range(len(start) - 1, -1, -1):
        key = int(pitch[i])
        cut[i] = min(end[i], struck.get(key, end[i]))
        struck[key] = start[i]
    return cut


@exercise("Your own, byte by byte", returns="the bytes of a MIDI file")
def compose():
    """
    Write a piece by hand. `compose()` takes nothing and returns the `bytes` of a MIDI file: a
    header of 14 bytes, one track, at most 200 bytes in all. It has at least eight notes, each with
    an end, two of them at the same time, two different velocities, and a change to another tempo
    while the piece sounds; a quarter note lasts 0.1 to 2 seconds. `TUNE`, `file_of` from above,
    which puts the header in front of a track, and your `write_number` are a good start. Then
    `play(PrettyMIDI(io.BytesIO(compose())))`.
    """
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


@compose.judge
def _(answer):
    data = compose.expect(answer(), b"")
    _judge_frame(data)
    try:
        parsed = mido.MidiFile(file=io.BytesIO(data))
        # Not from `parsed`, whose times it would change.
        midi = PrettyMIDI(io.BytesIO(data))
    except Exception as error:
        hint = (
            "Is there a wait before each event, 0 included, and does each wait from 128 ticks on "
            "take two bytes or more, as from write_number?"
        )
        if "0..127" in str(error):
            hint = "Pitches and velocities are below 80 (hexadecimal), 128. " + hint
        elif re.search(rb"\xff\x51[^\x03]", data):
            hint = "After ff 51 comes 03: a tempo has three bytes. " + hint
        raise Mistake(
            f"pretty_midi cannot read it ({type(error).__name__}: {error}). {hint}"
        ) from error
    [messages] = parsed.tracks
    strokes = _strokes_in(messages)
    if place := _status_left_out(data[22:]):
        raise Mistake(
            f"byte {22 + place} of the file is {data[22 + place]:#04x}, where a status should "
            "stand: a meta event, such as a tempo, cancels running status. pretty_midi lets it "
            "pass; the chapter's reader would not."
        )
    notes = [note for part in midi.instruments for note in part.notes]
    if strokes > len(notes):
        raise Mistake(
            f"{strokes} keys go down, but only {len(notes)} notes have an end: a key that never "
            "comes up is no note."
        )
    if len(notes) < 8:
        raise Mistake(f"{len(notes)} note{'s' * (len(notes) != 1)}; write 8 at least.")
    start, end = np.array([(note.start, note.end) for note in notes]).T
    _judge_tempo(messages, midi, start.min(), end.max())
    if len({note.velocity for note in notes}) < 2:
        raise Mistake("all notes have the same velocity: let one of them be louder.")
    if max(((start <= time) & (time < end)).sum() for time in start) < 2:
        raise Mistake("no two notes sound at the same time.")
    return f"{len(notes)} notes, {midi.get_end_time():.1f} seconds, {len(data)} bytes."


def _judge_frame(data):
    """Judge what stands around the events of a file."""
    if len(data) > 200:
        raise Mistake(f"{len(data)} bytes; the file must not be longer than 200.")
    if data[:4] != b"MThd":
        raise Mistake("it does not begin with the letters MThd.")
    if data[4:8] != bytes([0, 0, 0, 6]):
        raise Mistake("bytes 4 to 7 are the length of the header's body: 00 00 00 06.")
    if (num_tracks := int.from_bytes(data[10:12], "big")) != 1:
        raise Mistake(f"the header (bytes 10 and 11) promises {num_tracks} tracks; write one.")
    if not 0 < int.from_bytes(data[12:14], "big") < 0x8000:
        raise Mistake("bytes 12 and 13 are ticks per quarter note, from 1 to 32,767.")
    if data[14:18] != b"MTrk":
        raise Mistake("byte 14 is where the track begins, with the letters MTrk.")
    if (size := int.from_bytes(data[18:22], "big")) != len(data) - 22:
        raise Mistake(
            f"the track says that its length is {size} bytes, but {len(data) - 22} follow. Count "
            "them with len()."
        )
    if not data.endswith(b"\xff\x2f\x00"):
        raise Mistake("a track ends with the event ff 2f 00.")


def _strokes_in(messages):
    """How often a key goes down; raise a mistake where one comes up that should not."""
    strokes, tick, is_down = 0, 0, {}
    for message in messages:
        tick += message.time
        if message.type not in ("note_on", "note_off"):
            if not message.is_meta and message.type not in ("control_change", "program_change"):
                raise Mistake(
                    f"at tick {tick} stands an event of kind {message.type}, which is no key. Is "
                    "it the second byte of a wait? Waits from 128 ticks on take two bytes or "
                    "more, as from write_number."
                )
            continue
        key = message.channel, message.note
        if message.type == "note_on" and message.velocity > 0:
            strokes += 1
            is_down[key] = tick
        elif key not in is_down:
            raise Mistake(
                f"at tick {tick} key {message.note} comes up, but it is not down. An event "
                "without a status has the one before it: after an 80, the key comes up."
            )
        elif is_down.pop(key) == tick:
            raise Mistake(
                f"key {message.note} comes up at the very tick at which it goes down, {tick}: a "
                "note of no length is not heard."
            )
    return strokes


def _status_left_out(track):
    """Where a status is missing after a meta event; else None."""
    at, status = 0, 0xFF
    while at < len(track):
        while track[at] >= 0x80:  # the wait
            at += 1
        at += 1
        if track[at] >= 0x80:
            status, at = track[at], at + 1
        elif status == 0xFF:
            return at
        if status == 0xFF:
            at += 2 + track[at + 1]
        else:
            at += 1 if status >> 4 == 0xC else 2
    return None


def _judge_tempo(messages, midi, first, last):
    """Judge the tempi of a piece that sounds from `first` to `last`, in seconds."""
    kinds = [message.type for message in messages]
    for message in messages:
        if message.type == "set_tempo" and not 100_000 <= message.tempo <= 2_000_000:
            raise Mistake(
                f"a tempo makes a quarter note {message.tempo / 1e6:.3g} seconds long; stay "
                "within 0.1 and 2. Is its most significant byte first?"
            )
    times, tempi = midi.get_tempo_changes()
    changes = times[1:][np.diff(tempi) != 0]
    if not len(changes) and "set_tempo" in kinds[kinds.index("note_on") :]:
        raise Mistake(
            "the tempo does not change: a tempo event sets what held already. Without one, a file "
            "begins at 500,000 µs."
        )
    if not (changes > first).any():
        raise Mistake("the tempo does not change after the first note has begun.")
    if not ((first < changes) & (changes < last)).any():
        raise Mistake("the tempo changes when the last note is over: nobody hears it.")


def _file(*events, num_tracks=1):
    """A piece with these events, in hexadecimal."""
    track = bytes.fromhex("".join(events) + "00 ff 2f 00")
    header = bytes.fromhex(f"4d546864 00000006 0000 {num_tracks:04x} 0060")
    return header + b"MTrk" + len(track).to_bytes(4, "big") + track


_NOTE, _OTHER, _TEMPO = "00 90 3c 50  60 3c 00", "00 90 3c 40  60 3c 00", "00 ff 51 03 06 1a 80"
compose.caught |= {
    "the track says that its length": {"len(track)": "len(header)"},
    "a key that never comes up": lambda: _file("00 90 3c 50" + "60 3c 50" * 9),
    "the tempo does not change after": lambda: _file(_TEMPO, _NOTE * 9),
    "the tempo does not change: ": lambda: _file(_NOTE, "00 ff 51 03 07 a1 20", _NOTE * 8),
    "no two notes": lambda: _file(_NOTE, _TEMPO, _OTHER, _NOTE * 7),
    "the same velocity": lambda: _file(_NOTE, _TEMPO, _NOTE * 8),
    "after an 80": lambda: _file("00 90 3c 50  60 80 3c 40", "00 3e 50  60 3e 40" * 8),
    "the second byte of a wait": lambda: _file("00 90 3c 50  01 e0 3c 00", _NOTE * 8),
    "promises 2 tracks": lambda: _file(_NOTE * 8, num_tracks=2),
    "most significant byte first": lambda: _file(_NOTE * 8, "00 ff 51 03 80 1a 06", _OTHER),
    "nobody hears it": lambda: _file(_NOTE * 8, _TEMPO),
    "cancels running status": lambda: _file(
        _NOTE * 8, "00 90 40 40  00 43 50", _TEMPO, "60 40 00  00 43 00"
    ),
    "the very tick": lambda: _file(_NOTE * 8, "00 40 50  00 40 00"),
    "below 80 (hexadecimal)": lambda: _file("00 90 3c 90  60 3c 00" * 8),
    "a tempo has three bytes": lambda: _file(_NOTE, "00 ff 51 02 1a 80"),
    "1 note; write 8": lambda: _file(_NOTE),
}
