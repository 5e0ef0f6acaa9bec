"""Multi-head attention, its cache, and the two attention layers of Perceiver AR.

Perceiver AR: Hawthorne et al. 2022, section 3, https://arxiv.org/abs/2202.07765. Axis
letters: B batch, n tokens in the window, m prefix, l latents, H heads, d channels per
head, D = H * d channels; n = m + l.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tinyperceiver.model.blockwise_attention import attend_blockwise
from tinyperceiver.model.rotary import Rotation, apply_rotation

__all__ = [
    "CausalSelfAttention",
    "HybridAttention",
    "KVCache",
    "MultiHeadAttention",
    "attend",
    "attention_formula",
    "causal_mask",
]


def causal_mask(
    l: int,
    n: int,
    pad_mask: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the mask of the last l of n positions, as queries.

    It is True where query i may see key j <= i + n - l. Its shape is (l, n), or (B, 1,
    l, n) with a `pad_mask`, (B, n), which is True at keys that no query may see.
    """
    key = torch.arange(n, device=device)
    query = key[n - l :, None]
    if pad_mask is None:
        return key <= query
    # Each query keeps itself: a row without any key would give NaN.
    return ((key <= query) & ~pad_mask[:, None, None, :]) | (key == query)


def attention_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Compute softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, equation 1)."""
    scores = (query * query.size(-1) ** -0.5) @ key.transpose(-2, -1)  # (B, H, l, n)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = nn.functional.dropout(scores.softmax(-1), dropout)
    return weights.to(value.dtype) @ value  # (B, H, l, d)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pad_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Compute causal attention of the last l of n positions in the fastest way.

    query (B, H, l, d), key and value (B, H, n, d), pad_mask (B, n) -> (B, H, l, d).
    """
    l, n = query.size(-2), key.size(-2)
    is_compiling = torch.compiler.is_compiling()
    is_cpu = query.device.type == "cpu"
    if is_cpu and query.requires_grad and not dropout and not is_compiling:
        return attend_blockwise(query, key, value, pad_mask)
    # In bfloat16 PyTorch's CPU kernel is slower than the formula for few queries, 2 to
    # 12 times for one. From 1,024 on it is faster, and builds no matrix of scores.
    by_formula = is_cpu and query.dtype == torch.bfloat16 and l < 1024
    mask, is_causal = None, False
    if pad_mask is None and l == 1:
        pass  # the last position sees all keys, in whatever order a ring holds them
    elif pad_mask is None and l == n and not by_formula:
        is_causal = True
    elif pad_mask is None and query.is_cuda and not is_compiling:
        # Imported here: it takes as long as to import torch. Flash attention never
        # builds this mask.
        from torch.nn.attention.bias import causal_lower_right

        mask = causal_lower_right(l, n)
    else:
        mask = causal_mask(l, n, pad_mask, query.device)
    if by_formula:
        return attention_formula(query, key, value, mask, dropout)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
    )


class KVCache:
    """The keys and values of the last `capacity` positions, in a ring allocated once.

    When the ring is full, the newest position overwrites the oldest. Nothing is moved,
    so a step takes the same time from then on. The positions are then no longer in
    order. A single query gives the same result in any order, because its softmax is a
    sum over all of them. Use the cache without gradients.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.seen = 0  # positions ever appended
        self.key = self.value = self.pad_mask = None

    def append(
        self, key: Tensor, value: Tensor, pad_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Add new positions and return all that are held: key, value, pad_mask or None.

        key and value (B, H, new, d), pad_mask (B, new) -> views (B, H, held, d) and (B,
        held). The first call may add many positions and padding. Every other call adds
        one position.

        Raises:
            ValueError: more positions than the ring holds, or several after the first
                call.
        """
        B, H, new, d = key.shape
        if new > self.capacity or (self.seen and new > 1):
            raise ValueError(
                f"{new} positions cannot be appended after {self.seen} to a ring of "
                f"{self.capacity}: fill it once, then append one at a time"
            )
        if self.key is None:
            self.key = key.new_empty(B, H, self.capacity, d)
            self.value = value.new_empty(B, H, self.capacity, d)
            if pad_mask is not None:
                self.pad_mask = pad_mask.new_zeros(B, self.capacity)
        start = self.seen % self.capacity
        self.key[:, :, start : start + new] = key
        self.value[:, :, start : start + new] = value
        self.seen += new
        held = min(self.seen, self.capacity)
        if self.pad_mask is None:
            return self.key[:, :, :held], self.value[:, :, :held], None
        self.pad_mask[:, start : start + new] = False if pad_mask is None else pad_mask
        return self.key[:, :, :held], self.value[:, :, :held], self.pad_mask[:, :held]


class MultiHeadAttention(nn.Module):
    """Causal multi-head attention (Vaswani et al. 2017, section 3.2.2).

    Args:
        num_channels: D, a multiple of `num_heads`.
        num_heads: H; d = D / H is even when a rotation is used.
        dropout: probability of dropping an attention weight in training.
        output_bias: whether the output projection has a bias; the others never have
            one.
    """

    def __init__(
        self,
        num_channels: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        output_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(num_channels, num_channels, bias=False)
        self.key = nn.Linear(num_channels, num_channels, bias=False)
        self.value = nn.Linear(num_channels, num_channels, bias=False)
        self.output = nn.Linear(num_channels, num_channels, bias=output_bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        *,
        rotation: Rotation | None = None,
        pad_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Let the last l positions attend to all n: (B, l, D) -> (B, l, D).

        Args:
            x: input of the queries, (B, l, D).
            context: input of keys and values, (B, n, D), the latents last.
            rotation: of the n positions; with None nothing is rotated.
            pad_mask: True where `context` is padding, (B, n).
            cache: of earlier positions, to which those of `context` are added.

        Returns:
            (B, l, D).
        """
        B, l, D = x.shape
        q = self._split_heads(self.query(x))  # (B, H, l, d)
        k = self._split_heads(self.key(context))  # (B, H, n, d)
        v = self._split_heads(self.value(context))  # (B, H, n, d)
        if rotation is not None:
            cos, sin = rotation
            q = apply_rotation(q, (cos[:, -l:], sin[:, -l:]))
            k = apply_rotation(k, rotation)
        if cache is not None:
            k, v, pad_mask = cache.append(k, v, pad_mask)
        dropout = self.dropout if self.training else 0.0
        heads = attend(q, k, v, pad_mask=pad_mask, dropout=dropout)  # (B, H, l, d)
        return self.output(heads.transpose(1, 2).reshape(B, l, D))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, n, d)


class CausalSelfAttention(nn.Module):
    """Pre-norm causal self-attention; arguments as in `MultiHeadAttention`."""

    def __init__(
        self, num_channels: int, num_heads: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)
        self.attention = MultiHeadAttention(num_channels, num_heads, dropout=dropout)

    def forward(
        self,
        x: Tensor,
        *,
        rotation: Rotation | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Attend among the latents `x`, (B, l, D) -> (B, l, D)."""
        x = self.norm(x)
        return self.attention(x, x, rotation=rotation, cache=cache)


class HybridAttention(nn.Module):
    """Cross-attention to the prefix and causal self-attention, in one softmax.

    Every latent sees the whole prefix, and the latents up to and including itself.
    Prefix and latents have a norm each. The arguments are those of
    `MultiHeadAttention`.
    """

    def __init__(
        self, num_channels: int, num_heads: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_channels)
        self.prefix_norm = nn.LayerNorm(num_channels)
        self.attention = MultiHeadAttention(
            num_channels, num_heads, dropout=dropout, output_bias=True
        )

    def forward(
        self,
        x: Tensor,
        prefix: Tensor,
        *,
        rotation: Rotation | None = None,
        pad_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Attend from the latents to the prefix and to the latents.

        Args:
            x: the latents, (B, l, D).
            prefix: (B, m, D).
            rotation, pad_mask, cache: of all m + l positions, as in
                `MultiHeadAttention.forward`.

        Returns:
            (B, l, D).
        """
        x = self.norm(x)
        context = torch.cat((self.prefix_norm(prefix), x), dim=1)  # (B, n, D)
        return self.attention(
            x, context, rotation=rotation, pad_mask=pad_mask, cache=cache
        )
