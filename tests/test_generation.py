"""Generation against the peer's continuations, and sampling against a reference and statistics."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN, REFERENCE
from models import left_pads, random_tokens, seeded, small_model

from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.generation.generate import generate
from tinyperceiver.generation.sampling import choose_tokens, keep_top_k, keep_top_p
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.vocabulary import NUM_EVENTS

pytestmark = pytest.mark.numeric

CASES = np.load(REFERENCE / "cases.npz")
PADDED = np.load(GOLDEN / "small" / "padded.npz")


@pytest.fixture(scope="module")
def golden_model() -> PerceiverAR:
    return from_pretrained(PerceiverAR, REFERENCE / "hub")


# Against the peer


@pytest.mark.parametrize("case", [f"greedy{i}" for i in range(4)])
def test_greedy_continuations_equal_the_peers(golden_model, case):
    prompt, expected = (torch.from_numpy(CASES[f"{case}.{name}"]) for name in ("prompt", "output"))
    output = golden_model.generate(
        prompt,
        max_new_tokens=expected.size(1) - prompt.size(1),
        num_latents=int(CASES[f"{case}.num_latents"]),
    )
    assert output.tolist() == expected.tolist()


def test_padded_batch_slides_as_the_peers(golden_model):
    prompt, expected = torch.from_numpy(PADDED["prompt"]), PADDED["output"]
    pads = torch.from_numpy(PADDED["pad_mask"])
    assert pads.sum(dim=1).tolist() == [0, 7, 30]
    options = {"max_new_tokens": 150, "num_latents": int(PADDED["num_latents"])}
    output = golden_model.generate(prompt, pad_mask=pads, **options)
    assert output.tolist() == expected.tolist()
    assert np.array_equal(pads, PADDED["pad_mask"])  # the caller's mask as it was
    without = golden_model.generate(prompt, **options)
    assert without[0].tolist() == expected[0].tolist()
    assert without[2].tolist() != expected[2].tolist()


@pytest.mark.parametrize("pads", [3, 20])
def test_padding_does_not_change_a_continuation(golden_model, pads):
    """Not even when it has long left the window."""
    prompt = torch.from_numpy(CASES["greedy1.prompt"])[:, :20]
    padded = torch.nn.functional.pad(prompt, (pads, 0), value=388)
    mask = left_pads([pads, pads], 20 + pads)
    alone = golden_model.generate(prompt, max_new_tokens=50, num_latents=5)
    found = golden_model.generate(padded, max_new_tokens=50, num_latents=5, pad_mask=mask)
    assert found[:, pads:].tolist() == alone.tolist()


# Windows and the cache


@pytest.mark.parametrize(
    ("n", "num_latents", "counts"),
    [(1, 1, None), (9, 1, None), (5, 3, None), (10, 2, [0, 4, 8])],
)
def test_cached_equals_uncached_up_to_max_latents(n, num_latents, counts):
    model, prompt = small_model(max_seq_len=20, max_latents=8), random_tokens(3, n)
    pads = None if counts is None else left_pads(counts, n)
    steps = 8 - num_latents + 1  # the last one reads max_latents latents
    options = {"max_new_tokens": steps, "num_latents": num_latents, "pad_mask": pads}
    cached = model.generate(prompt, **options)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))

    # The logits too, step by step.
    cache = model.make_cache()
    with torch.no_grad():
        found = [model(prompt, n - num_latents, pads, cache=cache)[:, -1]]
        for i in range(1, steps):
            found.append(model(cached[:, n + i - 1 : n + i], 0, cache=cache)[:, -1])
        for i in range(steps):
            window = cached[:, : n + i]
            mask = None if pads is None else torch.nn.functional.pad(pads, (0, i))
            expected = model(window, n - num_latents, mask)[:, -1]
            torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("counts", [None, [0, 5]])
def test_uncached_windows_grow_latents_then_prefix_then_slide(counts):
    model, prompt = small_model(), random_tokens(2, 6)
    pads = None if counts is None else left_pads(counts, 6)
    windows = []
    hook = model.register_forward_pre_hook(
        lambda _, args: windows.append((args[0].size(1) - args[1], args[1]))
    )
    output = model.generate(prompt, max_new_tokens=12, use_cache=False, pad_mask=pads)
    hook.remove()
    growing = [(1, 5), (2, 5), (3, 5), (4, 5), (4, 6), (4, 7), (4, 8)]  # latents, prefix
    assert windows == growing + [(4, 8)] * 5
    for step, (latents, prefix) in enumerate(windows):
        end = 6 + step
        mask = None if pads is None else torch.nn.functional.pad(pads, (0, step))
        mask = None if mask is None else mask[:, end - latents - prefix :]
        with torch.no_grad():
            logits = model(output[:, end - latents - prefix : end], prefix, mask)[:, -1]
        assert output[:, end].tolist() == logits.argmax(-1).tolist()


# Sampling


LOGITS = torch.tensor([2.0, -1.0, 0.5, 2.5, 0.5, -3.0, 1.0, 0.0])


def reference(logits, temperature=1.0, top_k=None, top_p=None) -> list[float]:
    """Probabilities as the papers say, in plain Python: temperature, then k, then p."""
    weights = [float(np.exp(x / temperature)) for x in logits.tolist()]
    if top_k is not None:
        least = sorted(weights, reverse=True)[min(top_k, len(weights)) - 1]
        weights = [w if w >= least else 0.0 for w in weights]
    if top_p is not None:
        total, so_far, kept = sum(weights), 0.0, set()
        for i in sorted(range(len(weights)), key=lambda i: -weights[i]):
            if so_far >= top_p * total:
                break
            kept.add(i)
            so_far += weights[i]
        weights = [w if i in kept else 0.0 for i, w in enumerate(weights)]
    return [w / sum(weights) for w in weights]


FILTERS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 100},
    {"top_p": 0.05},
    {"top_p": 0.6},
    {"top_p": 0.95},
    {"top_p": 1.0},
    {"top_k": 4, "top_p": 0.8, "temperature": 2.0},
    {"top_k": 2, "top_p": 0.9, "temperature": 0.3},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_filters_equal_the_reference(options):
    logits = torch.stack([LOGITS, LOGITS.flip(0) * 1.7])  # rows are filtered each by itself
    scaled = logits / options.get("temperature", 1.0)
    if "top_k" in options:
        scaled = keep_top_k(scaled, options["top_k"])
    if "top_p" in options:
        scaled = keep_top_p(scaled, options["top_p"])
    expected = torch.tensor([reference(row, **options) for row in logits])
    torch.testing.assert_close(scaled.softmax(-1), expected, atol=1e-6, rtol=0)


def test_filters_keep_what_stays_and_their_input():
    before = LOGITS.clone()
    for found, kept in ((keep_top_k(LOGITS, 3), [0, 3, 6]), (keep_top_p(LOGITS, 0.7), [0, 3])):
        assert found.isfinite().nonzero().flatten().tolist() == kept
        assert torch.equal(found[kept], LOGITS[kept])
    assert torch.equal(LOGITS, before)


def test_equals_of_the_kth_are_kept():
    kept = keep_top_k(torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0]), 2).isfinite()
    assert kept.tolist() == [False, True, True, True, False]


def chi_square(counts: torch.Tensor, probability: list[float]) -> tuple[float, int]:
    """The statistic, and its degrees of freedom; counts where nothing may fall are fatal."""
    expected = torch.tensor(probability, dtype=torch.float64) * counts.sum()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    difference = counts[possible] - expected[possible]
    return float((difference**2 / expected[possible]).sum()), int(possible.sum()) - 1


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_draws_follow_the_distribution(options):
    N = 20_000
    drawn = choose_tokens(LOGITS.expand(N, -1), do_sample=True, generator=seeded(3), **options)
    assert drawn.shape == (N,) and drawn.dtype == torch.int64
    counts = torch.bincount(drawn, minlength=8)
    statistic, freedom = chi_square(counts, reference(LOGITS, **options))
    # Mean and variance of the statistic are `freedom` and twice that.
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 1e-9


def test_the_statistic_would_notice_another_temperature():
    drawn = choose_tokens(
        LOGITS.expand(20_000, -1), do_sample=True, temperature=1.1, generator=seeded(3)
    )
    statistic, freedom = chi_square(torch.bincount(drawn, minlength=8), reference(LOGITS))
    assert statistic > freedom + 4 * (2 * freedom) ** 0.5


def test_without_sampling_the_likeliest_is_taken():
    assert choose_tokens(torch.stack([LOGITS, -LOGITS])).tolist() == [3, 5]


def test_choosing_leaves_the_logits_alone():
    logits = torch.randn(4, 389, generator=seeded(0))
    before = logits.clone()
    choose_tokens(logits, do_sample=True, top_k=5, top_p=0.5, generator=seeded(0))
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("options", "rows", "least", "most"),  # kinds of tokens drawn
    [
        ({}, 5000, NUM_EVENTS, NUM_EVENTS),
        ({"top_p": 0.95}, 500, 360, NUM_EVENTS - 1),
        ({"top_k": 3, "temperature": 5.0}, 500, 3, 3),
    ],
)
def test_ids_that_are_no_events_are_never_sampled(options, rows, least, most):
    """In 100,000 draws from a model that wants nothing else, and in 10,000 with each filter."""
    model = small_model(vocab_size=400, max_seq_len=8)
    with torch.no_grad():
        model.norm.weight.zero_()  # whatever came before, the output is the norm's bias
        model.norm.bias.fill_(1.0)
        model.embedding.weight[:] = 0.01 * torch.randn(400, 16, generator=seeded(0))
        model.embedding.weight[NUM_EVENTS:] += 1.0  # 16 nats above every event
    prompt = torch.zeros(rows, 1, dtype=torch.long)
    wanted = model.generate(prompt[:1], max_new_tokens=3)
    assert (wanted[:, 1:] >= NUM_EVENTS).all()
    output = model.generate(
        prompt, max_new_tokens=20, do_sample=True, generator=seeded(1), **options
    )
    drawn = output[:, 1:].flatten()
    assert len(drawn) == 20 * rows
    assert drawn.max() < NUM_EVENTS
    assert least <= len(drawn.unique()) <= most


def test_generate_samples_with_its_options(golden_model):
    """All that `generate` is told reaches the draw: replayed here step by step."""
    prompt = torch.from_numpy(CASES["greedy1.prompt"])
    options = {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9}
    output = golden_model.generate(
        prompt, max_new_tokens=30, num_latents=4, generator=seeded(5), **options
    )
    replay, cache, new = seeded(5), golden_model.make_cache(), prompt
    with torch.no_grad():
        logits = golden_model(new, prompt.size(1) - 4, cache=cache)[:, -1]
        for place in range(48, 78):
            new = choose_tokens(logits, generator=replay, **options)
            assert output[:, place].tolist() == new.tolist()
            logits = golden_model(new[:, None], 0, cache=cache)[:, -1]


def test_a_generator_makes_it_reproducible_and_leaves_the_global_one_alone():
    model, prompt = small_model(), random_tokens(2, 5)
    options = {"max_new_tokens": 30, "do_sample": True}
    before = torch.get_rng_state()
    first, again, other = (
        model.generate(prompt, generator=seeded(seed), **options) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0, 5:], first[1, 5:])

    torch.manual_seed(7)
    one = model.generate(prompt, **options)
    assert not torch.equal(one, model.generate(prompt, **options))
    torch.manual_seed(7)
    assert torch.equal(one, model.generate(prompt, **options))


# The model and what comes back


def set_modes(model: PerceiverAR) -> list[bool]:
    """Some modules in training, some not; the list of all of them."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 == 0
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("use_cache", [True, False])
def test_there_is_no_dropout_while_generating(use_cache):
    model, prompt = small_model(post_attention_dropout=0.5), random_tokens(1, 3)
    expected = model.generate(prompt, max_new_tokens=9, use_cache=use_cache)
    modes = set_modes(model)
    found = model.generate(prompt, max_new_tokens=9, use_cache=use_cache)
    assert torch.equal(found, expected)
    assert [module.training for module in model.modules()] == modes


def test_training_modes_are_restored():
    model, prompt = small_model(post_attention_dropout=0.5), random_tokens(1, 3)
    modes = set_modes(model)
    assert True in modes and False in modes
    inside = []
    hook = model.layers[0].register_forward_pre_hook(
        lambda *_: inside.extend(module.training for module in model.modules())
    )
    model.generate(prompt, max_new_tokens=9, use_cache=False)
    hook.remove()
    assert not any(inside) and inside
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "stop"]
)
def test_training_modes_are_restored_after_an_exception(error):
    model = small_model()
    modes, calls = set_modes(model), []

    def fail_later(*_):
        calls.append(1)
        if len(calls) == 4:
            raise error

    model.layers[0].register_forward_pre_hook(fail_later)
    with pytest.raises(type(error)):
        model.generate(random_tokens(1, 3), max_new_tokens=9, use_cache=False)
    assert [module.training for module in model.modules()] == modes


def test_output_is_an_ordinary_tensor():
    model, prompt = small_model(), random_tokens(2, 5).to(torch.int16)
    before = prompt.clone()
    output = model.generate(prompt, max_new_tokens=20)
    assert output.dtype == torch.int64 and output.shape == (2, 25)
    assert output[:, :5].tolist() == before.tolist()
    assert not output.is_inference() and not output.requires_grad
    output[:, 0] = 39  # in place, outside inference mode
    assert output[:, 0].tolist() == [39, 39]
    assert torch.equal(prompt, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    model(output[:, :5], 1).sum().backward()  # and the model can be trained with it


def test_nothing_to_add_gives_the_prompt_back():
    model, prompt = small_model(), random_tokens(2, 5)
    output = model.generate(prompt, max_new_tokens=0)
    assert torch.equal(output, prompt) and output.data_ptr() != prompt.data_ptr()


def test_num_latents_is_clipped_to_the_prompt():
    model, prompt = small_model(), random_tokens(1, 2)
    clipped = model.generate(prompt, max_new_tokens=10, num_latents=4)
    assert torch.equal(clipped, model.generate(prompt, max_new_tokens=10, num_latents=2))


def test_the_function_and_the_method_are_the_same():
    model, prompt = small_model(), random_tokens(1, 2)
    method = model.generate(prompt, max_new_tokens=5)
    assert torch.equal(method, generate(model, prompt, max_new_tokens=5))


def test_progress_is_shown_only_when_asked_for(capfd):
    model, prompt = small_model(), random_tokens(1, 2)
    silent = model.generate(prompt, max_new_tokens=6)
    assert capfd.readouterr() == ("", "")
    shown = model.generate(prompt, max_new_tokens=6, progress=True)
    assert "6/6" in capfd.readouterr().err
    assert torch.equal(shown, silent)


# Refusals


PROMPT = torch.tensor([[1, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": PROMPT[0]}, r"shape \(B, n\), not torch.int64 of shape \(5,\); use unsqueeze"),
        ({"prompt": PROMPT.float()}, "token ids of shape .* not torch.float32"),
        ({"prompt": PROMPT[:, :0]}, "the prompt must have 1 to 12 tokens, not 0"),
        ({"prompt": random_tokens(1, 13)}, "the prompt must have 1 to 12 tokens, not 13"),
        ({"prompt": PROMPT - 3}, "token -2 at place 0 of row 0 is not in this model's vocabulary"),
        (
            {"prompt": torch.tensor([[1, 2], [3, 40]])},
            "token 40 at place 1 of row 1 is not in this model's vocabulary of 40",
        ),
        ({"num_latents": 0}, r"num_latents must be in 1\.\.4, not 0"),
        ({"num_latents": 5}, r"num_latents must be in 1\.\.4, not 5"),
        (
            {"prompt": random_tokens(1, 11)},
            r"num_latents=1 leaves a prefix of 10 tokens, more than the 8 .* in 3\.\.4",
        ),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, not -1"),
        ({"max_new_tokens": None}, "max_new_tokens or max_seconds is needed"),
        ({"max_new_tokens": 100.5}, "max_new_tokens must be a whole number, not 100.5"),
        ({"max_new_tokens": None, "max_seconds": float("inf")}, "must be finite here"),
        ({"max_seconds": 1.0}, "this model's vocabulary has no waits to count"),
        ({"do_sample": True, "temperature": 1e-46}, "temperature must be positive, not 1e-46"),
        ({"do_sample": True, "top_k": 2.5}, "top_k must be a whole number, not 2.5"),
        ({"do_sample": True, "generator": 42}, "must be a torch.Generator, not 42"),
        ({"prompt": [[1.7, 2.2], [3.0]]}, "a prompt must hold token ids, not torch.float32"),
        ({"prompt": [[1], [1] * 12], "num_latents": 4}, "and the longest needs 4"),
        ({"max_seconds": -0.5}, "max_seconds must be at least 0, not -0.5"),
        ({"max_seconds": float("nan")}, "max_seconds must be at least 0, not nan"),
        ({"window": "grow"}, "window must be 'slide' or 'refill', not 'grow'"),
        ({"precision": "float8"}, "precision must be one of .*int8.*, not 'float8'"),
        ({"precision": "half", "use_cache": False}, "without the cache precision must be"),
        ({"generator": [torch.Generator()] * 2}, "1 prompts need 1 generators, not 2"),
        ({"grammar": True}, "a grammar needs the 388 MIDI events, not a vocabulary of 40"),
        ({"min_p": 0.1}, "need do_sample=True"),
        ({"do_sample": True, "min_p": 0.0}, r"min_p must be in \(0, 1\], not 0.0"),
        ({"prompt": []}, "a list of prompts must hold at least one"),
        ({"prompt": [[1, 2], []]}, r"their shapes are \[\(2,\), \(0,\)\]"),
        ({"prompt": [[[1, 2]]]}, r"their shapes are \[\(1, 2\)\]"),
        ({"prompt": [[1], [1, 2, 3]], "num_latents": 2}, "the shortest prompt has 1 tokens"),
        ({"prompt": [[1, 2]], "pad_mask": PROMPT > 9}, "a list of prompts needs no pad_mask"),
        ({"temperature": 0.5}, "need do_sample=True"),
        ({"top_k": 5}, "need do_sample=True"),
        ({"top_p": 0.9}, "need do_sample=True"),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"do_sample": True, "temperature": -1.0}, "temperature must be positive, not -1.0"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature must be positive, not nan"),
        ({"do_sample": True, "temperature": float("inf")}, "temperature must be positive, not inf"),
        ({"do_sample": True, "top_k": 0}, "top_k must be at least 1, not 0"),
        ({"do_sample": True, "top_p": 0.0}, r"top_p must be in \(0, 1\], not 0.0"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p must be in \(0, 1\], not 1.5"),
        ({"pad_mask": PROMPT > 9, "prompt": PROMPT[:, :4]}, r"pad_mask must be bool .* \(1, 4\)"),
        ({"pad_mask": PROMPT * 0}, "pad_mask must be bool .* not torch.int64"),
        ({"pad_mask": PROMPT == 2}, "padding must stand on the left"),
        ({"pad_mask": PROMPT > 3}, "padding must stand on the left"),
        (
            {"pad_mask": PROMPT < 4, "num_latents": 3},
            "the shortest prompt has 2 tokens, num_latents is 3",
        ),
        ({"pad_mask": PROMPT > 0}, "padding must not be among the latents"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    model = small_model().train()
    options = {"prompt": PROMPT, "max_new_tokens": 2} | options
    with pytest.raises(ValueError, match=message):
        model.generate(options.pop("prompt"), **options)
    assert model.training


def test_the_coldest_draw_is_the_likeliest_event_of_each_row():
    logits = torch.zeros(2, 389)
    logits[0, 7], logits[1, 9] = 50.0, 1.0  # one row far above the other, and padding above both
    logits[:, 388] = 100.0
    before = logits.clone()
    drawn = choose_tokens(logits, do_sample=True, temperature=1e-30)
    assert drawn.tolist() == [7, 9]
    assert torch.equal(logits, before), "the caller's logits were changed"
