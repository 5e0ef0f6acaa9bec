"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864).

Axis letters, here and in every file: B batch, n tokens in the window, m prefix, l
latents, H heads, d channels per head, D = H * d channels, V vocabulary; n = m + l.
"""

import torch
from torch import Tensor

__all__ = ["BASE", "Rotation", "apply_rotation", "rotation_at"]

BASE = 10_000.0  # of the speeds of rotation, as the released model has it
Rotation = tuple[Tensor, Tensor]  # cosines and sines, each (B or 1, n, d / 2)


def rotation_at(positions: Tensor, head_dim: int, *, base: float = BASE) -> Rotation:
    """Return cosines and sines of the angles by which `positions` rotate channel pairs.

    Pair i is rotated by position * base ** (-2 i / head_dim): the first pair by one
    radian for each token, and every further pair more slowly.

    Args:
        positions: integer positions in tokens, (B or 1, n).
        head_dim: channels of one head, d; even.
        base: a larger base makes the slowest rotation slower.

    Returns:
        (cos, sin), float32, each (B or 1, n, d / 2).
    """
    pair = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    speed = base ** (-pair / head_dim)  # (d / 2), radians per token
    # The released model holds its speeds in float32. The product needs more digits,
    # since positions grow while music is generated: in float32 it is off by up to 0.03
    # rad at a million.
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    angle = positions.to(wide)[..., None] * speed.to(wide)  # (B, n, d / 2)
    return angle.cos().float(), angle.sin().float()


def apply_rotation(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the channel pairs (0, 1), (2, 3), ... of queries or keys.

    Args:
        x: queries or keys, (B, H, n, d).
        rotation: result of `rotation_at` for the same n positions.

    Returns:
        The rotated `x`, of the same shape and dtype.
    """
    cos, sin = (part[:, None] for part in rotation)  # (B, 1, n, d / 2)
    even, odd = x[..., 0::2], x[..., 1::2]  # (B, H, n, d / 2)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).type_as(x)  # (B, H, n, d)
