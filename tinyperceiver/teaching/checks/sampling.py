"""Chapter 11: the exercises on windows, filters and a grammar."""

import functools

import numpy as np
import torch
from torch import Tensor

from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, TIME_SHIFT, VELOCITY
from tinyperceiver.teaching.checking import Case, Mistake, exercise

__all__ = ["few_keys", "keep_typical", "my_filter", "window_after"]


def _windows():
    """Prompts of three models and how far they are continued."""
    small = PerceiverConfig(
        vocab_size=389, max_seq_len=96, max_latents=32, num_channels=64, num_heads=4,
        num_self_attention_layers=3,
    )  # fmt: skip
    for config in (small, PRESETS["tiny"], PRESETS["released"]):
        window, full, most = config.max_seq_len, config.max_latents, config.max_prefix_len
        for n, first in ((1, 1), (40, 8), (90, 30), (window, full), (most, 1), (20, 32)):
            if n - first > most or first > full:
                continue
            for k in (0, 1, full - first, full - first + 1, full, window, 3 * window):
                if k >= 0:
                    yield Case(n, first, config, k, window=f"{window}/{full}")


_WINDOWS = list(_windows())


@exercise(
    "Which window?",
    cases=_WINDOWS,
    returns="a pair of numbers: latents, prefix",
    about="for {n} tokens, num_latents {num_latents}, window {window}, k = {k}:",
    wrong="you say {got}, and it is {expected}.",
    praise=f"{len(_WINDOWS)} windows of three models.",
)
def window_after(n, num_latents, config, k):
    """
    Write `window_after(n, num_latents, config, k)`. A prompt of `n` tokens, `num_latents` of them
    latent, has been continued by `k` tokens, sliding. Return how the window that ends with the last
    of them is made up: a pair `(latents, prefix)`, in tokens. `config` has `max_latents`,
    `max_prefix_len` and `max_seq_len`. As in `generate`, a prompt shorter than `num_latents` is
    latent altogether.
    """
    latents = min(min(num_latents, n) + k, config.max_latents)
    # What is not latent is prefix, as far as there is room.
    return latents, min(n + k - latents, config.max_prefix_len)


window_after.mistakes |= {
    "latents come first, then the prefix.": {
        "return latents, min(n + k - latents, config.max_prefix_len)": "return "
        "min(n + k - latents, config.max_prefix_len), latents"
    },
    "{got[1]} tokens of prefix. When the latents are full, what was the oldest latent has to go "
    "somewhere.": {"min(n + k - latents, config.max_prefix_len)": "n - min(num_latents, n)"},
}


@window_after.diagnose
def _(got, expected, n, num_latents, config, k):
    latents, prefix = got
    if k == 0 and latents > n:
        return f"{latents} latents of {n} tokens. A prompt has no more latents than tokens."
    if latents > config.max_latents:
        return f"{latents} latents, and {config.max_latents} are the most."
    if prefix > config.max_prefix_len:
        return (
            f"a prefix of {prefix}, and {config.max_prefix_len} are the most: then the left-most "
            "token leaves."
        )
    if latents < expected[0] and sum(got) == sum(expected):
        return (
            "the window is right and the parts are not. Which grows first, the latents or the "
            "prefix?"
        )


window_after.caught |= {
    "more latents than tokens": {
        "min(num_latents, n)": "num_latents",
        "n + k - latents": "max(n + k - latents, 0)",
    },
    "then the left-most token leaves": {
        "min(n + k - latents, config.max_prefix_len)": "n + k - latents"
    },
    "are the most.": {
        "min(min(num_latents, n) + k, config.max_latents)": "min(num_latents, n) + k"
    },
    "Which grows first": {
        "latents = min(min(num_latents, n) + k, config.max_latents)": "prefix = min("
        "n - min(num_latents, n) + k, config.max_prefix_len)",
        "latents, min(n + k - latents, config.max_prefix_len)": "min("
        "n + k - prefix, config.max_latents), prefix",
    },
}


def _altered(got: Tensor, logits: Tensor) -> str:
    """How a filter changed logits that it kept, or ``."""
    if got.isnan().any():
        return "there is NaN among the logits: is 0 times infinity somewhere?"
    is_kept = got > float("-inf")
    if not torch.equal(got[is_kept], logits[is_kept]):
        return "logits that stay must stay as they are; the others are -inf."
    return ""


def _distributions():
    """Logits and p: five probabilities in any order, random ones, holes, rows."""
    five = torch.tensor([0.1, 0.5, 0.05, 0.2, 0.15]).log()
    for p in (0.1, 0.3, 0.5, 0.9, 0.99):
        yield five, p
    for p in (0.2, 0.5, 0.8, 0.95):
        random = 3 * torch.randn(50) + 7
        yield random, p
    yield Case(
        torch.tensor([2.0, float("-inf"), 1.0, 0.0]),
        0.9,
        wrong="a token that was forbidden before, with -inf, is allowed again, or others are kept "
        "than without it.",
    )
    holes = 3 * torch.randn(12)
    holes[[1, 4, 9]] = float("-inf")
    yield Case(
        holes,
        0.5,
        wrong="where some logits are -inf already, others are kept than without these tokens: 0 "
        "times infinity is NaN, and they must add nothing to the mean surprise.",
    )
    yield Case(
        torch.stack((random, random / 3)),
        0.5,
        wrong="a row gets another result among others than alone: each has a mean of its own.",
    )
    yield Case(
        torch.stack((five, five.flip(0))),
        0.5,
        wrong="rows of (B, V) must be filtered each by itself: use the last axis.",
    )
    yield torch.tensor([0.9, 0.05, 0.05]).log(), 0.5


def _which(got, expected, logits, p):
    q = logits.softmax(-1).flatten()[:5]
    return f"for probabilities {[round(x, 2) for x in q.tolist()]} ... and p = {p}:"


@exercise(
    "As surprising as usual",
    cases=_distributions,
    returns="a tensor of logits, in which every token keeps its place",
    about=_which,
    wrong=lambda got, expected, logits, p: (
        f"{int((got > float('-inf')).sum())} tokens are kept, "
        f"and it should be {int((expected > float('-inf')).sum())}."
    ),
    praise="Five shuffled probabilities and fifty random ones; the likeliest may be left out.",
)
def keep_typical(logits, p):
    """
    The likeliest token is often *less* surprising than music usually is. Typical sampling begins
    elsewhere {cite:p}`meister2023typical`. The mean surprise of a draw is
    $\\bar s = -\\sum_i p_i \\ln p_i$. Order the tokens by how far their own surprise, $-\\ln p_i$,
    is from $\\bar s$, nearest first, and keep the smallest set from the front that has at least
    probability `p` together. Write `keep_typical(logits, p)`: logits `(..., V)`, with -inf in place
    of what is not kept. Some logits may be -inf already, and stay so.
    """
    log_p = logits.log_softmax(-1)
    # 0 times infinity is no number: what is forbidden adds nothing to the mean.
    mean = -(log_p.exp() * log_p.clamp(min=-1e9)).sum(-1, keepdim=True)
    token = (-log_p - mean).abs().argsort(dim=-1, stable=True)
    probability = log_p.exp().gather(-1, token)
    before = probability.cumsum(-1) - probability  # as in top-p
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, token, before < p)
    return logits.masked_fill(~kept, float("-inf"))


keep_typical.mistakes |= {
    "that is top-p, which begins with the likeliest. Begin with the token whose surprise is "
    "nearest to the mean surprise.": {"(-log_p - mean).abs()": "(-log_p)"},
    "the mean surprise is weighted: a token counts by its probability.": {
        "(log_p.exp() * log_p.clamp(min=-1e9)).sum(": "log_p.mean("
    },
    "logits are no log-probabilities before log_softmax.": {"(-log_p - mean)": "(logits - mean)"},
    "the tokens kept have less than p together. The token that crosses p belongs to the set.": {
        " - probability  # as in top-p": ""
    },
}
keep_typical.caught |= {
    "there is NaN": {
        "return logits": "return (mean / mean * logits)",
        "log_p.clamp(min=-1e9)": "log_p",
    },
    "as they are": {"return logits": "return log_p"},
    "0 times infinity is NaN, and": {"log_p.clamp(min=-1e9)": "log_p"},
    "a mean of its own": {".sum(-1, keepdim=True)": ".sum(-1).mean()"},
}


@keep_typical.diagnose
def _(got, expected, logits, p):
    return _altered(got, logits)


def _hands():
    """What a grammar allows, after a wait and after a velocity, and keys that are down."""
    for keys, most in (((), 2), ((60,), 2), ((60, 64), 2), ((60, 64, 67), 2), ((40, 50, 60), 4)):
        is_down = np.zeros(NOTE_OFF, dtype=bool)
        is_down[list(keys)] = True
        allowed, stroke = np.zeros((2, NUM_EVENTS + 1), dtype=bool)
        allowed[:NOTE_OFF] = stroke[:NOTE_OFF] = ~is_down
        allowed[NOTE_OFF:TIME_SHIFT] = is_down
        allowed[TIME_SHIFT:NUM_EVENTS] = True
        yield Case(allowed, is_down, most, held=f"{len(keys)}")
        if len(keys) < most:  # else none is after a velocity
            yield Case(stroke, is_down, most, held=f"{len(keys)}")


@exercise(
    "A player with few fingers",
    cases=_hands,
    returns="an array of bool, as `allowed` is",
    about="with {held} keys down and at most {most},",
    wrong="waits and releases that were allowed no longer are.",
    praise="Five hands; a full one may wait and release, and writes no velocity.",
)
def few_keys(allowed, is_down, most):
    """
    A rule more for the grammar: no more than `most` keys down at once. Write
    `few_keys(allowed, is_down, most)`. `allowed`, `(V,)`, and `is_down`, `(128,)`, are NumPy arrays
    of bool: what a `Grammar` allows in a row, and its keys. Return `allowed` with more forbidden
    where the new rule demands it. Never forbid what the rule does not forbid, and leave no dead
    end: whatever is allowed now, something must be allowed after it. (The rule holds from the first
    token on: no hand is too full to begin with.)
    """
    allowed = allowed.copy()
    if is_down.sum() >= most:
        allowed[:NOTE_OFF] = False
        allowed[VELOCITY:NUM_EVENTS] = False  # only a stroke may follow one
    return allowed


@few_keys.diagnose
def _(got, expected, allowed, is_down, most):
    if (got & ~allowed).any():
        return f"token {(got & ~allowed).argmax()} is allowed, which was not: only take away."
    if is_down.sum() < most:
        return "there is room for one more: nothing more is forbidden."
    if got[:NOTE_OFF].any():
        return "a key may still be struck."
    if got[VELOCITY:].any():
        return (
            "a velocity may be written. After it only a stroke is allowed, and none is: dead end."
        )


few_keys.caught |= {
    "dead end": {"allowed[VELOCITY:NUM_EVENTS] = False": "pass"},
    "a key may still be struck": {">=": ">"},
    "waits and releases": {"[VELOCITY:NUM_EVENTS]": "[TIME_SHIFT:]"},
    "room for one more": {">= most": ">= most - 1"},
    "only take away": {"return allowed": "return allowed | is_down.all() | (allowed == 0)"},
}


@functools.cache
def _asked() -> tuple[Tensor, Tensor]:
    """Logits before tokens of the shipped pieces, without padding, and these tokens."""
    from tinyperceiver.model.perceiver_ar import PerceiverAR

    model = PerceiverAR.from_pretrained("tiny")
    rows, targets = [], []
    for name in PIECES:
        tokens = torch.tensor(encode_midi(load_piece(name))[:513])
        with torch.inference_mode():
            rows.append(model(tokens[None, :-1], 0)[0, 128:, :NUM_EVENTS])
        targets.append(tokens[129:])
    return torch.cat(rows).clone(), torch.cat(targets)


@exercise(
    "A filter of your own", returns="a tensor of logits, in which every token keeps its place"
)
def my_filter(logits):
    """
    *Open.* Write `my_filter(logits)`: logits `(B, V)` of events, without padding, with -inf in
    place of what is not kept, each row by itself. The checker gives it 1,920 contexts of the five
    pieces. The likeliest token must always stay. Of the composers' own tokens at most 3 % may be
    cut, and at most 11.8 tokens may be left on average. Top-p alone leaves 11.9 at that price,
    min-p alone 12.2, top-k alone more than 15. What would you cut if only these two numbers
    mattered? Then listen: should only these two matter?
    """
    # Each token kept costs one, and saves its probability. So one price fits all
    # contexts: keep what is likelier than some bound, here 1 %. Its name is epsilon
    # sampling (Hewitt et al. 2022, in the further reading).
    log_p = logits.log_softmax(-1)
    is_best = log_p == log_p.amax(-1, keepdim=True)  # however unsure the model is
    return logits.masked_fill((log_p.exp() < 0.01) & ~is_best, float("-inf"))


@my_filter.judge
def _(answer):
    logits, targets = _asked()
    found, alone = (my_filter.expect(answer(rows), rows) for rows in (logits, logits[:1]))
    if problem := _altered(found, logits):
        raise Mistake(problem)
    if not torch.equal(alone, found[:1]):
        raise Mistake("a row's result depends on the other rows of the batch.")
    kept = found > float("-inf")
    if not kept.gather(1, logits.argmax(-1, keepdim=True)).all():
        raise Mistake(
            "somewhere the likeliest token is cut: a filter cuts the tail, and something must be "
            "left to draw from."
        )
    forbidden = 1 - kept.gather(1, targets[:, None]).double().mean().item()
    left = kept.sum(-1).double().mean().item()
    if forbidden > 0.03:
        raise Mistake(
            f"{forbidden:.2%} of the composers' tokens are cut, more than 3 %; {left:.2f} tokens "
            "are left on average."
        )
    if left > 11.8:
        raise Mistake(
            f"{left:.2f} tokens are left on average, more than 11.8; {forbidden:.2%} of the "
            "composers' are cut. Where the model is sure, what do rare tokens cost you? And where "
            "it is not?"
        )
    return f"{left:.1f} tokens are left on average, and {forbidden:.1%} of the composers' are cut."


my_filter.caught |= {
    "tokens are cut, more than 3 %": lambda logits: logits.masked_fill(
        logits < logits.topk(10).values[..., -1:], float("-inf")
    ),
    "tokens are left on average, more than 11.8": {
        "(log_p.exp() < 0.01)": "(logits < logits.amax(-1, keepdim=True) - 4)"
    },
    "the likeliest token is cut": {"& ~is_best": "| (log_p.exp() > 0.9)"},
    "depends on the other rows of the batch": {
        "(log_p.exp() < 0.01)": "(logits < logits.amax() - 11)"
    },
}
