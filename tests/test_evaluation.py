"""Nats per token: that they are those of the windows, and that windows fit what there is."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models import small_model
from torch.nn.functional import cross_entropy

from tinyperceiver.dataset.token_file import DataError, TokenFile
from tinyperceiver.dataset.windows import count_windows, fixed_windows
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.training.evaluate import evaluate, fit_windows, mean_and_error


def write(path: Path, *lengths: int, highest: int = 39) -> TokenFile:
    rng = np.random.default_rng(0)
    pieces = [np.append(rng.integers(0, highest + 1, n), -1) for n in lengths]
    np.concatenate(pieces).astype("<i2").tofile(path)
    return TokenFile(path)


def test_it_measures_every_target_of_its_windows(tmp_path):
    model, data = small_model(), write(tmp_path / "valid.bin", 40, 27, 30)
    found = evaluate(model, data, num_windows=9, prefix_len=8, num_latents=4)
    assert (found.windows, found.pieces, found.tokens) == (9, 3, 36)
    batch = fixed_windows(data, 9, 8, 4)
    with torch.no_grad():
        logits = model(batch.tokens, 8)
    nats = cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    assert found.nats == pytest.approx(nats.mean().item(), abs=1e-5)
    assert found == evaluate(model, data, num_windows=9, prefix_len=8, num_latents=4)


def test_it_measures_without_dropout_and_leaves_the_mode(tmp_path):
    model, data = small_model(residual_dropout=0.5), write(tmp_path / "valid.bin", 40, 27, 30)
    expected = evaluate(model.eval(), data)
    assert evaluate(model.train(), data) == expected
    assert all(module.training for module in model.modules())


def test_the_error_is_that_of_pieces(tmp_path):
    model, data = small_model(), write(tmp_path / "valid.bin", 40, 40, 40)
    found = evaluate(model, data, num_windows=21, prefix_len=8, num_latents=4)
    batch = fixed_windows(data, 21, 8, 4)
    with torch.no_grad():
        logits = model(batch.tokens, 8)
    nats = cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    by_piece = nats.mean(1).reshape(3, 7).mean(1)
    assert found.error == pytest.approx((by_piece.std() / math.sqrt(3)).item(), rel=1e-4)
    one = evaluate(model, write(tmp_path / "one.bin", 40), prefix_len=8, num_latents=4)
    assert one.pieces == 1 and math.isnan(one.error)


def test_pieces_of_unequal_weight():
    """As when each is repeated so often; windows of one piece are no independent draws."""
    values, piece, counts = np.array([1.0, 4.0, 4.0]), np.array([0, 1, 1]), np.array([2, 1, 3])
    repeated = np.repeat(values, counts), np.repeat(piece, counts)
    assert mean_and_error(values, piece, counts) == pytest.approx(mean_and_error(*repeated))
    mean, error = mean_and_error(np.array([1.0, 3.0]), np.arange(2))
    assert (mean, error) == (2.0, 1.0)


TINY = PRESETS["tiny"]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([20_000] * 9, (64, 512, 512)),
        ([6000, 6000], (20, 512, 512)),
        ([4000, 1500], (18, 256, 256)),  # of 1,024 tokens there would be 7
        ([1200] * 3 + [900] * 4, (17, 256, 256)),  # too long for most pieces
        ([150] * 4, (12, 32, 32)),
        ([40], (1, 16, 16)),
    ],
)
def test_windows_fit_the_pieces(tmp_path, lengths, expected):
    data = write(tmp_path / "valid.bin", *lengths)
    found = fit_windows(TINY, data)
    assert found == expected
    assert len(fixed_windows(data, *found).tokens) == found.num_windows
    assert found.num_windows <= count_windows(data, *found[1:]).sum()


def test_windows_fit_the_model(tmp_path):
    data = write(tmp_path / "valid.bin", *[20_000] * 9)
    shape = {"num_channels": 16, "num_heads": 2}
    no_prefix = PerceiverConfig(max_seq_len=64, max_latents=64, **shape)
    assert fit_windows(no_prefix, data) == (64, 0, 64)
    long_prefix = PerceiverConfig(max_seq_len=1000, max_latents=8, **shape)
    assert fit_windows(long_prefix, data) == (64, 512, 8)


def test_what_is_chosen_already_stays(tmp_path):
    data = write(tmp_path / "valid.bin", 4000, 4000)
    assert fit_windows(TINY, data, prefix_len=100).prefix_len == 100
    assert fit_windows(TINY, data, num_latents=100).num_latents == 100
    assert fit_windows(TINY, data, num_windows=3) == (3, 512, 512)
    assert fit_windows(TINY, data, num_windows=40) == (40, 512, 512)


def test_too_little_music_is_said(tmp_path):
    data = write(tmp_path / "valid.bin", 30, 20)
    with pytest.raises(DataError, match=r"longest piece has 30 tokens, and a window takes 33"):
        fit_windows(TINY, data)
    with pytest.raises(DataError, match=r"has 1 windows of 25 tokens, 16 apart, not 3"):
        evaluate(small_model(), data, num_windows=3, prefix_len=8, num_latents=16)


def test_tokens_that_the_model_does_not_know(tmp_path):
    data = write(tmp_path / "valid.bin", 100, highest=388)
    with pytest.raises(DataError, match=r"holds token 38\d; the model knows 0 \.\.\. 39"):
        evaluate(small_model(), data)
