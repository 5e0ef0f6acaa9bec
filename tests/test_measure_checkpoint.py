"""The script that measured what chapter 10 records: on small cases whose answer is known."""

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

from tinyperceiver.checkpoints.folder import WEIGHTS
from tinyperceiver.checkpoints.pretrained import SHIPPED
from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.files.whole import sha256_of
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.model.rotary import rotation_at
from tinyperceiver.music.ngrams import NGramModel
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NUM_EVENTS
from tinyperceiver.teaching import measuring, records

pytestmark = pytest.mark.numeric


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
    found = measure.against_counting(model, orders, windows, np.array([0, 1]), 16)
    targets = windows[:, 17:].numpy()
    alone = -np.log(np.array([orders[1].probabilities([])[row] for row in targets]))
    assert found["orders"][1][0] == pytest.approx(alone.mean(), abs=1e-4)
    assert found["model"][0] == pytest.approx(np.mean(found["by_window"], axis=0)[0], abs=1e-3)
    shares = [kind["share"] for kind in found["kinds"].values()]
    total = sum(kind["share"] * kind["order 3"] for kind in found["kinds"].values())
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert total == pytest.approx(found["orders"][3][0], abs=2e-3)


def test_hidden_tokens_are_not_read_and_the_others_do_not_move(model, monkeypatch):
    tokens = torch.randint(NUM_EVENTS, (2, 40), generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(2, 40, dtype=torch.bool)
    hidden[0, 3:7] = hidden[1, 20:25] = True
    found = measure.logits_without(model, tokens, 30, hidden)
    others = torch.where(hidden, (tokens + 1) % NUM_EVENTS, tokens)
    assert torch.allclose(measure.logits_without(model, others, 30, hidden), found, atol=1e-5)
    with torch.inference_mode():
        assert not torch.allclose(model(tokens, 30), found, atol=1e-3), "nothing was hidden"
        assert not torch.allclose(model(tokens, 30, hidden), found, atol=1e-3), "they moved"
        monkeypatch.setattr(
            "tinyperceiver.model.perceiver_ar.rotation_at",
            lambda position, d: rotation_at(torch.arange(position.size(1))[None], d),
        )
        assert torch.allclose(model(tokens, 30, hidden), found, atol=1e-5)


def test_error_by_windows_is_the_textbooks():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    assert measure.mean_and_error(values, np.arange(4)) == [3.0, 1.0801]


def test_a_recording_counts_once_however_many_windows_it_has():
    values, recording = np.array([1.0, 2.0, 6.0]), np.array([0, 1, 2])
    once = measure.mean_and_error(values, recording)
    assert measure.mean_and_error(np.repeat(values, 5), np.repeat(recording, 5)) == once
    assert measure.mean_and_error(np.repeat(values, 5), np.arange(15))[1] < once[1]


@pytest.fixture
def threads():
    """The command computes with one thread: what comes after it has as many as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_command_measures_all(model, music, tmp_path, monkeypatch, threads):
    small = {"PROMPT": 32, "NEW": 24, "LONG_NEW": 500, "LAGS": 1, "HEARD_SEEDS": 2, "HEARD_NEW": 9,
             "NEAR": 8, "HIDDEN": 4}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(measure, name, value)
    model.save_pretrained(tmp_path / "model")
    whole = np.concatenate(music)
    write(tmp_path / "train.bin", [whole[:3000], whole[500:2500]])
    write(tmp_path / "valid.bin", [whole[2000:], whole])
    (tmp_path / "log.jsonl").write_text('{"predicted_tokens": 2500}\n')
    out = tmp_path / "measured.json"
    command = [
        "measure_checkpoint.py", str(tmp_path / "model"), "--train", str(tmp_path / "train.bin"),
        "--valid", str(tmp_path / "valid.bin"), "--out", str(out), "--windows", "4",
        "--probes", "4", "--continuations", "3", "--long", "4", "--run", str(tmp_path),
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
        assert list(by_name) == list(measuring.NUMBERS)
        assert all(len(values) == 3 for values in by_name.values())
    form = found["form"]
    assert form["likeness"].keys() == {"model", "model, every token", "real"}
    assert 2 <= form["pieces"] <= form["tried"] == 4
    assert form["more than real"].keys() == {"model", "model, every token"}
    assert found["asked"] == {"predicted": 2500, "tokens": 5000}
    assert len(found["recording"]) == 3
    assert [len(take) for take in found["heard long"].values()] == [500]
    for takes in found["heard"].values():
        assert [len(take) for take in takes["model"]] == [9, 9] and len(takes["order 3"]) == 9


def test_the_record_is_of_the_model_that_ships():
    record = records.measured()
    weights = SHIPPED["tiny"] / WEIGHTS
    assert record["checkpoint"]["sha256"] == sha256_of(weights), "measure it again"
    played_by_model = [name for name in record["copies"] if name.startswith("model")]
    assert len(played_by_model) == 2
    for name in played_by_model:
        assert len(record["copies"][name]) == 100 and max(record["copies"][name]) < 64
