"""The fast reader against `read_midi`: the same notes, pedals and errors, on files of any kind."""

import random
import warnings
import zipfile

import mido
import pytest

from tinyperceiver.music import fast_midi
from tinyperceiver.music.fast_midi import read_performance
from tinyperceiver.music.midi import MidiReadError, read_midi
from tinyperceiver.music.tokenizer import encode_midi

pytestmark = pytest.mark.filterwarnings("ignore:Tempo, Key or Time signature")


def contents(midi) -> list[tuple]:
    return [
        (
            int(player.program),
            bool(player.is_drum),
            [(n.velocity, n.pitch, n.start, n.end) for n in player.notes],
            [(c.number, c.value, c.time) for c in player.control_changes],
        )
        for player in midi.instruments
    ]


@pytest.fixture
def handed_on(monkeypatch) -> list[bytes]:
    """The files that the fast path did not read itself."""
    seen, really = [], fast_midi._read_unusual
    monkeypatch.setattr(
        fast_midi, "_read_unusual", lambda data: (seen.append(data), really(data))[1]
    )
    return seen


def check_same(data: bytes, path) -> bool:
    """Whether the file can be read; either way both readers must agree."""
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = read_midi(path)
    except MidiReadError as error:
        with pytest.raises(MidiReadError) as raised:
            read_performance(data)
        assert str(error) == f"{str(path)!r} cannot be read as MIDI: {raised.value}"
        return False
    assert contents(read_performance(data)) == contents(expected)
    return True


def number(value: int) -> bytes:
    """As MIDI writes it: 7 bits in a byte, 1 more to say that another follows."""
    data = bytes([value & 0x7F])
    while value := value >> 7:
        data = bytes([value & 0x7F | 0x80]) + data
    return data


def file_of(*tracks: bytes, division: int = 96, count: int | None = None) -> bytes:
    header = [1, len(tracks) if count is None else count, division]
    data = b"MThd\0\0\0\x06" + b"".join(v.to_bytes(2, "big", signed=True) for v in header)
    return data + b"".join(b"MTrk" + len(t).to_bytes(4, "big") + t for t in tracks)


NOTE = b"\0\x90\x3c\x40\x60\x80\x3c\0"


def random_track(rng: random.Random, oddity: float) -> bytes:
    """Few keys and channels, so that notes overlap, repeat and share what they can share."""
    data, status = b"", None
    for _ in range(rng.randrange(1, 60)):
        data += number(rng.choice((0, 0, 0, 1, 5, 96, 130, 20_000 if rng.random() < 0.1 else 7)))
        kind, channel = rng.choice((0x90,) * 8 + (0x80,) * 4 + (0xB0,) * 4), rng.choice((0, 1, 9))
        if rng.random() < 0.2:
            kind = rng.choice((0xA0, 0xC0, 0xC0, 0xD0, 0xE0, 0xFF))
        if kind == 0xFF:
            tempo = rng.choice((1, 400_000, 500_000, 500_001, 16_777_215)).to_bytes(3, "big")
            meta, value = rng.choice(
                (
                    *((0x51, tempo),) * 3,
                    (0x58, bytes([rng.randrange(1, 9), 2, 24, 8])),
                    (0x59, bytes([rng.choice((0, 3, 0xF9)), rng.randrange(2)])),
                    (rng.randrange(1, 8), rng.randbytes(rng.randrange(40))),
                    (0x2F, b""),
                )
            )
            if rng.random() < oddity:
                meta, value = rng.randrange(256), rng.randbytes(rng.randrange(200))
            data += bytes([0xFF, meta]) + number(len(value)) + value
            continue
        if status != kind | channel or rng.random() < 0.3:
            status = kind | channel
            data += bytes([status])
        if kind in (0xC0, 0xD0):
            data += bytes([rng.randrange(3)])
        elif kind == 0xB0:
            data += bytes([rng.choice((64, 64, 7)), rng.randrange(128)])
        else:
            data += bytes([rng.choice((60, 61)), rng.choice((0, 40, 41, 127))])
        if rng.random() < oddity / 5:
            data += b"\0" + rng.choice((b"\xf0\3\1\2\xf7", b"\xf7\1\x05", b"\xf2\1\2", b"\xf8"))
    return data


def random_file(seed: int, oddity: float = 0.0) -> bytes:
    rng = random.Random(seed)
    tracks = [random_track(rng, oddity) for _ in range(rng.randrange(1, 4))]
    data = bytearray(file_of(*tracks, division=rng.choice((1, 96, 384, 480, 32_767))))
    if rng.random() < oddity:  # damage
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < oddity / 4:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def test_random_files_are_read_alike_and_fast(tmp_path, handed_on):
    read = [check_same(random_file(seed), tmp_path / "a.mid") for seed in range(800)]
    assert sum(read) > 750
    # Some last for hours at the slowest tempo, which is for read_midi to judge.
    assert len(handed_on) < 80


def test_random_odd_and_damaged_files_are_read_alike(tmp_path, handed_on):
    read = [check_same(random_file(seed, 0.4), tmp_path / "a.mid") for seed in range(800)]
    assert 200 < sum(read) < 700 and len(handed_on) > 200


def test_files_written_by_mido_are_read_alike(tmp_path, handed_on):
    rng = random.Random(0)
    for _ in range(100):
        file = mido.MidiFile(ticks_per_beat=rng.choice((96, 384, 480)))
        for _ in range(rng.randrange(1, 4)):
            track = file.add_track("Piano")
            for _ in range(rng.randrange(1, 40)):
                kind = rng.choice(("note_on", "note_on", "note_off", "control_change"))
                data = {"note": rng.randrange(58, 62), "velocity": rng.choice((0, 50, 90))}
                if kind == "control_change":
                    data = {"control": 64, "value": rng.randrange(128)}
                track.append(mido.Message(kind, time=rng.randrange(300), **data))
            if rng.random() < 0.5:
                track.insert(0, mido.MetaMessage("set_tempo", tempo=rng.randrange(1, 900_000)))
        file.save(tmp_path / "a.mid")
        assert check_same((tmp_path / "a.mid").read_bytes(), tmp_path / "b.mid")
    assert handed_on == []


@pytest.mark.parametrize(
    "before, counts",
    [(b"\0\xb0\x40\x7f", [2, 2]), (b"\0\xe0\0\0", [1, 1]), (b"", [0, 1])],
)
def test_players_share_pedals_as_they_do_in_pretty_midi(before, counts, tmp_path, handed_on):
    # A pedal or bend before the first note makes one list for all programs of the channel.
    data = file_of(before + NOTE + b"\0\xc0\5\0\xb0\x40\0\0\x90\x3c\x40\x60\x3c\0")
    assert check_same(data, tmp_path / "a.mid")
    assert [len(p.control_changes) for p in read_performance(data).instruments] == counts
    assert handed_on == []


ODD = {
    "no track": file_of(),
    "no event": file_of(b""),
    "one of two tracks empty": file_of(NOTE, b""),
    "a track less than announced": file_of(NOTE, count=2),
    "minus one track": file_of(NOTE, count=-1),
    "bytes after the last track": file_of(NOTE) + b"more",
    "2,000 high bytes after the last track": file_of(NOTE) + b"\xff" * 2000,
    "zero ticks": file_of(NOTE, division=0),
    "SMPTE": file_of(NOTE, division=-7000),
    "no tempo": file_of(b"\0\xff\x51\3\0\0\0" + NOTE),
    "short tempo": file_of(b"\0\xff\x51\2\1\1" + NOTE),
    "long tempo": file_of(b"\0\xff\x51\4\7\1\1\1" + NOTE),
    "0/4": file_of(b"\0\xff\x58\4\0\2\x18\x08" + NOTE),
    "eight flats": file_of(b"\0\xff\x59\2\xf8\0" + NOTE),
    "neither major nor minor": file_of(b"\0\xff\x59\2\0\2" + NOTE),
    "unknown meta event, whose delta mido forgets": file_of(b"\x60\xff\x08\1\1" + NOTE),
    "text longer than the file": file_of(b"\0\xff\1\x7f" + NOTE),
    "text of 200 bytes": file_of(b"\0\xff\1" + number(200) + b"a" * 200 + NOTE),
    "running status at the start": file_of(NOTE[:1] + NOTE[2:]),
    "running status after a meta event": file_of(NOTE + b"\0\xff\1\0\0\x3c\0"),
    "a track that ends in an event": file_of(NOTE[:-1]),
    "a track that ends in a delta": file_of(NOTE + b"\x81"),
    "a data byte of 128": file_of(b"\0\x90\x80\x40" + NOTE),
    "a delta of 5 bytes": file_of(b"\x80\x80\x80\x80\0" + NOTE),
    "a delta of 2,000 bytes": file_of(b"\x80" * 2000 + NOTE),
    "after four hours": file_of(NOTE, number(4 * 3600 * 192 + 200) + b"\x90\x3c\x40\x60\x3c\0"),
    "silent after four hours": file_of(NOTE + number(4 * 3600 * 192 + 200) + b"\xff\x2f\0"),
    "more ticks than pretty_midi reads": file_of(number(9_999_999) + NOTE, division=32_767),
    "500,000 events in a million bytes": file_of(b"\0\xc0\0" + b"\0\0" * 499_980),
    "nothing": b"",
    "a header": file_of(NOTE)[:14],
    "half a header": file_of(NOTE)[:10],
    "a longer header": b"MThd\0\0\0\x08" + file_of(NOTE)[8:14] + b"\0\0" + file_of(NOTE)[14:],
    "not MIDI": b"RIFF" + file_of(NOTE),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_read_alike(name, tmp_path):
    check_same(ODD[name], tmp_path / "a.mid")


def test_malformed_files_are_read_alike(data, tmp_path):
    paths = sorted((data / "badmidi").rglob("*.mid"))
    paths = [path for path in paths if path.stem != "sysex_len_1e6plus"]  # 10 s in read_midi
    read = [check_same(path.read_bytes(), tmp_path / "a.mid") for path in paths]
    assert len(read) > 40 and 0 < sum(read) < len(read)


def test_real_files_are_read_alike_and_fast(data, tmp_path, handed_on):
    with zipfile.ZipFile(data / "giantmidi-piano-sample.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".mid")]
        for name in names[::10]:
            midi = archive.read(name)
            assert check_same(midi, tmp_path / "a.mid")
            assert encode_midi(read_performance(midi)) == encode_midi(read_midi(tmp_path / "a.mid"))
    assert handed_on == []
