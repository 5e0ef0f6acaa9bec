"""From logits to the next token: filters, then the draw.

Axis letters: B batch, n tokens, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tinyperceiver.music.vocabulary import NUM_EVENTS

__all__ = ["choose_tokens", "keep_min_p", "keep_top_k", "keep_top_p"]


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Replace all logits, (..., V), but the k highest and their equals by -inf."""
    least = logits.topk(min(k, logits.size(-1))).values[..., -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Replace logits, (..., V), outside the smallest set of probability p by -inf.

    Nucleus sampling (Holtzman et al. 2020, section 3.1, arXiv:1904.09751).
    """
    ordered, token = logits.sort(descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability  # what likelier tokens have already
    ordered = ordered.masked_fill(before >= p, float("-inf"))
    return torch.empty_like(logits).scatter_(-1, token, ordered)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Replace logits, (..., V), of less than p times the highest probability by -inf.

    Min-p sampling (Nguyen et al. 2024, section 3, arXiv:2407.01082).
    """
    least = logits.amax(-1, keepdim=True) + np.log(p)
    return logits.masked_fill(logits < least, float("-inf"))


def choose_tokens(
    logits: Tensor,
    *,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    allowed: Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Choose the next token of each row, the likeliest or a random one: (B, V) -> (B,).

    Args:
        logits: (B, V).
        do_sample: draw from the distribution, padding excluded, instead of taking the
            likeliest.
        temperature: divides the logits; below 1 sharper, above 1 flatter.
        top_k: draw only among the k likeliest tokens.
        top_p: draw only among the likeliest tokens that together have probability p.
        min_p: draw only among tokens at least p times as likely as the likeliest.
        allowed: True at tokens that may be chosen, (B, V), such as a `Grammar` gives.
        generator: source of randomness, or one for each row, whose draws are then those
            of that row alone; PyTorch's global one by default.
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    if not do_sample:
        return logits.argmax(-1)
    # Padding is no event.
    is_event = torch.arange(logits.size(-1), device=logits.device) < NUM_EVENTS
    logits = logits.float().masked_fill(~is_event, float("-inf"))
    # No overflow, however cold.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    probability = logits.softmax(-1)
    if isinstance(generator, Sequence):
        drawn = [
            _draw(row[None], one)
            for row, one in zip(probability, generator, strict=True)
        ]
        return torch.cat(drawn)
    return _draw(probability, generator)


def _draw(probability: Tensor, generator: torch.Generator | None) -> Tensor:
    device = probability.device
    if generator is not None:
        probability = probability.to(generator.device)
    return torch.multinomial(probability, 1, generator=generator)[:, 0].to(device)
