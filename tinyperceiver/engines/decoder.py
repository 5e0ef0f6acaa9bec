"""What the engines have in common: what a decoder is asked, and what it refuses.

Axis letters: B batch, n tokens in the window, V vocabulary.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from tinyperceiver.model.perceiver_ar import PerceiverAR

__all__ = ["Decoder"]


class Decoder(ABC):
    """A model made ready to continue B prompts, token by token.

    `read` takes in prompts, `step` one more token of each; both give the logits of what
    comes next. Keys and values are held as in `KVCache`: the hybrid layer has those of
    the last `max_seq_len` tokens, the others have those of the last `max_latents`, and
    none is computed again. Dropout is never applied.

    Args:
        model: it stays as it is.
        batch_size: B.
        max_len: most tokens of a row, prompt included; no more room than that is taken.
            Without it the window slides, for ever.
    """

    def __init__(
        self, model: PerceiverAR, *, batch_size: int = 1, max_len: int | None = None
    ) -> None:
        self.model, self.batch_size, self.max_len = model, batch_size, max_len
        longest = model.config.max_seq_len if max_len is None else max_len
        # Of the hybrid layer's ring, and of all others.
        self.capacity = min(model.config.max_seq_len, longest)
        self.latent_capacity = min(model.config.max_latents, longest)
        self.room: float = 0  # for so many steps; none before a prompt

    @torch.inference_mode()
    def read(
        self, tokens: Tensor, prefix_len: int, pad_mask: Tensor | None = None
    ) -> Tensor:
        """Take in prompts, and forget all before: the arguments of the model's forward.

        tokens (B, n), pad_mask (B, n) -> logits of the next token, (B, V), float32.

        Raises:
            ValueError: as by the model; or B or n is not what this was made for.
        """
        self.model.check_window(tokens, prefix_len)
        B, n = tokens.shape
        if self.batch_size != B:
            raise ValueError(f"this decoder is for {self.batch_size} rows, not {B}")
        if self.max_len is not None and n > self.max_len:
            raise ValueError(f"{n} tokens do not fit: max_len is {self.max_len}")
        self.room = 0  # until all is read
        logits = self._read(tokens, prefix_len, pad_mask)
        self.room = math.inf if self.max_len is None else self.max_len - n
        return logits

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """One more token of each row, (B,) -> logits of the next, (B, V), float32.

        Raises:
            ValueError: no prompt was read, or `max_len` tokens were.
        """
        if self.room < 1:
            most = "" if self.max_len is None else f", of less than {self.max_len}"
            raise ValueError(f"no room for a token: read a prompt first{most}")
        logits = self._step(tokens)
        self.room -= 1
        return logits

    @abstractmethod
    def _read(
        self, tokens: Tensor, prefix_len: int, pad_mask: Tensor | None
    ) -> Tensor: ...

    @abstractmethod
    def _step(self, tokens: Tensor) -> Tensor: ...
