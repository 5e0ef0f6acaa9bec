"""The script that measured what chapter 11 records: on small cases whose answer is known."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import measure_windows as measure

from tinyperceiver.checkpoints.folder import WEIGHTS
from tinyperceiver.checkpoints.pretrained import SHIPPED
from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.engines.choice import make_decoder
from tinyperceiver.files.whole import sha256_of
from tinyperceiver.generation import generate
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NUM_EVENTS
from tinyperceiver.teaching.records import recorded_numbers

SMALL = PerceiverConfig(
    vocab_size=389, max_seq_len=20, max_latents=8, num_channels=16, num_heads=2,
    num_self_attention_layers=2, init_scale=0.4,
)  # fmt: skip
AFTER = 40


def small_model(**changes) -> PerceiverAR:
    """A random model whose norms differ, too."""
    torch.manual_seed(0)
    model = PerceiverAR(replace(SMALL, **changes)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=0.5)
    return model


@pytest.fixture
def rows() -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(NUM_EVENTS, (3, SMALL.max_seq_len + AFTER), generator=random)


def write(path: Path, pieces: list) -> TokenFile:
    tokens = np.concatenate([np.append(piece, -1) for piece in pieces])
    tokens.astype("<i2").tofile(path)
    return TokenFile(path)


@pytest.mark.parametrize("num_rotary", [1, 0, -1])
@pytest.mark.parametrize("block", [512, 7])
def test_sliding_in_one_pass_is_sliding_token_by_token(rows, num_rotary, block, monkeypatch):
    monkeypatch.setattr(measure, "BLOCK", block)
    model = small_model(num_self_attention_rotary_layers=num_rotary)
    n, m = SMALL.max_seq_len, SMALL.max_prefix_len
    decoder, expected = make_decoder(model, batch_size=3), []
    logits = decoder.read(rows[:, :n], m)
    for target in rows[:, n:].T:
        expected.append(cross_entropy(logits, target, reduction="none"))
        logits = decoder.step(target)
    found = measure.slide(model, rows)
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-4, rtol=1e-5)


def test_refilling_is_what_generate_does(rows, monkeypatch):
    model, n, asked = small_model(), SMALL.max_seq_len, []

    def dictate(logits, **_):
        target = rows[:, n + len(asked)]
        asked.append(cross_entropy(logits, target, reduction="none"))
        return target

    monkeypatch.setattr(generate, "choose_tokens", dictate)
    prompt, options = rows[:, :n], {"max_new_tokens": AFTER, "num_latents": SMALL.max_latents}
    model.generate(prompt, window="refill", **options)
    found = measure.refill(model, rows)
    torch.testing.assert_close(found, torch.stack(asked, dim=1), atol=1e-4, rtol=1e-5)


def test_fresh_windows_are_read_by_the_model(rows):
    model, n, m = small_model(), SMALL.max_seq_len, SMALL.max_prefix_len
    found = measure.fresh(model, rows, range(0, AFTER, 9))
    for column, j in enumerate(range(0, AFTER, 9)):
        with torch.no_grad():
            logits = model(rows[:, j : n + j], m)[:, -1]
        expected = cross_entropy(logits, rows[:, n + j], reduction="none")
        torch.testing.assert_close(found[:, column], expected, atol=1e-4, rtol=1e-5)


def test_policies_are_compared_on_the_same_tokens(tmp_path):
    rng, model = np.random.default_rng(0), small_model()
    pieces = [rng.integers(NUM_EVENTS, size=n) for n in (90, 30, 60, 59, 100)]
    data = write(tmp_path / "valid.bin", pieces)
    walked, recording = measure.walks(data, 20, AFTER)
    assert recording.tolist() == [0, 2, 4]
    assert walked[0].tolist() == pieces[0][15:75].tolist()
    found = measure.compare(model, data, AFTER, 5, lambda _: None)
    assert found["edges"] == [0, 1, 40] and found["tokens"]["fresh"] == 24
    # Each fifth token a refilled window is full, and all policies begin alike.
    assert found["difference of all"]["refill less fresh"] == [0, 0]
    assert all(bins[0] == [0, 0] for bins in found["difference"].values())
    slid, filled = (measure.walks(data, 20, AFTER)[0] for _ in range(2))
    gain = measure.slide(model, slid).numpy() - measure.refill(model, filled).numpy()
    means = gain.mean(axis=1)
    error = means.std(ddof=1) / 3**0.5
    expected = pytest.approx([means.mean(), error], abs=2e-4)
    assert found["difference of all"]["slide less refill"] == expected


def test_prices_of_a_known_distribution():
    p = torch.zeros(2, 389)
    p[:, :4] = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]])
    kept = torch.zeros(2, 389, dtype=torch.bool)
    kept[0, :2], kept[1, 2:4] = True, True
    found = measure.prices(p.log(), torch.tensor([1, 0]), kept)
    assert found["forbidden"] == 0.5 and found["tokens kept"] == 2
    assert found["probability cut"] == pytest.approx((0.25 + 0.3) / 2)
    assert found["nats"] == pytest.approx(-np.log(0.25))
    assert found["nats renormalised"] == pytest.approx(-np.log(0.25 / 0.75))


@pytest.fixture
def threads():
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


def test_one_command_measures_all(tmp_path, monkeypatch, threads):
    music = [np.array(encode_midi(load_piece(name))) for name in ("bach-prelude", "mozart-sonata")]
    data = write(tmp_path / "valid.bin", music)
    small_model().save_pretrained(tmp_path / "model")
    out = tmp_path / "record" / "windows.json"
    command = ["measure_windows", str(tmp_path / "model"), "--valid", str(data.path)]
    command += ["--out", str(out), "--after", "50", "--every", "7", "--windows", "6"]
    monkeypatch.setattr(sys, "argv", command)
    measure.main()
    found = json.loads(out.read_text())
    assert found["checkpoint"]["sha256"] == sha256_of(tmp_path / "model" / WEIGHTS)
    assert found["data"]["valid.bin"] == {
        "sha256": sha256_of(data.path), "recordings": 2, "tokens": sum(map(len, music)),
    }  # fmt: skip
    assert found["walk"]["tokens"]["slide"] == 100
    by = found["forbidding"]["by"]
    assert by.keys() == {"grammar", *measure.FILTERS}
    assert found["forbidding"]["broken"] == {} and by["grammar"]["forbidden"][0] == 0
    assert by["grammar"]["gain"][0] > 0
    kept = [by[f"top_k {k}"]["tokens kept"][0] for k in (5, 15, 50)]
    assert kept == [5, 15, 50]
    cut = [by[f"top_p {p}"]["probability cut"][0] for p in (0.8, 0.9, 0.95, 0.99)]
    assert all(share <= 1 - p for share, p in zip(cut, (0.8, 0.9, 0.95, 0.99), strict=True))
    assert cut == sorted(cut, reverse=True)


def test_the_record_is_of_the_model_that_ships():
    record = recorded_numbers("runs/tiny/windows.json")
    weights = SHIPPED["tiny"] / WEIGHTS
    assert record["checkpoint"]["sha256"] == sha256_of(weights), "measure it again"
    walk = record["walk"]
    assert walk["tokens"]["slide"] == walk["recordings"] * walk["after"]
    assert walk["difference"].keys() == walk["difference of all"].keys()
