"""Blockwise attention gives what the formula gives, and so do its gradients."""

import pytest
import torch

from tinyperceiver.model.attention import attend, attention_formula, causal_mask
from tinyperceiver.model.blockwise_attention import BLOCK, attend_blockwise

pytestmark = pytest.mark.numeric


def random_inputs(l: int, n: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(l + n)
    shapes = [(2, 3, l, 4), (2, 3, n, 4), (2, 3, n, 4)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def pads(n: int) -> torch.Tensor:
    """Seven pads in the first row, a third of the keys in the second."""
    return torch.arange(n) < torch.tensor([7, n // 3])[:, None]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "l, n",
    [(1, 1), (1, 90), (5, 5), (BLOCK, BLOCK), (BLOCK + 1, 2 * BLOCK), (300, 300), (260, 555)],
)
def test_value_and_gradients_are_the_formulas(l, n, padded):
    inputs = random_inputs(l, n)
    pad_mask = pads(n) if padded else None
    ours = attend_blockwise(*inputs, pad_mask)
    theirs = attention_formula(*inputs, causal_mask(l, n, pad_mask))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(theirs, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    inputs = random_inputs(3, 6)
    assert torch.autograd.gradcheck(attend_blockwise, (*inputs, pads(6)))


def test_no_gradient_reaches_what_is_hidden():
    query, key, value = random_inputs(4, 10)
    attend_blockwise(query, key, value, pads(10))[:, :, 0].sum().backward()
    assert key.grad[:, :, 7:].eq(0).all() and value.grad[:, :, 7:].eq(0).all()  # later keys
    assert key.grad[0, :, :6].eq(0).all() and value.grad[0, :, :6].eq(0).all()  # pads
    assert value.grad[1, :, 3:7].ne(0).all()


def test_bfloat16_is_as_close_as_its_digits():
    inputs = random_inputs(200, 300, torch.bfloat16)
    exact = attention_formula(*(x.double() for x in inputs), causal_mask(200, 300))
    ours = attend_blockwise(*inputs)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - exact).abs().max() < 0.03


def test_attend_takes_it_for_training_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "tinyperceiver.model.attention.attend_blockwise",
        lambda *args: calls.append(args) or args[0],
    )
    inputs = random_inputs(4, 8)
    attend(*inputs)
    assert len(calls) == 1
    with torch.no_grad():
        attend(*(x.detach() for x in inputs))
    attend(*inputs, dropout=0.5)
    assert len(calls) == 1
