"""Sampling, and the loop that continues a prompt.

Axis letters: B batch, n tokens in the window, V vocabulary.
"""

import torch
from torch import Tensor

from tinyperceiver.model import PerceiverAR
from tinyperceiver.tokenizer import NUM_EVENTS

__all__ = ["choose_tokens", "generate", "keep_top_k", "keep_top_p"]


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits, (..., V), with -inf in place of all but the k highest and their equals."""
    least = logits.topk(min(k, logits.size(-1))).values[..., -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits, (..., V), with -inf outside the smallest set of probability p.

    Nucleus sampling (Holtzman et al. 2020, section 3.1, arXiv:1904.09751).
    """
    ordered, token = logits.sort(descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability  # what likelier tokens have already
    ordered = ordered.masked_fill(before >= p, float("-inf"))
    return torch.empty_like(logits).scatter_(-1, token, ordered)


def choose_tokens(
    logits: Tensor,
    *,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The next token of each row, (B, V) -> (B,): the likeliest, or one drawn.

    Args:
        logits: (B, V).
        do_sample: draw from the distribution, padding excluded, instead of taking the
            likeliest.
        temperature: divides the logits; below 1 sharper, above 1 flatter.
        top_k: draw only among the k likeliest tokens.
        top_p: draw only among the likeliest tokens that together have probability p.
        generator: source of randomness; PyTorch's global one by default.
    """
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
    probability = logits.softmax(-1)
    if generator is not None:
        probability = probability.to(generator.device)
    return torch.multinomial(probability, 1, generator=generator)[:, 0].to(
        logits.device
    )


def generate(
    model: PerceiverAR,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    num_latents: int = 1,
    pad_mask: Tensor | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    use_cache: bool = True,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Continue a prompt token by token, without end.

    The last `num_latents` tokens of the prompt are the first latents. Each new token is
    one more, until there are `max_latents`; from then on the prefix grows, until the
    window is full; from then on the window slides. With the cache, which is how the
    released model is used, keys and values are never computed again: later states keep
    the influence of latents that have left. Without it every step starts afresh from
    the window. Until `max_latents` both are equal.

    Args:
        model: any `PerceiverAR`; its training mode is as before when this returns.
        prompt: token ids, (B, n), any integer dtype, 1 <= n <= max_seq_len.
        max_new_tokens: how many tokens to add.
        num_latents: 1 ... max_latents; clipped to n.
        pad_mask: True at padding, (B, n), for prompts of different lengths: padding on
            the left, and none among the latents.
        do_sample, temperature, top_k, top_p, generator: as in `choose_tokens`; without
            `do_sample` the likeliest token of the whole vocabulary is taken.
        use_cache: whether to keep keys and values between steps.
        progress: show a bar.

    Returns:
        The prompt and what was added, (B, n + max_new_tokens), int64, on the model's
        device.

    Raises:
        ValueError: an argument is out of range; the message says what would do.
    """
    _check_sampling(do_sample, temperature, top_k, top_p)
    num_latents = _check_prompt(model, prompt, num_latents, pad_mask)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
    sampling = {
        "do_sample": do_sample,
        "temperature": temperature,
        "generator": generator,
    }
    sampling |= {"top_k": top_k, "top_p": top_p}
    device = model.embedding.weight.device
    B, n = prompt.shape
    tokens = torch.empty(B, n + max_new_tokens, dtype=torch.long, device=device)
    tokens[:, :n] = prompt
    if pad_mask is not None:
        pad_mask = torch.nn.functional.pad(pad_mask.to(device), (0, max_new_tokens))
    places = range(n, n + max_new_tokens)
    if progress:
        from tqdm.auto import tqdm

        places = tqdm(places, unit=" tokens")

    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            cache = model.make_cache(tokens.size(1)) if use_cache else None
            for end in places:
                if use_cache and end > n:
                    logits = model(tokens[:, end - 1 : end], 0, cache=cache)
                else:
                    start = max(0, end - model.config.max_seq_len)
                    l = min(num_latents + end - n, model.config.max_latents)
                    pads = None if pad_mask is None else pad_mask[:, start:end]
                    logits = model(
                        tokens[:, start:end], end - start - l, pads, cache=cache
                    )
                tokens[:, end] = choose_tokens(logits[:, -1], **sampling)
    finally:
        for module in was_training:
            module.training = True
    return tokens


def _check_sampling(
    do_sample: bool, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if not do_sample and (temperature, top_k, top_p) != (1.0, None, None):
        raise ValueError("temperature, top_k and top_p need do_sample=True")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], not {top_p}")


def _check_prompt(
    model: PerceiverAR, prompt: Tensor, num_latents: int, pad_mask: Tensor | None
) -> int:
    """The number of latents to start with, if the prompt can be continued at all."""
    config = model.config
    if prompt.ndim != 2 or prompt.is_floating_point() or prompt.dtype == torch.bool:
        raise ValueError(
            f"the prompt must be token ids of shape (B, n), not {prompt.dtype} of shape "
            f"{tuple(prompt.shape)}; use unsqueeze(0) on a single row"
        )
    n = prompt.size(1)
    if not 1 <= n <= config.max_seq_len:
        raise ValueError(
            f"the prompt must have 1 to {config.max_seq_len} tokens, not {n}"
        )
    prompt = prompt.long()  # 389 is no number in 8 bits
    wrong = (prompt < 0) | (prompt >= config.vocab_size)
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"token {prompt[row, place]} at place {place} of row {row} is not in this model's "
            f"vocabulary of {config.vocab_size}"
        )
    if not 1 <= num_latents <= config.max_latents:
        raise ValueError(
            f"num_latents must be in 1..{config.max_latents}, not {num_latents}"
        )
    num_latents = min(num_latents, n)
    if n - num_latents > config.max_prefix_len:
        raise ValueError(
            f"num_latents={num_latents} leaves a prefix of {n - num_latents} tokens, more than "
            f"the {config.max_prefix_len} this model takes; for a prompt of {n} tokens "
            f"num_latents must be in {n - config.max_prefix_len}..{min(n, config.max_latents)}"
        )
    if pad_mask is not None:
        if pad_mask.shape != prompt.shape or pad_mask.dtype != torch.bool:
            raise ValueError(
                f"pad_mask must be bool of the prompt's shape {tuple(prompt.shape)}, not "
                f"{pad_mask.dtype} of shape {tuple(pad_mask.shape)}"
            )
        if (pad_mask[:, 1:] & ~pad_mask[:, :-1]).any():
            raise ValueError("padding must stand on the left of each prompt")
        if pad_mask[:, n - num_latents :].any():
            shortest = int((~pad_mask).sum(dim=1).min())
            raise ValueError(
                f"padding must not be among the latents: the shortest prompt has {shortest} "
                f"tokens, num_latents is {num_latents}"
            )
    return num_latents


PerceiverAR.generate = generate
