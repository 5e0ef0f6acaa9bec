"""The model against the peer's answers, and the properties that training and decoding rest on."""

import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from torch.nn.functional import cross_entropy

import tinyperceiver.model.config
from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.model.rotary import rotation_at
from tinyperceiver.music.vocabulary import PAD

pytestmark = pytest.mark.numeric

CASES = np.load(REFERENCE / "cases.npz")
SMALL = PerceiverConfig(
    vocab_size=50,
    max_seq_len=24,
    max_latents=8,
    num_channels=32,
    num_heads=4,
    num_self_attention_layers=2,
    init_scale=0.3,
)
NO_DROPOUT = {
    "cross_attention_dropout": 0.0,
    "post_attention_dropout": 0.0,
    "residual_dropout": 0.0,
}


@pytest.fixture(scope="module")
def golden_model() -> PerceiverAR:
    return from_pretrained(PerceiverAR, REFERENCE / "hub")


def small_model(**changes) -> PerceiverAR:
    torch.manual_seed(0)
    return PerceiverAR(replace(SMALL, **changes)).eval()


def random_tokens(B: int, n: int, vocab_size: int = 50) -> torch.Tensor:
    return torch.randint(vocab_size, (B, n), generator=torch.Generator().manual_seed(1))


# Against the peer


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(CASES[name])


@pytest.mark.parametrize("case", [f"forward{i}" for i in range(6)])
def test_logits_equal_the_peers(golden_model, case):
    pads = golden(f"{case}.pad_mask")
    arguments = golden(f"{case}.tokens"), int(CASES[f"{case}.prefix_len"])
    expected = golden(f"{case}.logits")
    with torch.no_grad():
        logits = golden_model(*arguments, pads)
        assert logits.shape == expected.shape
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        if pads.any():
            assert not torch.allclose(golden_model(*arguments), expected, atol=1e-2)
        else:
            torch.testing.assert_close(golden_model(*arguments), expected, atol=1e-4, rtol=0)


def test_loss_equals_the_peers(golden_model):
    tokens = golden("loss.tokens").long()
    l = golden_model.config.max_latents
    with torch.no_grad():
        logits = golden_model(tokens[:, :-1], tokens.size(1) - 1 - l)
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, -l:].flatten(), ignore_index=PAD)
    assert loss.item() == pytest.approx(CASES["loss.value"].item(), abs=1e-5)


# Shape and beginning


def on_meta(config: PerceiverConfig) -> PerceiverAR:
    with torch.device("meta"):
        return PerceiverAR(config)


def test_released_model_has_its_parameters():
    model = on_meta(PRESETS["released"])
    assert model.num_parameters == 134_840_832
    assert len(list(model.parameters())) == 196  # 197 tensors less the peer's speeds of rotation
    assert model.config.max_prefix_len == 4096


def test_parameter_counts_in_the_comment_are_right():
    source = inspect.getsource(tinyperceiver.model.config)
    comment = re.search(r"# Name -> shape\.((?:.*\n# )*.*)", source)[1].replace("\n#", "")
    stated = {
        name: int(count.replace(",", ""))
        for name, count in re.findall(r'"(\w+)"(?: has)? ([\d,]+)', comment)
    }
    assert stated == {name: on_meta(config).num_parameters for name, config in PRESETS.items()}


def test_initial_weights_have_the_scale_of_the_configuration():
    model = small_model(num_channels=64, vocab_size=389, init_scale=0.02)
    kinds = {"normal": 0, "bias": 0, "norm": 0}
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name.split(".")[-2] in ("norm", "prefix_norm"):
            kinds["norm"] += 1
            assert (values == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            kinds["bias"] += 1
            assert (values == 0).all(), name
        else:
            kinds["normal"] += 1
            N = values.numel()  # both bounds are five standard errors
            assert values.std().item() == pytest.approx(0.02, rel=5 / (2 * N) ** 0.5), name
            assert abs(values.mean().item()) < 5 * 0.02 / N**0.5, name
    assert kinds == {"normal": 1 + 3 * 6, "bias": 1, "norm": 2 * (3 + 2 * 2 + 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be an integer >= 1, not 0"),
        ({"max_seq_len": 12.0}, "max_seq_len must be an integer >= 1, not 12.0"),
        ({"num_heads": "4"}, "num_heads must be an integer >= 1, not '4'"),
        ({"num_self_attention_layers": -1}, "num_self_attention_layers must be an integer >= 0"),
        (
            {"num_self_attention_rotary_layers": -2},
            "rotary_layers must be an integer >= -1, not -2",
        ),
        ({"cross_attention_widening_factor": 0}, "cross_attention_widening_factor must be an int"),
        ({"cross_attention_dropout": 1.0}, "cross_attention_dropout must be at least 0 and less"),
        ({"residual_dropout": -0.1}, "residual_dropout must be at least 0 and less than 1"),
        ({"post_attention_dropout": float("nan")}, "post_attention_dropout must be .* not nan"),
        ({"init_scale": 0.0}, "init_scale must be positive, not 0.0"),
        ({"max_latents": 25}, r"max_latents \(25\) must not exceed max_seq_len \(24\)"),
        ({"num_channels": 30}, r"num_channels \(30\) must be an even multiple of num_heads \(4\)"),
        ({"num_channels": 12}, "even multiple"),  # a multiple, but of 3 channels a head
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_smallest_configuration_works():
    config = replace(SMALL, max_seq_len=1, max_latents=1, num_self_attention_layers=0)
    assert PerceiverAR(config)(torch.tensor([[3]]), 0).shape == (1, 1, 50)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint8])
def test_tokens_of_any_integer_type(dtype):
    model, tokens = small_model(), random_tokens(2, 13)
    expected = model(tokens, 6)
    assert expected.shape == (2, 7, 50)
    assert torch.equal(model(tokens.to(dtype), 6), expected)


@pytest.mark.parametrize(
    ("n", "prefix_len", "message"),
    [
        (5, 5, r"prefix_len must be in 0\.\.4 for 5 tokens, not 5"),
        (5, -1, r"prefix_len must be in 0\.\.4 for 5 tokens, not -1"),
        (0, 0, "prefix_len"),
        (12, 3, "leave 9 latents; this model takes at most 16 prefix tokens and 8 latents"),
        (20, 17, "20 tokens with prefix_len 17 leave 3 latents"),
        (30, 16, "14 latents"),
    ],
)
def test_wrong_windows_are_refused(n, prefix_len, message):
    with pytest.raises(ValueError, match=message):
        small_model()(random_tokens(1, n), prefix_len)


@pytest.mark.parametrize(("n", "prefix_len"), [(24, 16), (8, 0), (17, 16), (1, 0)])
def test_largest_and_smallest_windows_are_accepted(n, prefix_len):
    assert small_model()(random_tokens(1, n), prefix_len).shape == (1, n - prefix_len, 50)


# Who sees whom


@pytest.mark.parametrize("prefix_len", [0, 1, 12])
def test_no_future_leaks_through_the_model(prefix_len):
    model, n = small_model(), prefix_len + 8
    tokens = random_tokens(2, n)
    with torch.no_grad():
        before = model(tokens, prefix_len)
        for place in range(n):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 7) % 50
            change = (model(changed, prefix_len) - before).abs().amax(dim=(0, 2))  # (l)
            blind = max(0, place - prefix_len)
            assert (change[:blind] <= 1e-5).all(), (place, change)
            assert (change[blind:] > 1e-4).all(), (place, change)


def test_rows_do_not_see_each_other():
    model, tokens = small_model(), random_tokens(3, 16)
    pads = torch.arange(16)[None] < torch.tensor([[0], [5], [8]])
    together = model(tokens, 9, pads)
    for row in range(3):
        alone = model(tokens[row : row + 1], 9, pads[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pads", [1, 5])
def test_left_padding_changes_nothing(pads):
    model, tokens = small_model(), random_tokens(2, 14)
    expected = model(tokens, 7)
    padding = torch.full((2, pads), 49)
    mask = torch.arange(14 + pads).expand(2, -1) < pads
    found = model(torch.cat((padding, tokens), dim=1), 7 + pads, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    unmasked = model(torch.cat((padding, tokens), dim=1), 7 + pads)
    assert (unmasked - expected).abs().max() > 1e-2


def rotated_layers(model: PerceiverAR) -> list[bool]:
    seen = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["rotation"] is not None), with_kwargs=True
        )
        for layer in (model.hybrid_layer, *model.layers)
    ]
    model(random_tokens(1, 10), 4)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("number", "rotated"),
    [(0, 0), (1, 1), (2, 2), (3, 3), (-1, 3), (4, 3), (5, 3)],
)
def test_rotary_layers_are_the_first_and_minus_one_means_all(number, rotated):
    model = small_model(num_self_attention_layers=3, num_self_attention_rotary_layers=number)
    assert rotated_layers(model) == [True] + [i < rotated for i in range(3)]


def test_more_rotary_layers_give_another_answer():
    answers = [
        small_model(num_self_attention_rotary_layers=number)(random_tokens(1, 12), 4)
        for number in (0, 1, 2, -1)
    ]
    assert torch.equal(answers[2], answers[3])
    assert all((answers[i] - answers[i + 1]).abs().max() > 1e-4 for i in (0, 1))


# Training


def test_gradient_reaches_every_parameter():
    model = small_model().train()
    tokens = random_tokens(4, 20)
    loss = cross_entropy(model(tokens, 12).flatten(0, 1), random_tokens(4, 8).flatten())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_residual_branches_are_dropped_only_in_training():
    off = {"cross_attention_dropout": 0.0, "post_attention_dropout": 0.0}
    model, tokens = small_model(**off, residual_dropout=0.5), random_tokens(1, 12)
    assert torch.equal(model(tokens, 4), model(tokens, 4))
    model.train()
    assert (model(tokens, 4) - model(tokens, 4)).abs().max() > 1e-2
    sure = small_model(**NO_DROPOUT)
    assert torch.equal(sure.train()(tokens, 4), model.eval()(tokens, 4))


def seen_by_hybrid_layer(model: PerceiverAR, *arguments):
    """Prefix as places in the window (B, kept), rotation and pad_mask that reach the layer."""
    seen = {}

    def look(_, args, kwargs):
        seen.update(kwargs, prefix=args[1].detach())

    hook = model.hybrid_layer.register_forward_pre_hook(look, with_kwargs=True)
    model(*arguments)
    hook.remove()
    embedded = model.embedding(arguments[0]).detach()  # (B, n, D); tokens differ within a row
    distance = torch.cdist(seen["prefix"], embedded)  # (B, kept, n)
    assert (distance.amin(dim=2) == 0).all()
    return distance.argmin(dim=2), seen["rotation"], seen["pad_mask"]


@pytest.mark.parametrize(("m", "num_kept"), [(9, 9), (10, 9), (16, 15), (0, 0)])
def test_prefix_dropout_leaves_out_a_tenth_rounded_down(m, num_kept):
    model = small_model().train()
    tokens = torch.arange(m + 4)[None].repeat(3, 1)
    places, (cos, _), _ = seen_by_hybrid_layer(model, tokens, m)
    assert places.shape == (3, num_kept)
    assert cos.size(1) == num_kept + 4


@pytest.mark.parametrize("with_pads", [False, True])
def test_prefix_dropout_keeps_positions_and_padding_of_what_stays(with_pads):
    model = small_model(cross_attention_dropout=0.5).train()
    B, m, l = 64, 14, 6
    tokens = torch.stack([torch.randperm(50)[: m + l] for _ in range(B)])
    num_pads = torch.arange(B)[:, None] % m if with_pads else torch.zeros(B, 1, dtype=int)
    pads = torch.arange(m + l)[None] < num_pads
    places, rotation, seen_pads = seen_by_hybrid_layer(
        model, tokens, m, pads if with_pads else None
    )
    assert places.shape == (B, 7)
    assert (places.diff(dim=1) > 0).all()  # in order, none twice
    assert places.max() < m
    assert len({tuple(row) for row in places.tolist()}) > B / 2  # another choice for each row

    everything = torch.cat((places, torch.arange(m, m + l).expand(B, -1)), dim=1)
    positions = (everything - num_pads).clamp(min=0)
    for found, expected in zip(rotation, rotation_at(positions, 8), strict=True):
        assert torch.equal(found, expected)
    if with_pads:
        assert torch.equal(seen_pads, pads.gather(1, everything))
    else:
        assert seen_pads is None


def test_prefix_dropout_treats_every_place_alike():
    model = small_model(cross_attention_dropout=0.25).train()
    tokens = torch.arange(16)[None].repeat(1000, 1)
    torch.manual_seed(0)
    places, _, _ = seen_by_hybrid_layer(model, tokens, 12)
    share = torch.bincount(places.flatten(), minlength=12) / 1000
    assert ((share - 0.75).abs() < 5 * (0.75 * 0.25 / 1000) ** 0.5).all()


def test_whole_prefix_is_read_in_evaluation():
    model, tokens = small_model(cross_attention_dropout=0.5), torch.arange(18)[None]
    places, (cos, _), _ = seen_by_hybrid_layer(model, tokens, 12)
    assert places.tolist() == [list(range(12))]
    assert cos.size(1) == 18


# Precision


def test_bfloat16_is_close():
    model, tokens = small_model(), random_tokens(2, 20)
    expected = model(tokens, 12)
    found = model.bfloat16()(tokens, 12)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().mean() < 0.02 * expected.std()


def test_positions_far_out_give_the_same_answer():
    """Decoding counts positions without end; a million tokens on, only distance may count."""
    model, tokens = small_model(), random_tokens(1, 12)
    answers = []
    for start in (0, 1_000_000):
        cache = model.make_cache()
        cache.next_position = start
        logits = [model(tokens[:, :9], 5, cache=cache)]
        logits += [model(tokens[:, i : i + 1], 0, cache=cache) for i in range(9, 12)]
        answers.append(torch.cat(logits, dim=1))
    torch.testing.assert_close(answers[0], model(tokens, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=0)
