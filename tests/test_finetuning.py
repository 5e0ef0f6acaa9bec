"""Fine-tuning: a trained model gets better at one composer, and says so if it does not."""

import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tinyperceiver
from tinyperceiver.dataset.prepare import prepare_folder
from tinyperceiver.dataset.token_file import DataError, TokenFile
from tinyperceiver.dataset.windows import fixed_windows
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.training import train as training
from tinyperceiver.training.devices import make_fabric
from tinyperceiver.training.evaluate import Gain, evaluate, fit_windows, measure_gain
from tinyperceiver.training.finetune import describe_gain, finetuning_config
from tinyperceiver.training.step import nats_per_token
from tinyperceiver.training.train import train

PIECES = Path(tinyperceiver.__file__).parent / "assets" / "pieces"


def tokens_of(path: Path, *lengths: int) -> TokenFile:
    pieces = [np.append(np.arange(n) % 388, -1) for n in lengths]
    np.concatenate(pieces).astype("<i2").tofile(path)
    return TokenFile(path)


@pytest.fixture
def short_samples(monkeypatch):
    monkeypatch.setattr(training, "SAMPLE_TOKENS", 24)


def fine_tune(data: Path, out: Path, steps: int) -> tuple[PerceiverAR, PerceiverAR]:
    """The shipped model before and after: fewer steps than the command takes."""
    before = PerceiverAR.from_pretrained("tiny")
    config = finetuning_config(
        before.config, TokenFile(data / "train.bin"), TokenFile(data / "valid.bin")
    )
    stages = (replace(config.stages[0], steps=steps),)
    config = replace(config, stages=stages, warmup_steps=steps // 5, validate_every=steps)
    fabric = make_fabric(config.precision, accelerator="cpu")
    train(config, data, out, initial_model=before, fabric=fabric)
    return before, PerceiverAR.from_pretrained(out / "best")


# What it learns


def test_one_composer_of_the_sample(data, tmp_path, short_samples):
    """The shipped model has never seen Joplin's two held-out pieces."""
    with zipfile.ZipFile(data / "giantmidi-piano-sample.zip") as sample:
        for name in sample.namelist():
            if "/Joplin, Scott" in name:
                sample.extract(name, tmp_path / "midi")
    manifest = prepare_folder(tmp_path / "midi", tmp_path / "data", workers=1)
    assert [manifest["splits"][s]["pieces"] for s in ("train", "valid")] == [9, 2]
    models = fine_tune(tmp_path / "data", tmp_path / "run", steps=30)
    held_out = TokenFile(tmp_path / "data" / "valid.bin")
    rows = fixed_windows(held_out, *fit_windows(models[0].config, held_out)).split(1)
    before, after = (np.array([nats_per_token(m, row) for row in rows]) for m in models)
    gain = before - after
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    assert gain.mean() > 0.01 and gain.mean() > 3 * error, (before, after)


def test_the_shipped_pieces(tmp_path, short_samples):
    """Scores played evenly, unlike what the shipped model was trained on."""
    prepare_folder(PIECES, tmp_path / "data", workers=1)
    before, after = fine_tune(tmp_path / "data", tmp_path / "run", steps=10)
    held_out = TokenFile(tmp_path / "data" / "valid.bin")
    nats = [evaluate(model, held_out) for model in (before, after)]
    assert nats[1].nats < nats[0].nats - 0.05
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    logged = [line["held_out"] for line in lines if "held_out" in line]
    assert logged[0] == pytest.approx(nats[0].nats, abs=0.02)
    assert min(logged) == pytest.approx(nats[1].nats, abs=0.02)


# The run


def test_the_run_fits_model_and_data(tmp_path):
    tiny, released = PRESETS["tiny"], PRESETS["released"]
    train, valid = (
        tokens_of(tmp_path / "a.bin", *[8000] * 10),
        tokens_of(tmp_path / "b.bin", 6000, 6000),
    )
    config = finetuning_config(tiny, train, valid)
    assert config == finetuning_config(tiny, train, valid)
    assert config.model == tiny
    assert config.num_windows <= 20
    assert finetuning_config(released, train, valid).stages == config.stages
    small = PerceiverConfig(max_seq_len=100, max_latents=60, num_channels=16, num_heads=2)
    (stage,) = finetuning_config(small, train, valid).stages
    assert (stage.num_latents, stage.max_prefix_len) == (60, 40)


def test_more_music_gets_more_steps_within_bounds(tmp_path):
    valid = tokens_of(tmp_path / "valid.bin", 6000, 6000)
    steps = []
    for pieces in (1, 10, 20, 1000):
        train = tokens_of(tmp_path / f"{pieces}.bin", *[8000] * pieces)
        steps.append(finetuning_config(PRESETS["tiny"], train, valid).steps)
    assert steps == sorted(steps) and steps[0] < steps[1] < steps[2]
    assert steps[0] >= 40 and steps[-1] <= 1000


def test_a_small_collection_is_measured_on_what_there_is(tmp_path):
    """Never so many windows that the run would fail before its first step."""
    for lengths in ([40], [150, 150], [1100], [900] * 3, [3000, 100]):
        data = tokens_of(tmp_path / "data.bin", *lengths)
        config = finetuning_config(PRESETS["tiny"], data, data)
        (stage,) = config.stages
        fixed_windows(data, config.num_windows, stage.max_prefix_len, stage.num_latents)
    with pytest.raises(DataError, match="is too short to measure on"):
        finetuning_config(PRESETS["tiny"], data, tokens_of(tmp_path / "short.bin", 9))


# What it says at the end


@pytest.mark.parametrize(
    ("before", "difference", "error", "pieces", "message"),
    [
        (
            2.5,
            0.2,
            0.05,
            9,
            "before, 2.300 after: 0.200 less, with a standard error of 0.050 by piece",
        ),
        (2.5, 0.2, 0.15, 9, "may be chance, because it is less than two standard errors"),
        (2.5, 0.2, math.nan, 1, "before, 2.300 after: 0.200 less, on one piece; hold out more"),
        (2.5, -0.1, 0.01, 9, "not less after (2.600): this run has improved nothing"),
        (2.5, 0.0, 0.0, 9, "not less after (2.500): this run has improved nothing"),
    ],
)
def test_it_says_what_was_gained_and_how_sure_that_is(before, difference, error, pieces, message):
    said = describe_gain(Gain(before, before - difference, difference, error, pieces))
    assert said.startswith("held out: 2.500 nats per token before")
    assert message in said and ("chance" in message) == ("chance" in said)


def test_the_gain_is_measured_on_pairs_of_windows(tmp_path):
    """Windows differ much more than the models do: their differences are what is averaged."""
    rng = np.random.default_rng(0)
    pieces = [np.append(rng.integers(0, 4 + 60 * i, 300), -1) for i in range(6)]
    np.concatenate(pieces).astype("<i2").tofile(tmp_path / "valid.bin")
    valid = TokenFile(tmp_path / "valid.bin")
    before = PerceiverAR.from_pretrained("tiny")
    after = PerceiverAR.from_pretrained("tiny")
    with torch.no_grad():
        after.norm.weight.mul_(0.9)
    gain = measure_gain(before, after, valid)
    one, other = evaluate(before, valid), evaluate(after, valid)
    assert (gain.before, gain.after) == (one.nats, other.nats)
    assert gain.difference == pytest.approx(one.nats - other.nats)
    assert 0 < gain.error < min(one.error, other.error) / 2
    assert gain.pieces == one.pieces == 6
    same = measure_gain(before, before, valid)
    assert (same.difference, same.error) == (0, 0)
