"""Whatever is in a file: a performance or a MidiReadError, soon and in little memory."""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE

from tinyperceiver.music import midi
from tinyperceiver.music.midi import (
    MAX_BYTES,
    MAX_EVENTS,
    MAX_SECONDS,
    MidiReadError,
    read_midi,
)

ROOT = Path(__file__).resolve().parent.parent

# Reads the files named on its input, in a process that dies where a file takes more than 10 s of
# computing or a minute of waiting, and that gets no more than 1 GiB beyond what the imports took.
CHILD = """
import json, math, resource, signal, sys, warnings
from pathlib import Path

import mido, pretty_midi
from tinyperceiver import MidiReadError, encode_midi, read_midi

warnings.simplefilter("ignore")
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, taken + 2**30))


def faults(midi):
    for instrument in midi.instruments:
        for note in instrument.notes:
            if not (math.isfinite(note.end) and 0 <= note.start <= note.end <= 4 * 3600):
                yield f"a note from {note.start} to {note.end} s"
            if not (0 <= note.pitch <= 127 and 0 <= note.velocity <= 127):
                yield f"a note of pitch {note.pitch} and velocity {note.velocity}"
        for change in instrument.control_changes:
            if not (math.isfinite(change.time) and 0 <= change.value <= 127):
                yield f"a control change to {change.value} at {change.time} s"
    if not math.isfinite(midi.get_end_time()):
        yield f"an end at {midi.get_end_time()} s"
    if sum(len(instrument.notes) for instrument in midi.instruments) < 1000:
        if not all(0 <= token < 388 for token in encode_midi(midi)):
            yield "tokens that are no events"


for line in sys.stdin:
    path = json.loads(line)
    print(json.dumps(path), flush=True)
    signal.setitimer(signal.ITIMER_PROF, 10)
    signal.alarm(60)
    try:
        midi = read_midi(path)
    except MidiReadError as error:
        answer = {"refused": str(error)}
    except BaseException as error:
        answer = {"raised": repr(error)[:500]}
    else:
        notes = sum(len(instrument.notes) for instrument in midi.instruments)
        answer = {"notes": notes, "faults": list(faults(midi))[:3]}
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    print(json.dumps(answer), flush=True)
"""


def read_all(paths) -> dict[str, dict]:
    """What `read_midi` answers for each path, asked in another process."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("limits the memory of a process in the Linux way")
    run = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="".join(json.dumps(str(path)) + "\n" for path in paths),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if run.returncode:
        last = lines[-1] if lines else None
        pytest.fail(f"ended with {run.returncode} at {last!r}: {run.stderr[-2000:]}")
    answers = dict(zip(lines[0::2], lines[1::2], strict=True))
    assert len(answers) == len(paths) > 0
    return answers


def check(path, answer) -> None:
    """A sane performance, or one kind of error that names the file and says why."""
    if "refused" in answer:
        name, _, reason = answer["refused"].partition(" cannot be read as MIDI: ")
        assert name == repr(str(path))
        assert len(reason.strip()) > 5
    else:
        assert answer.get("raised") is None, f"{path}: {answer['raised']}"
        assert answer["faults"] == [], path


# Files, byte by byte.


def number(value: int) -> bytes:
    """A variable-length quantity."""
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127 | 128)
    return bytes(reversed(digits))


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack(">L", len(body)) + body


def file_of(*tracks: bytes, ticks: int = 480, kind: int = 1, count: int | None = None) -> bytes:
    count = len(tracks) if count is None else count
    header = chunk(b"MThd", struct.pack(">HHH", kind, count, ticks))
    return header + b"".join(chunk(b"MTrk", track) for track in tracks)


def meta(kind: int, body: bytes, delta: int = 0) -> bytes:
    return number(delta) + bytes([0xFF, kind]) + number(len(body)) + body


END = meta(0x2F, b"")
ON, OFF = b"\x00\x90\x3c\x40", b"\x60\x80\x3c\x40"  # key 60 down, and up 96 ticks later
NOTE = ON + OFF
GOOD = file_of(NOTE + END)
HEADER, TRACK = GOOD[:14], GOOD[14:]
SLOWEST = meta(0x51, b"\xff\xff\xff")  # 16.8 s a quarter

# Name of the fault -> the file, and either the notes of a sane reading or words of the refusal.
FAULTS = {
    "good": (GOOD, 1),
    "empty": (b"", "MThd"),
    "four letters alone": (b"MThd", "ends too early"),
    "text": (b"This is not music.\n" * 50, "MThd"),
    "a wave file": (b"RIFF\x24\x00\x00\x00WAVEfmt ", "MThd"),
    "midi inside riff": (b"RIFF\x2e\x00\x00\x00RMIDdata" + GOOD, "MThd"),
    "header cut short": (GOOD[:11], "ends too early"),
    "header alone": (HEADER, "ends too early"),
    "header length 5": (b"MThd\x00\x00\x00\x05" + GOOD[8:13], "ends too early"),
    "header length 4 GB": (b"MThd\xff\xff\xff\xff" + GOOD[8:], "ends too early"),
    "header longer than usual": (chunk(b"MThd", GOOD[8:14] + b"\x00\x00") + TRACK, 1),
    "no tracks": (file_of(), "no events"),
    "fewer tracks than named": (file_of(NOTE + END, count=2), "ends too early"),
    "more tracks than named": (file_of(NOTE + END, NOTE + END, count=1), 1),
    "32767 tracks named": (file_of(NOTE + END, count=32767), "ends too early"),
    "65535 tracks named": (file_of(NOTE + END, count=65535), "no events"),
    "junk at the end": (GOOD + b"junk" * 10, 1),
    "a track without events": (file_of(b""), "no events"),
    "a track of another name": (HEADER + TRACK.replace(b"MTrk", b"Mtrk"), "MTrk"),
    "a track cut short": (GOOD[:-6], "ends too early"),
    "a track length of 4 GB": (HEADER + b"MTrk\xff\xff\xff\xff" + TRACK[8:], "ends too early"),
    "a track length too small": (
        HEADER + b"MTrk" + struct.pack(">L", len(TRACK) - 8 - 2) + TRACK[8:],
        "ends too early",
    ),
    "no end of track": (file_of(NOTE), 1),
    "format 2": (file_of(NOTE + END, NOTE + END, kind=2), 2),
    "format 7": (file_of(NOTE + END, kind=7), 1),
    "zero ticks per quarter": (file_of(NOTE + END, ticks=0), "0 ticks per quarter"),
    "smpte division": (file_of(NOTE + END, ticks=0xE728), "SMPTE"),
    "tempo 0": (file_of(meta(0x51, b"\0\0\0") + NOTE + END), "damaged event"),
    "tempo of two bytes": (file_of(meta(0x51, b"\7\xa1") + NOTE + END), "damaged event"),
    "key signature of 15 sharps": (file_of(meta(0x59, b"\x0f\x00") + NOTE + END), "15 sharps"),
    "key signature of mode 255": (file_of(meta(0x59, b"\x00\xff") + NOTE + END), "mode 255"),
    "time signature over 0": (file_of(meta(0x58, b"\0\2\x18\x08") + NOTE + END), "numerator"),
    "time signature of two bytes": (file_of(meta(0x58, b"\4\2") + NOTE + END), "damaged event"),
    "time signature under 2 ** 255": (file_of(meta(0x58, b"\4\xff\x18\x08") + NOTE + END), 1),
    "smpte offset of frame rate 7": (
        file_of(meta(0x54, b"\xff" * 5) + NOTE + END),
        "damaged event",
    ),
    "sequence number of one byte": (file_of(meta(0x00, b"\1") + NOTE + END), "damaged event"),
    "channel prefix without channel": (file_of(meta(0x20, b"") + NOTE + END), "damaged event"),
    "unknown meta event": (file_of(meta(0x60, b"\xff" * 900) + NOTE + END), 1),
    "text in no charset": (file_of(meta(0x01, b"\xff\xfe\x80") + NOTE + END), 1),
    "meta event of 128 MB": (file_of(b"\0\xff\x01" + number(2**27) + NOTE + END), "length"),
    "meta event longer than the file": (file_of(b"\0\xff\x01\x70" + END), "ends too early"),
    "meta event of 1 MB": (file_of(meta(0x01, b"a" * 1_000_001) + NOTE + END), "length"),
    "system exclusive of 128 MB": (file_of(b"\0\xf0" + number(2**27) + NOTE + END), "length"),
    "system exclusive without end": (file_of(b"\0\xf0\x70\x01\x02"), "ends too early"),
    "system exclusive of nothing": (file_of(b"\0\xf0\x00" + NOTE + END), 1),
    "data byte above 127": (file_of(b"\0\x90\x3c\xc8" + OFF + END), "data byte"),
    "undefined status": (file_of(b"\0\xf4" + NOTE + END), "undefined status"),
    "running status first": (file_of(b"\0\x3c\x40" + END), "running status"),
    "running status after meta": (file_of(ON + meta(1, b"a") + b"\x60\x3c\x00" + END), 1),
    "note never closed": (file_of(ON + END), 0),
    "note-off without note": (file_of(OFF + END), 0),
    "note without length": (file_of(ON + b"\x00\x80\x3c\x40" + END), 0),
    "two notes of one key closed together": (file_of(ON + b"\x01\x90\x3c\x40" + OFF + END), 2),
    "drums": (file_of(b"\0\x99\x24\x40\x60\x89\x24\x40" + END), 1),
    "pedal without notes": (file_of(b"\0\xb0\x40\x7f\x60\xb0\x40\x00" + END), 0),
    "tempo changes on the second track": (file_of(END, meta(0x51, b"\7\xa1\x20") + NOTE + END), 1),
    "a number of 900 bytes": (file_of(b"\xff" * 900 + b"\x7f" + ON[1:] + END), "tick"),
    "a number of 200 KB": (file_of(b"\xff" * 200_000 + b"\x7f" + ON[1:] + END), "without end"),
    "a number of 2 MB": (file_of(b"\xff" * 2_000_000), "without end"),
    "a zero of 2 MB": (file_of(b"\x80" * 2_000_000 + NOTE + END), "without end"),
    "a length of 2 MB": (file_of(b"\0\xff\x01" + b"\x80" * 2_000_000), "without end"),
    "numbers of 900 bytes": (file_of((b"\x80" * 900 + NOTE) * 500 + END), 500),
    "tick 268,435,455": (file_of(ON + b"\xff\xff\xff\x7f\x80\x3c\x40" + END), "largest tick"),
    "tempo change at that tick": (
        file_of(NOTE + meta(0x51, b"\7\xa1\x20", 2**28 - 1) + END),
        "largest tick",
    ),
    "days in 50 bytes": (
        file_of(SLOWEST + ON + number(9_000_000) + OFF[1:] + END, ticks=1),
        "seconds long, more than 14,400",
    ),
    "100,000 notes never closed": (file_of(ON + b"\x01\x3c\x40" * 99_999 + END), 0),
    "20,000 notes closed by one": (file_of(ON + b"\x01\x3c\x40" * 19_999 + OFF + END), 20_000),
    "20,000 tempo changes": (
        file_of(b"".join(meta(0x51, b"\7\xa1" + bytes([i & 1]), 1) for i in range(20_000)) + END),
        0,
    ),
    "2,048 instruments on one track": (
        file_of(
            b"".join(
                bytes([0, 0xC0 + c, p, 0, 0x90 + c, 60, 64, 1, 0x80 + c, 60, 64])
                for c in range(16)
                for p in range(128)
            )
            + END
        ),
        2048,
    ),
    "2,000 tracks": (file_of(*[NOTE + END] * 2000), 2000),
    # pretty_midi gives 128 instruments one list of control changes.
    "pedals shared by 128 instruments": (
        file_of(
            b"\0\xb0\x40\x7f"
            + b"\0\x40\x00\0\x40\x7f" * 1_000
            + b"".join(bytes([0, 0xC0, p]) + NOTE for p in range(128))
            + END
        ),
        128,
    ),
    "more events than any performance": (file_of(ON + b"\0\x3c\x40" * 500_000), "500,000 events"),
}
NOT_FILES = ["directory", "fifo", "device", "missing"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for name, (content, _) in FAULTS.items():
        paths[name] = folder / f"{name.replace('*', 'x')}.mid"
        paths[name].write_bytes(content)
    (folder / "directory.mid").mkdir()
    os.mkfifo(folder / "fifo.mid")
    (folder / "device.mid").symlink_to("/dev/zero")
    paths.update({name: folder / f"{name}.mid" for name in NOT_FILES})
    answers = read_all(list(paths.values()))
    return {name: (path, answers[str(path)]) for name, path in paths.items()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_of_every_fault(answers, name):
    path, answer = answers[name]
    check(path, answer)
    expected = FAULTS[name][1]
    if isinstance(expected, int):
        assert answer.get("notes") == expected, answer
    else:
        assert expected in answer.get("refused", ""), answer
        assert len(answer["refused"]) < 1000, "nobody reads that"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("directory", "not a regular file"),
        ("fifo", "not a regular file"),
        ("device", "not a regular file"),
        ("missing", "No such file"),
    ],
)
def test_what_is_no_file_is_refused_without_waiting(answers, name, reason):
    path, answer = answers[name]
    check(path, answer)
    assert reason in answer["refused"]


def test_malformed_files_from_elsewhere(data):
    paths = sorted((data / "badmidi").rglob("*.mid"))
    assert len(paths) > 40
    answers = read_all(paths)
    for path in paths:
        check(path, answers[str(path)])
    good = [answers[str(path)].get("notes", 0) for path in paths if "MIDIOk" in path.name]
    assert len(good) == 4
    assert all(good)


def small_song() -> list[bytes]:
    """Tracks with a little of everything that a file can hold."""
    first = (
        meta(0x03, b"name")
        + meta(0x51, b"\x07\xa1\x20")
        + meta(0x58, b"\x04\x02\x18\x08")
        + meta(0x59, b"\x02\x00")
        + meta(0x54, b"\x20\0\0\0\0")
        + meta(0x05, b"la")
        + meta(0x51, b"\x06\0\0", 200)
        + END
    )
    second = b"\0\xc0\x05\0\xb0\x40\x7f" + NOTE + b"\x10\x90\x40\x50\x20\x40\x00"
    second += b"\0\xf0\x03\x01\x02\xf7\0\xe0\x01\x40\0\xa0\x3c\x01\0\xd0\x01\0\xb0\x40\x00" + END
    third = b"\0\x99\x24\x60\x10\x24\x00" + meta(0x7F, b"abc") + NOTE + END
    return [first, second, third]


def mutated(original: bytes, rng: random.Random) -> bytes:
    content = bytearray(original)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        place = rng.randrange(len(content))
        kind = rng.randrange(6)
        if kind == 0:
            content[place] = rng.randrange(256)
        elif kind == 1:
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            content[place] = rng.choice([0, 0x7F, 0x80, 0xFF])
        elif kind == 3 and len(content) > 20:
            del content[place : place + rng.randrange(1, 5)]
        elif kind == 4:
            content[place:place] = rng.randbytes(rng.randrange(1, 5))
        else:
            other = rng.randrange(len(content))
            content[place:place] = content[other : other + rng.randrange(1, 30)]
    return bytes(content)


def test_mutations_of_a_small_file(tmp_path):
    rng, song, paths = random.Random(0), small_song(), []
    for place in range(300):
        paths.append(tmp_path / f"{place}.mid")
        tracks = list(song)
        if place % 2:  # lengths stay right, so that the damage is read on
            damaged = rng.randrange(len(tracks))
            tracks[damaged] = mutated(tracks[damaged], rng)
        content = file_of(*tracks)
        paths[-1].write_bytes(mutated(content, rng) if place and place % 2 == 0 else content)
    answers = read_all(paths)
    for path in paths:
        check(path, answers[str(path)])
    assert answers[str(paths[0])] == {"notes": 4, "faults": []}
    refused = sum("refused" in answer for answer in answers.values())
    assert 50 < refused < 270  # both ways are well travelled


# The bounds, from both sides.


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_bound_on_bytes(tmp_path):
    full = write(tmp_path / "full.mid", GOOD + bytes(MAX_BYTES - len(GOOD)))
    assert len(read_midi(full).instruments[0].notes) == 1
    over = write(tmp_path / "over.mid", full.read_bytes() + b"\0")
    with pytest.raises(MidiReadError, match="more than 4,000,000 bytes"):
        read_midi(over)


@pytest.mark.parametrize("tracks", [1, 3])
def test_the_bound_on_events(tmp_path, monkeypatch, tracks):
    # It rests on mido asking for its place in the file once before each event, and once a track.
    monkeypatch.setattr(midi, "MAX_EVENTS", 300)
    body, events = NOTE * 20 + b"\0\xb0\x40\x7f\0\x40\0" + meta(1, b"a") + b"\0\xf0\0" + END, 45
    within = (300 - tracks) // events // tracks
    path = write(tmp_path / "within.mid", file_of(*[body * within] * tracks))
    assert len(read_midi(path).instruments[0].notes) == 20 * within
    path = write(tmp_path / "over.mid", file_of(*[body * (within + 1)] * tracks))
    with pytest.raises(MidiReadError, match="more than 300 events"):
        read_midi(path)


def test_the_bound_on_events_counts_each_once(tmp_path, monkeypatch):
    monkeypatch.setattr(midi, "MAX_EVENTS", 300)
    path = write(tmp_path / "under.mid", file_of(ON * 298))
    assert read_midi(path).instruments == []
    path = write(tmp_path / "over.mid", file_of(ON * 301))
    with pytest.raises(MidiReadError, match="more than 300 events"):
        read_midi(path)


def test_the_bounds_leave_room_for_the_longest_performance():
    # 115,481 notes (on and off) in the longest file of GiantMIDI-Piano, with as much pedal again.
    assert MAX_EVENTS >= 115_481 * 4
    assert MAX_BYTES >= 115_481 * 4 * 4


def test_the_bound_on_seconds(tmp_path):
    second = meta(0x51, struct.pack(">L", 1_000_000)[1:])  # a quarter a second
    for over in (0, 1):
        length = number(MAX_SECONDS * 100 + over)
        path = write(
            tmp_path / f"{over}.mid", file_of(second + ON + length + OFF[1:] + END, ticks=100)
        )
        if not over:
            assert read_midi(path).get_end_time() == pytest.approx(MAX_SECONDS)
        else:
            with pytest.raises(MidiReadError, match=r"14,400 seconds long|more than 14,400"):
                read_midi(path)


# Paths, and what is left behind.


def test_a_good_file_is_read_as_it_is(tmp_path):
    content = file_of(b"\0\xc0\x05\0\xb0\x40\x7f" + NOTE + b"\0\xb0\x40\x00" + END)
    path = write(tmp_path / "good.mid", content)
    for name in (path, str(path), os.fsencode(path)):
        (instrument,) = read_midi(name).instruments
        (note,) = instrument.notes
        assert (note.pitch, note.velocity, note.start, note.end) == (60, 64, 0.0, 0.1)
        assert [(c.number, c.value, c.time) for c in instrument.control_changes] == [
            (64, 127, 0.0),
            (64, 0, 0.1),
        ]
        assert instrument.program == 5
    assert path.read_bytes() == content


def test_the_error_is_a_value_error_with_its_cause(tmp_path):
    path = write(tmp_path / "it's bad\n.mid", GOOD[:-6])
    with pytest.raises(ValueError, match="ends too early") as refusal:
        read_midi(path)
    assert type(refusal.value) is MidiReadError
    assert isinstance(refusal.value.__cause__, EOFError)
    assert repr(str(path)) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("error", [TypeError, AttributeError, NameError, MemoryError])
def test_a_mistake_in_a_program_is_not_blamed_on_the_file(tmp_path, monkeypatch, error):
    """So did pretty_midi 0.2.10, which knows no `mido_object`: every file was damaged."""

    def fail(**_):
        raise error("unexpected keyword argument 'mido_object'")

    monkeypatch.setattr("pretty_midi.PrettyMIDI", fail)
    with pytest.raises(error, match="mido_object"):
        read_midi(write(tmp_path / "good.mid", GOOD))


@pytest.mark.parametrize("name", ["", "no/such/folder/file.mid", "a\0b.mid", "x" * 5000 + ".mid"])
def test_paths_that_lead_nowhere(name):
    with pytest.raises(MidiReadError, match="cannot be read as MIDI"):
        read_midi(name)


def test_a_file_that_may_not_be_read(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    path = write(tmp_path / "secret.mid", GOOD)
    path.chmod(0)
    with pytest.raises(MidiReadError, match="Permission denied"):
        read_midi(path)


def test_a_failure_leaves_nothing_behind(tmp_path):
    text = meta(0x01, "prélude".encode("latin-1"))
    good = write(tmp_path / "good.mid", file_of(text + NOTE + END))
    bad = write(tmp_path / "bad.mid", file_of(text + meta(0x59, b"\x0f\x00") + END))
    expected = read_midi(good)
    with pytest.raises(MidiReadError):
        read_midi(bad)
    again = read_midi(good)
    assert [event.text for event in again.text_events] == ["prélude"]
    assert repr(again.instruments[0].notes) == repr(expected.instruments[0].notes)
