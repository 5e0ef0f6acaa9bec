"""The recorded numbers of chapter 10: each measurement on cases whose answer is known."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import measure_checkpoint as measure
from count_ngrams import as_text, longest_run

from tinyperceiver.checkpoints import SHIPPED, WEIGHTS
from tinyperceiver.data import TokenFile
from tinyperceiver.model import PerceiverAR, PerceiverConfig
from tinyperceiver.ngrams import NGramModel
from tinyperceiver.pieces import PIECES, load_piece
from tinyperceiver.teaching import learnt
from tinyperceiver.tokenizer import (
    NOTE_OFF,
    NUM_EVENTS,
    TIME_SHIFT,
    decode_midi,
    encode_midi,
)


def write(path: Path, pieces: list) -> TokenFile:
    tokens = np.concatenate([np.append(piece, -1) for piece in pieces])
    tokens.astype("<i2").tofile(path)
    return TokenFile(path)


@pytest.fixture
def corpus(tmp_path) -> TokenFile:
    """Pieces of few different tokens, so that runs are shared at every length."""
    rng = np.random.default_rng(0)
    return write(tmp_path / "train.bin", [rng.integers(4, size=n) for n in (900, 3, 400, 1700)])


def test_longest_copies_are_those_of_the_plain_search(corpus):
    rng = np.random.default_rng(1)
    samples = [rng.integers(4, size=200) for _ in range(20)]
    samples[3][40:100] = corpus[3][1600:1660]
    samples[4][-30:] = corpus[2][:30]
    plain = as_text(np.where(corpus.tokens < 0, NUM_EVENTS, corpus.tokens))
    wanted = [longest_run(sample.tolist(), plain) for sample in samples]
    assert wanted[3] >= 60 and wanted[4] >= 30
    assert measure.longest_copies(samples, corpus) == wanted


def test_copies_end_where_a_piece_ends(corpus):
    across = np.concatenate((corpus[0][-20:], corpus[1], corpus[2][:20]))
    (found,) = measure.longest_copies([across], corpus)
    assert 20 <= found < 30


def test_nothing_shared_is_less_than_a_run(corpus):
    assert measure.longest_copies([np.full(50, 300)], corpus) == [measure.RUN - 1]


def test_stretches_hold_each_wanted_run_and_no_other():
    tokens = np.random.default_rng(2).integers(5, size=400)
    wanted = np.unique(measure.keys_of(tokens)[50:80])
    stretches = measure.shared_stretches(tokens, wanted)
    is_real = (np.lib.stride_tricks.sliding_window_view(stretches, measure.RUN) < NUM_EVENTS).all(1)
    kept = measure.keys_of(stretches)[is_real]
    is_wanted = np.isin(measure.keys_of(tokens), wanted)
    assert kept.tolist() == measure.keys_of(tokens)[is_wanted].tolist()


def test_a_longer_run_is_in_one_stretch():
    tokens = np.arange(100)
    stretches = measure.shared_stretches(tokens, measure.keys_of(tokens[30:60]))
    assert stretches.tolist() == [*range(30, 60), NUM_EVENTS]


@pytest.fixture(scope="module")
def model() -> PerceiverAR:
    torch.manual_seed(0)
    shape = PerceiverConfig(
        vocab_size=389, max_seq_len=128, max_latents=96, num_channels=16, num_heads=2,
        num_self_attention_layers=1, init_scale=0.3,
    )  # fmt: skip
    return PerceiverAR(shape).eval()


def test_nats_are_those_of_one_token_at_a_time(model):
    windows = torch.randint(NUM_EVENTS, (3, 21), generator=torch.Generator().manual_seed(0))
    nats = measure.nats_of(model, windows, 8)
    assert nats.shape == (3, 12)
    with torch.inference_mode():
        for latent in range(12):
            logits = model(windows[:, : 9 + latent], 8)[:, -1]
            price = -logits.log_softmax(-1)[torch.arange(3), windows[:, 9 + latent]]
            assert np.allclose(price, nats[:, latent], atol=1e-4)


@pytest.fixture(scope="module")
def music() -> list[np.ndarray]:
    return [np.array(encode_midi(load_piece(name))) for name in PIECES]


def test_models_are_asked_for_the_same_targets(model, music):
    orders = {k: NGramModel(k, NUM_EVENTS).fit(music[1:]) for k in (1, 3)}
    windows = torch.tensor(np.stack([music[0][:113], music[0][300:413]]))
    found = measure.against_counting(model, orders, windows, 16)
    targets = windows[:, 17:].numpy()
    alone = -np.log(np.array([orders[1].probabilities([])[row] for row in targets]))
    assert found["orders"][1][0] == pytest.approx(alone.mean(), abs=1e-4)
    assert found["model"][0] == pytest.approx(np.mean(found["by_window"], axis=0)[0], abs=1e-3)
    shares = [kind["share"] for kind in found["kinds"].values()]
    total = sum(kind["share"] * kind["order 3"] for kind in found["kinds"].values())
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert total == pytest.approx(found["orders"][3][0], abs=2e-3)


def test_context_ends_where_the_targets_begin(model, music, tmp_path):
    data = write(tmp_path / "valid.bin", music)
    found = measure.against_context(model, data, 4)
    assert [row[0] for row in found["as_prefix"]] == [0, 16, 32]
    assert [row[0] for row in found["as_latents"]] == [0, 16, 32]
    assert found["as_prefix"][0] == found["as_latents"][0]
    assert found["as_prefix"][0][3:] == [0, 0, 0, 0]
    windows = measure.whole(data, 4, 32, measure.TARGETS)
    with_prefix = measure.nats_of(model, windows, 32).mean()
    assert found["as_prefix"][-1][1] == pytest.approx(with_prefix, abs=1e-4)
    assert found["gain_of_prefix"]["its own"] == found["as_prefix"][-1][3:5]
    steps = [row[5] for row in found["as_prefix"]]
    assert sum(steps) == pytest.approx(found["as_prefix"][-1][3], abs=1e-3)


def test_mean_and_error():
    assert measure.mean_and_error(np.array([1.0, 2.0, 3.0, 6.0])) == [3.0, 1.0801]


def test_what_is_written_is_whole_or_absent(tmp_path):
    out = tmp_path / "new" / "measured.json"
    measure.write({"a": 1, "b": [2, 3]}, out)
    assert json.loads(out.read_text()) == {"a": 1, "b": [2, 3]}
    with pytest.raises(TypeError):
        measure.write({"a": object()}, out)
    assert json.loads(out.read_text()) == {"a": 1, "b": [2, 3]}
    assert [path.name for path in out.parent.iterdir()] == ["measured.json"]


def test_one_command_measures_all(model, music, tmp_path, monkeypatch):
    small = {"PROMPT": 32, "NEW": 24, "LONG_NEW": 500, "LAGS": 1, "HEARD_SEEDS": 2, "HEARD_NEW": 9}
    for name, value in small.items():
        monkeypatch.setattr(measure, name, value)
    model.save_pretrained(tmp_path / "model")
    whole = np.concatenate(music)
    write(tmp_path / "train.bin", [whole[:3000], whole[500:2500]])
    write(tmp_path / "valid.bin", [whole[2000:], whole])
    out = tmp_path / "measured.json"
    command = [
        "measure_checkpoint.py", str(tmp_path / "model"), "--train", str(tmp_path / "train.bin"),
        "--valid", str(tmp_path / "valid.bin"), "--out", str(out), "--windows", "4",
        "--continuations", "3", "--long", "2",
    ]  # fmt: skip
    results = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", command)
        measure.main()
        results.append(out.read_text())
    assert results[0] == results[1], "the same numbers every time"
    found = json.loads(results[0])
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert found["checkpoint"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert found["data"]["train.bin"]["recordings"] == 2
    assert found["data"]["train.bin"]["tokens"] == 5000
    # What is held out here was copied into the training data.
    assert max(found["copies"]["real, held out"]) == 24
    assert all(len(lengths) == 3 for lengths in found["copies"].values())
    assert found["numbers"].keys() == {"model", "order 3", "real"}
    for by_name in found["numbers"].values():
        assert list(by_name) == list(learnt.NUMBERS)
        assert all(len(values) == 3 for values in by_name.values())
    assert found["form"]["likeness"].keys() == {"model", "real", "other pieces"}
    for takes in found["heard"].values():
        assert [len(take) for take in takes["model"]] == [9, 9] and len(takes["order 3"]) == 9


def test_the_record_is_of_the_model_that_ships():
    record = json.loads((learnt.RUN / "measured.json").read_text(encoding="utf-8"))
    weights = SHIPPED["tiny"] / WEIGHTS
    assert record["checkpoint"]["sha256"] == measure.sha256(weights), "measure it again"
    played_by_model = [name for name in record["copies"] if name.startswith("model")]
    assert len(played_by_model) == 2
    for name in played_by_model:
        assert len(record["copies"][name]) == 100 and max(record["copies"][name]) < 64


def test_a_record_that_is_not_there_is_fetched(tmp_path, monkeypatch):
    (tmp_path / "measured.json").write_text('{"answer": 42}')
    monkeypatch.setattr(learnt, "RUN", tmp_path / "absent")
    monkeypatch.setattr(learnt, "ADDRESS", tmp_path.as_uri())
    assert learnt.measured.__wrapped__() == {"answer": 42}


def on(pitch: int) -> int:
    return pitch


def off(pitch: int) -> int:
    return NOTE_OFF + pitch


def wait(seconds: float) -> list[int]:
    steps = round(100 * seconds)
    return [TIME_SHIFT + 99] * (steps // 100) + [TIME_SHIFT - 1 + steps % 100] * (steps % 100 > 0)


def test_played_as_the_tokens_say():
    tokens = [on(60), *wait(0.5), off(60), on(62), *wait(1.25), on(62), off(70), *wait(0.25)]
    music = learnt.played(tokens)
    assert music.start.tolist() == [0, 0.5, 1.75]
    assert music.end.tolist() == [0.5, 1.75, 2.0]
    assert music.pitch.tolist() == [60, 62, 62]
    assert music.is_open.tolist() == [False, False, True]
    assert np.flatnonzero(music.is_loose).tolist() == [tokens.index(off(70))]


def test_played_agrees_with_the_decoder_on_real_music(music):
    for tokens in music:
        notes = decode_midi(tokens.tolist()).instruments[0].notes
        found = learnt.played(tokens)
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
    found = learnt.numbers_of(tokens, len(prompt))
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
    found = learnt.numbers_of(tokens, 0)
    assert found["stuck"] == 100 and found["silence"] == 0
    short = learnt.numbers_of([on(62), *wait(1), off(62), *wait(3)], 0)
    assert short["silence"] == pytest.approx(75) and short["stuck"] == 0
    assert learnt.numbers_of([*wait(2)], 0)["silence"] == 100


def test_likeness_knows_the_same_harmony():
    chord = []
    for pitches in ((60, 64, 67), (61, 65, 68), (48, 52, 79)):
        for pitch in pitches:
            chord += [on(pitch), *wait(0.5), off(pitch), *wait(1.15)]
        chord += wait(0.05)
    profile = learnt.profiles(chord, 0)
    assert profile.shape == (3, 12)
    assert np.allclose(profile.sum(axis=1), 0)
    assert learnt.likeness(profile[:1], profile[2:])[0] == pytest.approx(1)
    assert learnt.likeness(profile[:1], profile[1:2])[0] < 0
    rows = learnt.likeness_by_lag([profile, profile[:2]], 2)
    assert rows.shape == (1, 2), "a piece too short for all lags is left out"
    assert rows[0, 1] == pytest.approx(1)
