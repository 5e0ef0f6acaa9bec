"""Causal attention for training on CPUs: queries in blocks, each with the keys it sees.

Half of a causal matrix of scores is thrown away. To save this work we take the queries
in blocks, and multiply each block only with the keys up to its end. The backward pass
adds up the gradients of keys and values in place. The idea is that of Rabe and Staats
2021, https://arxiv.org/abs/2112.05682, without their second loop over the keys.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["attend_blockwise"]

BLOCK = 128  # queries


def attend_blockwise(
    query: Tensor, key: Tensor, value: Tensor, pad_mask: Tensor | None = None
) -> Tensor:
    """Compute `attention.attend` without dropout and with a faster backward pass.

    query (B, H, l, d), key and value (B, H, n, d), pad_mask (B, n) -> (B, H, l, d).
    """
    return _BlockwiseAttention.apply(query, key, value, pad_mask)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, pad_mask):
        B, H, l, d = query.shape
        n = key.size(2)
        # Heads as rows of the batch: one product for all.
        q = (query * d**-0.5).reshape(B * H, l, d)
        k, v = key.reshape(B * H, n, d), value.reshape(B * H, n, d)
        heads, weights = torch.empty_like(q), []
        for start in range(0, l, BLOCK):
            end = min(start + BLOCK, l)
            seen = n - l + end  # keys that the last query of the block sees
            bias = _bias(q, end - start, seen, pad_mask, H)
            scores = torch.baddbmm(bias, q[:, start:end], k[:, :seen].mT)
            weights.append(scores.softmax(-1))  # (B * H, block, seen)
            heads[:, start:end] = weights[-1] @ v[:, :seen]
        ctx.save_for_backward(q, k, v, *weights)
        return heads.view(B, H, l, d)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, *weights = ctx.saved_tensors
        B, H, l, d = grad.shape
        n = k.size(1)
        grad = grad.reshape(B * H, l, d)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        for start, w in zip(range(0, l, BLOCK), weights, strict=True):
            block, seen = slice(start, start + w.size(1)), w.size(2)
            grad_v[:, :seen].baddbmm_(w.mT, grad[:, block])
            grad_w = grad[:, block] @ v[:, :seen].mT
            # Of the softmax: w * (grad_w - (w * grad_w).sum(-1, keepdim=True)).
            grad_scores = torch._softmax_backward_data(grad_w, w, -1, w.dtype)
            grad_q[:, block] = grad_scores @ k[:, :seen]
            grad_k[:, :seen].baddbmm_(grad_scores.mT, q[:, block])
        return (
            (grad_q * d**-0.5).view(B, H, l, d),
            grad_k.view(B, H, n, d),
            grad_v.view(B, H, n, d),
            None,
        )


def _bias(
    q: Tensor, block: int, seen: int, pad_mask: Tensor | None, num_heads: int
) -> Tensor:
    """Return 0 where a query may look, -inf elsewhere: (1 or B * H, block, seen)."""
    hidden = torch.ones(block, seen, dtype=torch.bool, device=q.device)
    hidden = hidden.triu(seen - block + 1)  # (block, seen)
    if pad_mask is not None:
        own = torch.eye(block, dtype=torch.bool, device=q.device)
        own = torch.nn.functional.pad(own, (seen - block, 0))
        # Each query keeps itself: a row without any key would give NaN.
        hidden = hidden | (pad_mask[:, None, :seen] & ~own)  # (B, block, seen)
        hidden = hidden.repeat_interleave(num_heads, dim=0)
    bias = q.new_zeros(hidden.shape)
    return bias.masked_fill_(hidden, float("-inf"))
