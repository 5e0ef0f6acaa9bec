"""The numbers by which chapter 10 compares music: each on music whose answer is known."""

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tinyperceiver.files.download import DownloadError
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import decode_midi, encode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, TIME_SHIFT
from tinyperceiver.teaching import measuring, records
from tinyperceiver.teaching.music import played

pytestmark = pytest.mark.numeric


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The record that a server has, for a notebook that stands alone, as on Colab."""
    served, alone = tmp_path / "served", tmp_path / "alone"
    (served / records.MEASURED).parent.mkdir(parents=True)
    shutil.copy(records.BOOK / records.MEASURED, served / records.MEASURED)
    alone.mkdir()
    monkeypatch.chdir(alone)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(records, "BOOK", tmp_path / "absent")
        monkeypatch.setattr(records, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
        yield served / records.MEASURED
        server.shutdown()


def test_a_record_that_is_not_there_is_fetched_once(served):
    expected = json.loads(served.read_bytes())
    assert records.recorded_numbers.__wrapped__(records.MEASURED) == expected
    served.unlink()
    assert records.recorded_numbers.__wrapped__(records.MEASURED) == expected


def test_a_record_that_is_damaged_or_of_another_version_is_refused(served):
    served.write_bytes(served.read_bytes()[:-100])
    with pytest.raises(DownloadError, match="damaged, or another file"):
        records.recorded_file(records.MEASURED)
    assert not Path(records.MEASURED).exists()


def on(pitch: int) -> int:
    return pitch


def off(pitch: int) -> int:
    return NOTE_OFF + pitch


def wait(seconds: float) -> list[int]:
    steps = round(100 * seconds)
    return [TIME_SHIFT + 99] * (steps // 100) + [TIME_SHIFT - 1 + steps % 100] * (steps % 100 > 0)


def test_played_as_the_tokens_say():
    tokens = [on(60), *wait(0.5), off(60), on(62), *wait(1.25), on(62), off(70), *wait(0.25)]
    music = played(tokens)
    assert music.start.tolist() == [0, 0.5, 1.75]
    assert music.end.tolist() == [0.5, 1.75, 2.0]
    assert music.pitch.tolist() == [60, 62, 62]
    assert music.is_open.tolist() == [False, False, True]
    assert np.flatnonzero(music.is_loose).tolist() == [tokens.index(off(70))]


def test_played_agrees_with_the_decoder_on_real_music():
    for tokens in map(encode_midi, map(load_piece, PIECES)):
        notes = decode_midi(tokens).instruments[0].notes
        found = played(tokens)
        assert not found.is_open.any() and not found.is_loose.any()
        mine = sorted(zip(found.start.round(2), found.end.round(2), found.pitch, strict=True))
        theirs = sorted((round(n.start, 2), round(n.end, 2), n.pitch) for n in notes)
        assert [tuple(map(float, note)) for note in mine] == theirs


def test_numbers_of_a_known_bar():
    prompt = [on(40), *wait(1)]
    bar = []
    for pitch in (60, 62, 64, 65) * 3:
        bar += [on(pitch), *wait(0.5), off(pitch), *wait(0.5)]
    tokens = [*prompt, *bar, off(41), off(40)]
    found = measuring.numbers_of(tokens, len(prompt))
    assert found["notes"] == pytest.approx(1)
    assert found["note length"] == pytest.approx(0.5)
    assert found["keys down"] == pytest.approx(1.5)
    assert found["silence"] == 0  # key 40 is held from the prompt on
    assert found["pitch range"] == 5
    assert found["repetition"] == pytest.approx(100 * 5 / 9)
    assert found["stuck"] == 0
    assert found["loose"] == pytest.approx(100 / 14)


def test_stuck_keys_and_silence_are_found():
    tokens = [on(60), *wait(6), on(62), off(62), *wait(2)]
    found = measuring.numbers_of(tokens, 0)
    assert found["stuck"] == 100 and found["silence"] == 0
    short = measuring.numbers_of([on(62), *wait(1), off(62), *wait(3)], 0)
    assert short["silence"] == pytest.approx(75) and short["stuck"] == 0
    assert measuring.numbers_of([*wait(2)], 0)["silence"] == 100


def test_likeness_knows_the_same_harmony():
    chord = []
    for pitches in ((60, 64, 67), (61, 65, 68), (48, 52, 79)):
        for pitch in pitches:
            chord += [on(pitch), *wait(0.5), off(pitch), *wait(1.15)]
        chord += wait(0.05)
    profile = measuring.profiles(chord, 0)
    assert profile.shape == (3, 12)
    assert np.allclose(profile.sum(axis=1), 0)
    assert measuring.likeness(profile[:1], profile[2:])[0] == pytest.approx(1)
    assert measuring.likeness(profile[:1], profile[1:2])[0] < 0
    rows = measuring.likeness_by_lag([profile, profile[:2]], 2)
    assert np.isnan(rows[1]).all(), "a piece too short for all lags is left out"
    assert rows[0, 1] == pytest.approx(1)
