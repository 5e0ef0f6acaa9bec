"""Only distance counts: the rotation against hand-computed numbers and the properties it is for."""

import math

import pytest
import torch

from tinyperceiver.model.rotary import apply_rotation, rotation_at

pytestmark = pytest.mark.numeric


def rotated(x: torch.Tensor, *positions: int) -> torch.Tensor:
    """`x`, (d) or (n, d), turned as at the given positions: (n, d)."""
    x = x.expand(len(positions), -1)[None, None]  # (B = 1, H = 1, n, d)
    return apply_rotation(x, rotation_at(torch.tensor([positions]), x.size(-1)))[0, 0]


def test_pairs_are_interleaved():
    # With d = 4 the first pair turns by 1 radian a token, the second by 10000 ** -0.5 = 0.01.
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    a, b = 3.0, 0.03  # radians at position 3
    by_hand = [
        math.cos(a) - 2 * math.sin(a),
        math.sin(a) + 2 * math.cos(a),
        3 * math.cos(b) - 4 * math.sin(b),
        3 * math.sin(b) + 4 * math.cos(b),
    ]
    halves = [  # pairs (0, 2) and (1, 3): the other common layout, which the weights do not have
        math.cos(a) - 3 * math.sin(a),
        2 * math.cos(b) - 4 * math.sin(b),
        math.sin(a) + 3 * math.cos(a),
        2 * math.sin(b) + 4 * math.cos(b),
    ]
    found = rotated(x, 3)[0]
    torch.testing.assert_close(found, torch.tensor(by_hand), atol=1e-6, rtol=0)
    assert (found - torch.tensor(halves)).abs().max() > 0.5


def test_position_zero_changes_nothing():
    x = torch.randn(1, 2, 5, 8)
    assert torch.equal(apply_rotation(x, rotation_at(torch.zeros(1, 5, dtype=int), 8)), x)


def test_angles_are_exact_far_out():
    positions = torch.tensor([[0, 1, 12_345, 1_000_003]])
    cos, sin = rotation_at(positions, 96)
    assert cos.shape == sin.shape == (1, 4, 48)
    assert cos.dtype == sin.dtype == torch.float32
    # The speeds are float32 by contract; from there on nothing may be lost.
    speeds = (10_000.0 ** (-torch.arange(0, 96, 2, dtype=torch.float32) / 96)).tolist()
    for place, position in enumerate(positions[0].tolist()):
        for pair, speed in enumerate(speeds):
            assert cos[0, place, pair].item() == pytest.approx(math.cos(position * speed), abs=1e-6)
            assert sin[0, place, pair].item() == pytest.approx(math.sin(position * speed), abs=1e-6)
    assert speeds[0] == 1 and speeds[-1] == pytest.approx(10_000 ** (-94 / 96), rel=1e-6)


def test_base_sets_the_slowest_speed():
    _, sin = rotation_at(torch.tensor([[1]]), 4, base=100.0)
    expected = torch.tensor([math.sin(1), math.sin(0.1)])
    torch.testing.assert_close(sin[0, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shift", [1, 1000, 999_000])
def test_scores_depend_on_distance_alone(shift):
    torch.manual_seed(0)
    query, key = torch.nn.functional.normalize(torch.randn(2, 96), dim=-1)
    near = range(0, 96, 7)

    def scores(start: int) -> torch.Tensor:
        queries = rotated(query, *(start + p for p in near))
        return queries @ rotated(key, *(start + p for p in near)).T  # (n, n)

    torch.testing.assert_close(scores(shift), scores(0), atol=1e-5, rtol=0)
    # Distances do count, or any constant would pass.
    assert scores(0)[0].std() > 0.01
    assert not torch.allclose(scores(0)[0, 1], scores(0)[1, 0], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_shape_dtype_and_norms_are_kept(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=dtype)  # (B, H, n, d)
    positions = torch.tensor([[0, 0, 1, 2, 3, 4], [100, 101, 102, 103, 104, 105]])  # a row each
    y = apply_rotation(x, rotation_at(positions, 8))
    assert y.dtype == dtype and y.shape == x.shape
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 3e-3}.get(dtype, 1e-5)
    pairs = [part.double().unflatten(-1, (-1, 2)).norm(dim=-1) for part in (x, y)]
    torch.testing.assert_close(pairs[1], pairs[0], atol=tolerance, rtol=tolerance)
    assert not torch.allclose(y[0].float(), x[0].float(), atol=0.1)


def test_each_row_turns_by_its_own_positions_and_all_heads_alike():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 3, 8).expand(2, 4, 3, 8)
    positions = torch.tensor([[0, 1, 2], [5, 6, 7]])
    y = apply_rotation(x, rotation_at(positions, 8))
    for row in range(2):
        alone = apply_rotation(x[:1, :1], rotation_at(positions[row : row + 1], 8))
        assert torch.equal(y[row], alone[0].expand(4, 3, 8))
    assert not torch.allclose(y[0], y[1], atol=0.1)
