"""Attention against its formula, and the properties of the hybrid layer and of the cache."""

from itertools import pairwise

import pytest
import torch
from models import DEVICES

from tinyperceiver.model import attention
from tinyperceiver.model.attention import (
    CausalSelfAttention,
    HybridAttention,
    KVCache,
    MultiHeadAttention,
    attend,
    attention_formula,
    causal_mask,
)
from tinyperceiver.model.rotary import rotation_at

pytestmark = pytest.mark.numeric

# l, n and the pads on the left of each of two rows; in the last two, queries are padding, too.
WINDOWS = [
    (1, 1, None),
    (1, 7, None),
    (7, 7, None),
    (3, 7, None),
    (40, 200, None),
    (1, 7, (0, 5)),
    (3, 7, (4, 1)),
    (7, 7, (0, 0)),
    (40, 200, (160, 3)),
    (7, 7, (6, 2)),
    (3, 7, (0, 7)),
]


def left_pads(counts: tuple[int, ...] | None, n: int, device: str = "cpu") -> torch.Tensor | None:
    """(B, n), True at the first so many of each row."""
    if counts is None:
        return None
    return torch.arange(n, device=device)[None] < torch.tensor(counts, device=device)[:, None]


def heads(n: int, *, H: int = 2, d: int = 8, B: int = 2, **options) -> torch.Tensor:
    return torch.randn(B, H, n, d, **options)


@pytest.mark.parametrize(("l", "n", "counts"), WINDOWS)
def test_mask_is_aligned_at_the_right(l, n, counts):
    pads = left_pads(counts, n)
    mask = causal_mask(l, n, pads)
    for row in range(1 if counts is None else 2):
        for i in range(l):
            here = i + n - l  # the query's own place among the keys
            expected = [
                j <= here and (j == here or counts is None or j >= counts[row]) for j in range(n)
            ]
            found = mask[i] if counts is None else mask[row, 0, i]
            assert found.tolist() == expected, (row, i)


def test_formula_by_hand():
    query, key = torch.tensor([[[[2.0, 0, 0, 0]]]]), torch.eye(4)[None, None, :3]
    value = torch.tensor([[[[10.0], [20.0], [30.0]]]])
    e = torch.tensor(1.0).exp().item()  # scores 2 / sqrt(4) = 1, 0, 0
    expected = (10 * e + 20 + 30) / (e + 2)
    assert attention_formula(query, key, value).item() == pytest.approx(expected, rel=1e-6)
    mask = torch.tensor([[True, False, True]])
    expected = (10 * e + 30) / (e + 1)
    assert attention_formula(query, key, value, mask).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("l", "n", "counts"), WINDOWS)
def test_fast_attention_equals_the_formula(l, n, counts, dtype, device):
    """Values and gradients; in bfloat16 against the formula in float32, on the same numbers."""
    torch.manual_seed(l + n)
    q, k, v = (heads(size, device=device).to(dtype) for size in (l, n, n))
    pads = left_pads(counts, n, device)
    outer = heads(l, device=device)  # weighs the outputs, so that gradients differ
    results = []
    for function in (attend, attention_formula):
        precise = torch.float32 if function is attention_formula else dtype
        inputs = [x.detach().to(precise, copy=True).requires_grad_() for x in (q, k, v)]
        if function is attend:
            out = attend(*inputs, pad_mask=pads)
            assert out.dtype == dtype
        else:
            out = attention_formula(*inputs, causal_mask(l, n, pads).to(device))
        (out.float() * outer).sum().backward()
        results.append([out.float(), *(x.grad.float() for x in inputs)])
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    for found, expected in zip(*results, strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_wrong_alignment_would_be_noticed():
    """The comparison above has teeth: PyTorch's own is_causal is aligned at the upper left."""
    torch.manual_seed(0)
    q, k, v = heads(3), heads(7), heads(7)
    wrong = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert (wrong - attend(q, k, v)).abs().max() > 0.1


def hybrid_layer(*, dropout: float = 0.0) -> HybridAttention:
    """D = 32, H = 4, with norms that are not the identity."""
    layer = HybridAttention(32, 4, dropout=dropout).eval()
    for name, parameter in layer.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return layer


@pytest.mark.parametrize("m", [0, 1, 9])
@pytest.mark.parametrize("l", [1, 6])
def test_no_future_leaks_through_the_hybrid_layer(m, l):
    torch.manual_seed(0)
    layer, x, prefix = hybrid_layer(), torch.randn(2, l, 32), torch.randn(2, m, 32)
    rotation = rotation_at(torch.arange(m + l)[None], 8)
    before = layer(x, prefix, rotation=rotation)
    for place in range(l):
        changed = x.clone()
        changed[:, place] += torch.randn(32)
        after = layer(changed, prefix, rotation=rotation)
        torch.testing.assert_close(after[:, :place], before[:, :place], atol=1e-6, rtol=0)
        moved = (after - before).abs().amax(dim=(0, 2))[place:]  # (l - place)
        assert (moved > 1e-4).all()
    if m:
        changed = prefix.clone()
        changed[:, -1] += torch.randn(32)
        after = layer(x, changed, rotation=rotation)
        assert ((after - before).abs().amax(dim=(0, 2)) > 1e-4).all()


@pytest.mark.parametrize(("m", "l"), [(0, 5), (1, 1), (7, 5), (12, 1)])
@pytest.mark.parametrize("counts", [None, (0, 1)])
def test_with_one_norm_the_hybrid_layer_is_the_end_of_causal_attention(m, l, counts):
    torch.manual_seed(0)
    layer, everything = hybrid_layer(), torch.randn(2, m + l, 32)
    rotation = rotation_at(torch.arange(m + l)[None], 8)
    pads = left_pads(counts, m + l) if m else None
    layer.prefix_norm.load_state_dict(layer.norm.state_dict())
    plain = CausalSelfAttention(32, 4).eval()
    plain.norm, plain.attention = layer.norm, layer.attention
    if pads is None:
        whole = plain(everything, rotation=rotation)
    else:  # the latents' own layers know no padding: say it to the attention inside
        normed = plain.norm(everything)
        whole = plain.attention(normed, normed, rotation=rotation, pad_mask=pads)
    found = layer(everything[:, m:], everything[:, :m], rotation=rotation, pad_mask=pads)
    torch.testing.assert_close(found, whole[:, m:], atol=1e-5, rtol=0)


def test_each_part_of_the_hybrid_layer_has_its_own_norm():
    """Latents are normed alike as queries and as keys; only the prefix by the other norm."""
    torch.manual_seed(0)
    layer, x, prefix = hybrid_layer(), torch.randn(1, 3, 32), torch.randn(1, 4, 32)
    context = torch.cat((layer.prefix_norm(prefix), layer.norm(x)), dim=1)
    expected = layer.attention(layer.norm(x), context)
    torch.testing.assert_close(layer(x, prefix), expected, atol=1e-6, rtol=0)
    other = torch.cat((layer.norm(prefix), layer.norm(x)), dim=1)
    assert (layer.attention(layer.norm(x), other) - expected).abs().max() > 1e-2


def test_rotation_makes_attention_indifferent_to_a_shift_only():
    torch.manual_seed(0)
    layer, x = CausalSelfAttention(32, 4).eval(), torch.randn(1, 9, 32)

    def at(positions: torch.Tensor) -> torch.Tensor:
        return layer(x, rotation=rotation_at(positions[None], 8))

    here = at(torch.arange(9))
    torch.testing.assert_close(at(torch.arange(9) + 5000), here, atol=1e-5, rtol=0)
    assert (at(torch.arange(9) * 2) - here).abs().max() > 1e-3
    assert (layer(x) - here).abs().max() > 1e-3


def test_biases_and_channels_are_where_the_released_model_has_them():
    def names(layer):
        return {name for name, _ in layer.named_parameters() if "bias" in name}

    assert names(MultiHeadAttention(32, 4)) == set()
    assert names(HybridAttention(32, 4)) == {
        "norm.bias",
        "prefix_norm.bias",
        "attention.output.bias",
    }
    assert names(CausalSelfAttention(32, 4)) == {"norm.bias"}


def test_attention_weights_are_dropped_only_in_training():
    torch.manual_seed(0)
    layer, sure = hybrid_layer(dropout=0.5), hybrid_layer()
    sure.load_state_dict(layer.state_dict())
    x, prefix = torch.randn(1, 4, 32), torch.randn(1, 6, 32)
    expected = sure.train()(x, prefix)
    for _ in range(2):
        assert torch.equal(layer.eval()(x, prefix), expected)
    layer.train()
    draws = layer(x.expand(4000, -1, -1), prefix.expand(4000, -1, -1))
    assert draws[0].sub(draws[1]).abs().max() > 1e-3
    # Dropping weights after the softmax, scaled up, leaves the mean as it was.
    error = draws.mean(0) - expected[0]
    assert (error.abs() < 5 * draws.std(0) / 4000**0.5).all()


# The cache


def fill(cache: KVCache, keys: torch.Tensor, values: torch.Tensor, first: int, pads=None):
    """Append `first` positions at once and the others one by one; yield what is held each time."""
    n = keys.size(2)
    for start, end in pairwise([0, *range(first, n + 1)]):
        yield end, cache.append(keys[:, :, start:end], values[:, :, start:end], pads)
        pads = None


@pytest.mark.parametrize("first", [1, 3, 5])
@pytest.mark.parametrize("counts", [None, (0, 2)])
def test_ring_attends_to_the_last_positions(first, counts):
    """Past the capacity, too: as if there were only the last five, padding among them or gone."""
    torch.manual_seed(0)
    keys, values, queries = heads(17), heads(17), heads(17)
    pads = left_pads(counts, 17) if first > 2 or counts is None else None
    cache = KVCache(5)
    first_pads = None if pads is None else pads[:, :first]
    for end, (k, v, held_pads) in fill(cache, keys, values, first, first_pads):
        last = slice(max(0, end - 5), end)
        query = queries[:, :, end - 1 : end]
        window_pads = None if pads is None else pads[:, last]
        expected = attention_formula(
            query,
            keys[:, :, last],
            values[:, :, last],
            causal_mask(1, last.stop - last.start, window_pads),
        )
        assert k.shape == v.shape == (2, 2, min(end, 5), 8)
        found = attend(query, k, v, pad_mask=held_pads)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert cache.seen == 17


def test_padding_that_the_ring_overwrote_is_forgotten():
    cache = KVCache(4)
    pads = torch.tensor([[True, True, False]])
    keys = heads(8, B=1)
    held = [
        [] if mask is None else mask[0].tolist()
        for _, (_, _, mask) in fill(cache, keys, keys, 3, pads)
    ]
    assert held == [
        [True, True, False],
        [True, True, False, False],
        [False, True, False, False],
        [False, False, False, False],
        [False, False, False, False],
        [False, False, False, False],
    ]


def test_ring_is_allocated_once_and_writes_one_place():
    torch.manual_seed(0)
    cache, keys, values = KVCache(5), heads(23), heads(23)
    places, before = set(), None
    for end, (k, v, _) in fill(cache, keys, values, 2):
        places.add((k.data_ptr(), v.data_ptr(), cache.key.untyped_storage().nbytes()))
        assert k.data_ptr() == cache.key.data_ptr() and v.data_ptr() == cache.value.data_ptr()
        if before is not None:
            for ring, old in zip((cache.key, cache.value), before, strict=True):
                changed = (ring != old).any(dim=(0, 1, 3)) & old.isfinite().all(dim=(0, 1, 3))
                slots = changed.nonzero().flatten().tolist()
                assert slots in ([], [(end - 1) % 5]), "positions were moved"
        before = cache.key.clone(), cache.value.clone()
    assert len(places) == 1
    assert places.pop()[2] == 2 * 2 * 5 * 8 * 4  # bytes: B H capacity d float32


@pytest.mark.parametrize(("seen", "new"), [(0, 6), (3, 2), (5, 6)])
def test_ring_refuses_what_it_cannot_hold_in_order(seen, new):
    cache = KVCache(5)
    if seen:
        cache.append(heads(seen), heads(seen))
    message = f"{new} positions cannot be appended after {seen} to a ring of 5"
    with pytest.raises(ValueError, match=message):
        cache.append(heads(new), heads(new))
    assert cache.seen == seen


def test_cached_attention_equals_attention_to_everything():
    """The layers with a cache, prompt first and then token by token, while nothing slides."""
    torch.manual_seed(0)
    layer, x, prefix = hybrid_layer(), torch.randn(2, 6, 32), torch.randn(2, 5, 32)
    cos, sin = rotation_at(torch.arange(11)[None], 8)
    pads = left_pads((0, 3), 11)
    expected = layer(x, prefix, rotation=(cos, sin), pad_mask=pads)
    cache = KVCache(11)
    start = (cos[:, :7], sin[:, :7])
    found = [layer(x[:, :2], prefix, rotation=start, pad_mask=pads[:, :7], cache=cache)]
    for i in range(2, 6):
        here = (cos[:, 5 + i : 6 + i], sin[:, 5 + i : 6 + i])
        found.append(layer(x[:, i : i + 1], prefix[:, :0], rotation=here, cache=cache))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-6, rtol=0)


def test_long_bfloat16_rows_take_the_kernel_and_short_ones_the_formula(monkeypatch):
    asked = []

    def formula(*args):
        asked.append(args[0].size(-2))
        return attention_formula(*args)

    monkeypatch.setattr(attention, "attention_formula", formula)
    for l, n in ((1023, 1023), (1024, 1024), (1, 1500), (1024, 1500)):
        q, k, v = torch.randn(3, 1, 1, n, 8, generator=torch.Generator().manual_seed(n))
        expected = attention_formula(q[:, :, -l:], k, v, causal_mask(l, n))
        found = attend(q[:, :, -l:].bfloat16(), k.bfloat16(), v.bfloat16())
        assert (found - expected).abs().max() < 0.06
    assert asked == [1023, 1]
