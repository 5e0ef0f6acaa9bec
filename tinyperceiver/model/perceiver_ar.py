"""Perceiver AR for tokens (Hawthorne et al. 2022, https://arxiv.org/abs/2202.07765).

Axis letters: B batch, n tokens in the window, m prefix, l latents, H heads, d channels
per head, D = H * d channels, V vocabulary; n = m + l.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinyperceiver.model.attention import CausalSelfAttention, HybridAttention, KVCache
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.rotary import rotation_at
from tinyperceiver.model.user_methods import UserMethods

__all__ = ["DecoderCache", "DecoderLayer", "PerceiverAR"]


class MLP(nn.Sequential):
    """A norm, then two products with more channels between: (B, l, D) -> (B, l, D)."""

    def __init__(self, num_channels: int, widening_factor: int) -> None:
        super().__init__()
        # nn.Sequential applies them in this order.
        self.norm = nn.LayerNorm(num_channels)
        self.up = nn.Linear(num_channels, widening_factor * num_channels, bias=False)
        self.gelu = nn.GELU()
        self.down = nn.Linear(widening_factor * num_channels, num_channels, bias=False)


class DecoderLayer(nn.Module):
    """An attention layer, hybrid or not, and an MLP; each adds its output to its input.

    Args:
        attention: an attention layer.
        mlp: an `MLP`.
        dropout: probability of dropping a value that a layer adds, in training.
    """

    def __init__(
        self, attention: nn.Module, mlp: nn.Module, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply both layers: `x`, (B, l, D) -> (B, l, D).

        `args` and `kwargs` go to the attention layer.
        """
        x = x + self.dropout(self.attention(x, *args, **kwargs))
        return x + self.dropout(self.mlp(x))


@dataclass
class DecoderCache:
    """Keys and values that decoding keeps, see `PerceiverAR.make_cache`."""

    hybrid: KVCache
    layers: list[KVCache]
    next_position: Tensor | int = 0  # (B or 1, 1), in tokens, pads not counted


class PerceiverAR(UserMethods, nn.Module):
    """A decoder whose first layer reads n tokens, its other layers only the last l."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = config
        D, H = config.num_channels, config.num_heads
        dropout = config.post_attention_dropout
        self.embedding = nn.Embedding(config.vocab_size, D)
        self.hybrid_layer = DecoderLayer(
            HybridAttention(D, H, dropout=dropout),
            MLP(D, config.cross_attention_widening_factor),
            dropout=config.residual_dropout,
        )
        self.layers = nn.ModuleList(
            DecoderLayer(
                CausalSelfAttention(D, H, dropout=dropout),
                MLP(D, config.self_attention_widening_factor),
                dropout=config.residual_dropout,
            )
            for _ in range(config.num_self_attention_layers)
        )
        self.norm = nn.LayerNorm(D)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.init_scale)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def num_parameters(self) -> int:
        """Number of trained values; the output layer reuses the embedding."""
        return sum(parameter.numel() for parameter in self.parameters())

    def make_cache(self, max_len: int | None = None) -> DecoderCache:
        """Return an empty cache for one run of decoding, of at most `max_len` tokens.

        The hybrid layer's ring holds a window, and the rings of the other layers hold
        its latents. A shorter run takes only the memory for its own tokens.
        """
        config = self.config
        longest = max_len or config.max_seq_len
        return DecoderCache(
            KVCache(min(config.max_seq_len, longest)),
            [KVCache(min(config.max_latents, longest)) for _ in self.layers],
        )

    def forward(
        self,
        tokens: Tensor,
        prefix_len: int,
        pad_mask: Tensor | None = None,
        *,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Compute the logits of the token after each latent.

        Args:
            tokens: token ids, (B, n), any integer dtype.
            prefix_len: m; the last l = n - m tokens are the latents.
            pad_mask: True at padding, (B, n). Padding must be on the left and in the
                prefix, because only the hybrid layer can ignore it.
            cache: from `make_cache`, to decode token by token. The first call reads the
                whole prompt, every other call one token with prefix_len 0. The logits
                are those of the window so far.

        Returns:
            (B, l, V).

        Raises:
            ValueError: prefix_len, the number of latents or the window is out of range.
        """
        self.check_window(tokens, prefix_len)
        # Position of the first token: minus the number of pads, so that the first real
        # token stands at 0; with a cache, after the tokens of earlier calls.
        first = 0 if pad_mask is None else -pad_mask.sum(dim=1, keepdim=True)  # (B, 1)
        first = first + (cache.next_position if cache else 0)
        place = torch.arange(tokens.size(1), device=tokens.device)  # (n)
        position = first + place[None]  # (B or 1, n)
        head_dim = self.config.num_channels // self.config.num_heads
        # Pads, negative so far, stand at 0.
        rotation = rotation_at(position.clamp(min=0), head_dim)
        latent_rotation = tuple(part[:, prefix_len:] for part in rotation)

        # Tokens may be stored as int16, by which a table can't be read.
        x = self.embedding(tokens.long())  # (B, n, D)
        share = self.config.cross_attention_dropout if self.training else 0.0
        dropped = int(prefix_len * share)
        if dropped:
            kept = _choose_kept(x, prefix_len, dropped)  # (B, 1), (B, n - dropped)
            x = x[kept]
            # Rows may share one rotation, (1, n, d / 2): repeat it, then choose.
            rotation = tuple(part.expand(len(x), -1, -1)[kept] for part in rotation)
            pad_mask = None if pad_mask is None else pad_mask[kept]
            prefix_len -= dropped
        prefix, x = x[:, :prefix_len], x[:, prefix_len:]  # (B, m, D), (B, l, D)
        x = self.hybrid_layer(
            x,
            prefix,
            rotation=rotation,
            pad_mask=pad_mask,
            cache=cache and cache.hybrid,  # None without a cache
        )
        for i, layer in enumerate(self.layers):
            is_rotary = i < self.config.num_rotary_layers
            layer_rotation = latent_rotation if is_rotary else None
            x = layer(x, rotation=layer_rotation, cache=cache and cache.layers[i])
        if cache:
            cache.next_position = first + tokens.size(1)
        return self.norm(x) @ self.embedding.weight.T  # (B, l, V)

    def check_window(self, tokens: Tensor, prefix_len: int) -> None:
        """Refuse `tokens`, (B, n), and a `prefix_len` that do not fit the window.

        Raises:
            ValueError: prefix_len, the number of latents or the window is out of range,
                or tokens are no integers.
        """
        config, n = self.config, tokens.size(1)
        if tokens.is_floating_point():
            raise ValueError(f"tokens must be integers, not {tokens.dtype}")
        if not 0 <= prefix_len < n:
            raise ValueError(
                f"prefix_len must be in 0..{n - 1} for {n} tokens, not {prefix_len}"
            )
        if n - prefix_len > config.max_latents or prefix_len > config.max_prefix_len:
            raise ValueError(
                f"{n} tokens with prefix_len {prefix_len} leave {n - prefix_len} "
                f"latents; this model takes at most {config.max_prefix_len} prefix "
                f"tokens and {config.max_latents} latents"
            )


def _choose_kept(x: Tensor, prefix_len: int, dropped: int) -> tuple[Tensor, Tensor]:
    """Choose what a training step reads: some of the prefix, all latents."""
    B, n, _ = x.shape
    order = torch.rand(B, prefix_len, device=x.device).argsort(dim=1)
    kept = order[:, dropped:].sort(dim=1).values
    latents = torch.arange(prefix_len, n, device=x.device).expand(B, -1)
    return torch.arange(B, device=x.device)[:, None], torch.cat((kept, latents), dim=1)
