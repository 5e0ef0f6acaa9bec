"""The arguments of `generate`, checked before any work is done."""

import os
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from tinyperceiver.model.perceiver_ar import PerceiverAR

__all__ = [
    "GenerateOptions",
    "Randomness",
    "StreamOptions",
    "check_list",
    "check_prompt",
    "check_sampling",
    "check_tokens",
    "check_whole",
    "pad_left",
]

Randomness = torch.Generator | Sequence[torch.Generator] | None


class StreamOptions(TypedDict, total=False):
    """The options of `stream`; `generate` explains them."""

    max_new_tokens: int | None
    max_seconds: float | None
    num_latents: int
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    grammar: bool
    window: str
    precision: str
    use_cache: bool
    generator: Randomness


class GenerateOptions(StreamOptions, total=False):
    """The options of `generate`, which explains them."""

    pad_mask: Tensor | None
    progress: bool


def check_sampling(
    do_sample: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> None:
    """Refuse settings from which nothing can be drawn, or that have no effect."""
    if not do_sample and (temperature, top_k, top_p, min_p) != (1.0, None, None, None):
        raise ValueError("temperature, top_k, top_p and min_p need do_sample=True")
    if not 1e-38 <= temperature <= 1e38:  # what a float32 can divide by
        raise ValueError(f"temperature must be positive, not {temperature}")
    if top_k is not None:
        check_whole("top_k", top_k, 1)
    for name, p in (("top_p", top_p), ("min_p", min_p)):
        if p is not None and not 1e-38 <= p <= 1:
            raise ValueError(f"{name} must be in (0, 1], not {p}")


def check_whole(name: str, value: int, least: int) -> None:
    """Refuse what is not a whole number, or less than `least`."""
    if not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_tokens(prompt: object) -> None:
    """Refuse music and paths, of which tokens must be made first.

    Raises:
        TypeError: says how.
    """
    if isinstance(prompt, (str, os.PathLike)) or hasattr(prompt, "instruments"):
        raise TypeError(
            f"a prompt must hold token ids, not {type(prompt).__name__}: make them by "
            "encode_midi, of a file by encode_midi(read_midi(path))"
        )


def check_list(prompts: Sequence) -> list[Tensor]:
    """Return a list of prompts as tensors; refuse what cannot be one."""
    check_tokens(prompts)
    for prompt in prompts:
        check_tokens(prompt)
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    if not rows or any(row.ndim != 1 or not len(row) for row in rows):
        raise ValueError(
            "a list of prompts must hold at least one, and each at least one token id, "
            f"in one dimension; their shapes are {[tuple(row.shape) for row in rows]}"
        )
    for row in rows:
        if row.is_floating_point() or row.dtype == torch.bool:
            raise ValueError(f"a prompt must hold token ids, not {row.dtype}")
    return rows


def pad_left(rows: list[Tensor], padding: int) -> tuple[Tensor, Tensor | None]:
    """Pad rows of different lengths to one prompt, (B, n); return it and its mask."""
    n = max(map(len, rows))
    prompt = torch.full((len(rows), n), padding, dtype=torch.long)
    pad_mask = torch.ones(len(rows), n, dtype=torch.bool)
    for i, row in enumerate(rows):
        prompt[i, n - len(row) :] = row
        pad_mask[i, n - len(row) :] = False
    return prompt, pad_mask if pad_mask.any() else None


def check_prompt(
    model: PerceiverAR, prompt: Tensor, num_latents: int, pad_mask: Tensor | None
) -> int:
    """Refuse a prompt that cannot be continued; return the latents to start with."""
    config = model.config
    if prompt.ndim != 2 or prompt.is_floating_point() or prompt.dtype == torch.bool:
        raise ValueError(
            f"the prompt must be token ids of shape (B, n), not {prompt.dtype} of "
            f"shape {tuple(prompt.shape)}; use unsqueeze(0) on a single row"
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
            f"token {prompt[row, place]} at place {place} of row {row} is not in this "
            f"model's vocabulary of {config.vocab_size}"
        )
    if not 1 <= num_latents <= config.max_latents:
        raise ValueError(
            f"num_latents must be in 1..{config.max_latents}, not {num_latents}"
        )
    num_latents = min(num_latents, n)
    if n - num_latents > config.max_prefix_len:
        raise ValueError(
            f"num_latents={num_latents} leaves a prefix of {n - num_latents} tokens, "
            f"more than the {config.max_prefix_len} this model takes; for a prompt of "
            f"{n} tokens num_latents must be in "
            f"{n - config.max_prefix_len}..{min(n, config.max_latents)}"
        )
    if pad_mask is not None:
        if pad_mask.shape != prompt.shape or pad_mask.dtype != torch.bool:
            raise ValueError(
                f"pad_mask must be bool of the prompt's shape {tuple(prompt.shape)}, "
                f"not {pad_mask.dtype} of shape {tuple(pad_mask.shape)}"
            )
        if (pad_mask[:, 1:] & ~pad_mask[:, :-1]).any():
            raise ValueError("padding must stand on the left of each prompt")
        if pad_mask[:, n - num_latents :].any():
            shortest = int((~pad_mask).sum(dim=1).min())
            least = max(1, n - config.max_prefix_len)
            raise ValueError(
                f"padding must not be among the latents: the shortest prompt has "
                f"{shortest} tokens, num_latents is {num_latents}"
                + f", and the longest needs {least}"
                * (least > shortest)
            )
    return num_latents
