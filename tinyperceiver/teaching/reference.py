"""The small reference model, and what the library that trained the released one made of it."""

import json
from collections.abc import Iterator
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinyperceiver.model.config import PerceiverConfig


class Case(NamedTuple):
    """A window, and what the library that trained the released model made of it."""

    tokens: Tensor  # (B, n)
    prefix_len: int  # m
    pad_mask: Tensor  # (B, n), True at padding
    logits: Tensor  # (B, l, V)


def _folder():
    return resources.files("tinyperceiver") / "assets" / "reference"


def _answers() -> dict[str, np.ndarray]:
    with (_folder() / "cases.npz").open("rb") as file:
        return dict(np.load(file))


def hub_folder() -> Path:
    """The files of the small reference model as its library writes them, as on the hub."""
    return Path(str(_folder())) / "hub"


def settings() -> dict:
    """The fields of `PerceiverConfig` of the small reference model."""
    text = (_folder() / "hub" / "config.json").read_text(encoding="utf-8")
    known = {field.name for field in fields(PerceiverConfig)}
    stored = json.loads(text)["model_config"]
    return {name: value for name, value in stored.items() if name in known}


def tensors() -> dict[str, Tensor]:
    """The weights of the small reference model, under the names of its library."""
    with (_folder() / "hub" / "pytorch_model.bin").open("rb") as file:
        return torch.load(file, weights_only=True)


def cases() -> list[Case]:
    """Windows of the small reference model, with and without padding."""
    found, windows = _answers(), []
    while (name := f"forward{len(windows)}") + ".tokens" in found:
        tokens, prefix_len, pad_mask, logits = (
            torch.from_numpy(found[f"{name}.{field}"]) for field in Case._fields
        )
        windows.append(Case(tokens.long(), prefix_len.item(), pad_mask, logits))
    return windows


def loss() -> tuple[Tensor, float]:
    """Tokens, (B, n + 1), and the loss of their last `max_latents`, in nats a token."""
    found = _answers()
    return torch.from_numpy(found["loss.tokens"]).long(), float(found["loss.value"])


def continuations() -> Iterator[tuple[Tensor, int, Tensor]]:
    """Prompt, latents at first, and the prompt with the likeliest tokens after it."""
    found = _answers()
    for i in range(sum(name.endswith(".prompt") for name in found)):
        prompt, output = (
            torch.from_numpy(found[f"greedy{i}.{part}"]).long() for part in ("prompt", "output")
        )
        yield prompt, int(found[f"greedy{i}.num_latents"]), output
