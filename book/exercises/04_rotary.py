"""Exercises of chapter 4."""

import math

import torch

from tinyperceiver.model.rotary import apply_rotation, rotation_at
from tinyperceiver.teaching.rotary import (
    check_long_rotation,
    check_period,
    check_to_halves,
    check_turn_back,
    check_turn_pair,
)


# %% turn_pair: One arrow
# Write `turn_pair(x, y, angle)`, without tensors: `x` and `y` are numbers, the tip of an arrow
# that starts at (0, 0), and `angle` is in radians, positive for counter-clockwise. Return the
# new `x` and the new `y`, two numbers.
# %% stub
def turn_pair(x, y, angle):
    pass  # your code


# %% check
check_turn_pair(turn_pair)


# %% solution
def turn_pair(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    # Both sums need the old x and y: neither may be overwritten before both are done.
    return x * cos - y * sin, x * sin + y * cos


# %% mistake: overwritten
def turn_pair(x, y, angle):
    x = x * math.cos(angle) - y * math.sin(angle)
    y = x * math.sin(angle) + y * math.cos(angle)
    return x, y


# %% mistake: wrong way round
def turn_pair(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


# %% mistake: the angle is in radians
def turn_pair(x, y, angle):
    angle = math.radians(angle)
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos - y * sin, x * sin + y * cos


# %% mistake: points exactly backwards
def turn_pair(x, y, angle):
    length = math.hypot(x, y)
    start = math.atan(y / x) if x else math.copysign(math.pi / 2, y)
    return length * math.cos(start + angle), length * math.sin(start + angle)


# %% mistake: returns a complex
def turn_pair(x, y, angle):
    return complex(x, y) * complex(math.cos(angle), math.sin(angle))


# %% mistake: in the wrong order
def turn_pair(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return x * sin + y * cos, x * cos - y * sin


# %% mistake: x and y have changed places
def turn_pair(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return y * cos - x * sin, y * sin + x * cos


# %% period: How long is a turn?
# Write `period(pair, head_dim, base)`: in how many tokens does channel pair `pair` (0 for the
# first) of a head with `head_dim` channels turn once round? Return a number.
#
# Before you check it, guess: if the base were a million instead of ten thousand, which pairs'
# periods would grow most, those of the fast or of the slow? The verdict tells.
# %% stub
def period(pair, head_dim, base):
    pass  # your code


# %% check
check_period(period)


# %% solution
def period(pair, head_dim, base):
    speed = base ** (-2 * pair / head_dim)  # radians per token
    return 2 * math.pi / speed  # a whole turn is 2 pi radians


# %% mistake: That is the speed
def period(pair, head_dim, base):
    return base ** (-2 * pair / head_dim)


# %% mistake: one radian
def period(pair, head_dim, base):
    return base ** (2 * pair / head_dim)


# %% mistake: The exponent is half
def period(pair, head_dim, base):
    return 2 * math.pi * base ** (pair / head_dim)


# %% mistake: The base is not used
def period(pair, head_dim, base):
    return 2 * math.pi * 10_000 ** (2 * pair / head_dim)


# %% turn_back: Turn it back
# Somebody has turned queries with `apply_rotation(x, rotation_at(positions, d))` and thrown the
# original away. Write `turn_back(x, positions)`, which restores it: `x` are the turned queries,
# (B, H, n, d), and `positions` are the same integers as before, (B or 1, n). Return a tensor
# like `x`. Use the functions of this chapter.
# %% stub
def turn_back(x, positions):
    pass  # your code


# %% check
check_turn_back(turn_back)


# %% solution
def turn_back(x, positions):
    # Turning by −a undoes turning by a; the positions may as well be negative.
    return apply_rotation(x, rotation_at(-positions, x.size(-1)))


# %% mistake: turns forward
def turn_back(x, positions):
    return apply_rotation(x, rotation_at(positions, x.size(-1)))


# %% mistake: comes back with the wrong sign
def turn_back(x, positions):
    cos, sin = rotation_at(positions, x.size(-1))
    return apply_rotation(x, (-cos, sin))


# %% mistake: the wrong channels
def turn_back(x, positions):
    cos, sin = (part[:, None] for part in rotation_at(-positions, x.size(-1)))
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


# %% mistake: each row has
def turn_back(x, positions):
    return apply_rotation(x, rotation_at(-positions[:1], x.size(-1)))


# %% mistake: as if they stood at 0, 1, 2
def turn_back(x, positions):
    return apply_rotation(x, rotation_at(-torch.arange(x.size(2))[None], x.size(-1)))


# %% mistake: forward once more, and has the wrong sign
def turn_back(x, positions):
    return apply_rotation(-x, rotation_at(positions, x.size(-1)))


# %% to_halves: Move the weights to the other layout
# You want to run interleaved weights in a library that turns halves. `weight`, (D, D), makes the
# queries (or keys) of `num_heads` heads at once: `x @ weight.T`. Its rows are channels: the first
# d = D / `num_heads` rows are those of the first head, the next d those of the second, and so on;
# each head turns its own pairs. Write `to_halves(weight, num_heads)`, which returns the same rows
# in another order, so that the halves layout gives all scores that the interleaved one gave.
# %% stub
def to_halves(weight, num_heads):
    pass  # your code


# %% check
check_to_halves(to_halves)


# %% solution
def to_halves(weight, num_heads):
    heads = weight.unflatten(0, (num_heads, -1))  # (H, d, D)
    # Row i of the new order is channel 2i, its partner i + d/2 is channel 2i + 1.
    return torch.cat((heads[:, 0::2], heads[:, 1::2]), dim=1).flatten(0, 1)


# %% mistake: from head to head
def to_halves(weight, num_heads):
    return torch.cat((weight[0::2], weight[1::2]))


# %% mistake: the columns have moved
def to_halves(weight, num_heads):
    return torch.cat((weight[:, 0::2], weight[:, 1::2]), dim=1)


# %% mistake: the way back
def to_halves(weight, num_heads):
    first, second = weight.unflatten(0, (num_heads, -1)).chunk(2, dim=1)
    return torch.stack((first, second), dim=2).flatten(0, 2)


# %% mistake: heads have changed places
def to_halves(weight, num_heads):
    heads = weight.unflatten(0, (num_heads, -1)).flip(0)
    return torch.cat((heads[:, 0::2], heads[:, 1::2]), dim=1).flatten(0, 1)


# %% mistake: the odd channels stand first
def to_halves(weight, num_heads):
    heads = weight.unflatten(0, (num_heads, -1))
    return torch.cat((heads[:, 1::2], heads[:, 0::2]), dim=1).flatten(0, 1)


# %% mistake: The scores agree
def to_halves(weight, num_heads):
    heads = weight.unflatten(0, (num_heads, -1))
    return torch.cat((-heads[:, 1::2], heads[:, 0::2]), dim=1).flatten(0, 1)


# %% mistake: the same rows
def to_halves(weight, num_heads):
    return weight.T.contiguous()


# %% long_rotation: Longer than it has learnt
# *Open.* A model has been trained on windows of `trained` tokens with `rotation_at`, and you want
# it to read `n`, up to eight times as many. Over the longer window the slow pairs reach angles
# that it has never met. Write `long_rotation(n, head_dim, trained)`: cosines and sines for
# positions 0 to n − 1, each (1, n, head_dim / 2), such that
#
# - distance alone counts: cosines and sines are off by less than 0.001;
# - position 0 does not turn, and each pair turns more slowly than the one before;
# - a window of up to `trained` tokens is turned as it always was;
# - in a longer one, a pair that made less than one turn in `trained` tokens goes no farther in `n`
#   than it went in `trained`, and at least a tenth as far;
# - the fastest pair still turns by 0.1 radians a token or more.
#
# There are several ways. Which one a trained model likes best is a question for measurements.
# %% stub
def long_rotation(n, head_dim, trained):
    pass  # your code


# %% check
check_long_rotation(long_rotation)


# %% solution
def long_rotation(n, head_dim, trained):
    # Squeeze the positions into the range that the model knows: all pairs turn more
    # slowly. With a larger base instead, the fast pairs nearly keep their speed; that
    # is another right answer, if it slows all slow pairs enough and stops none.
    squeeze = min(1, trained / n)  # a third, say: float64 keeps more of its digits
    return rotation_at(torch.arange(n)[None].double() * squeeze, head_dim)


# %% mistake: never met such an angle
def long_rotation(n, head_dim, trained):
    return rotation_at(torch.arange(n)[None], head_dim)


# %% mistake: turned alike
def long_rotation(n, head_dim, trained):
    return rotation_at(torch.arange(n)[None].clamp(max=trained - 1), head_dim)


# %% mistake: as token 0 is
def long_rotation(n, head_dim, trained):
    return rotation_at(torch.arange(n)[None] % trained, head_dim)


# %% mistake: short windows should stay
def long_rotation(n, head_dim, trained):
    return rotation_at(torch.arange(n)[None], head_dim, base=10_000_000.0)


# %% mistake: hardly be told apart
def long_rotation(n, head_dim, trained):
    squeeze = 1 if n <= trained else 0.01
    return rotation_at(torch.arange(n)[None].double() * squeeze, head_dim)


# %% mistake: distance alone no longer counts
def long_rotation(n, head_dim, trained):
    positions = torch.arange(n)[None].double()
    squeezed = trained * torch.tanh(positions / trained)
    return rotation_at(positions if n <= trained else squeezed, head_dim)


# %% mistake: 200 tokens fit
def long_rotation(n, head_dim, trained):
    return rotation_at(torch.arange(n)[None].double() * trained / n, head_dim)


# %% mistake: a tenth of that is the least
def long_rotation(n, head_dim, trained):
    base = 10_000.0 if n <= trained else 1e9
    return rotation_at(torch.arange(n)[None], head_dim, base=base)


# %% mistake: turns clockwise
def long_rotation(n, head_dim, trained):
    squeeze = 1 if n <= trained else -trained / n
    return rotation_at(torch.arange(n)[None].double() * squeeze, head_dim)


# %% mistake: position 0 has turned already
def long_rotation(n, head_dim, trained):
    start, squeeze = (0, 1) if n <= trained else (5, trained / (n + 5))
    return rotation_at((start + torch.arange(n)[None]).double() * squeeze, head_dim)


# %% mistake: more slowly than the one before
def long_rotation(n, head_dim, trained):
    speed = 10_000 ** (-torch.arange(0, head_dim, 2).double() / head_dim)
    if n > trained:
        fast = speed * trained >= 2 * math.pi
        speed = torch.where(fast, 1.0, speed * trained / n)
    angle = torch.arange(n)[None, :, None] * speed
    return angle.cos().float(), angle.sin().float()


# %% mistake: distance alone no longer counts
def long_rotation(n, head_dim, trained):
    cos, sin = rotation_at(
        torch.arange(n)[None].double() * min(1, trained / n), head_dim
    )
    if n > trained:  # the last pair turns unevenly, and never by much
        place = torch.arange(n) / (n - 1)
        angle = place**2 * 10_000 ** (2 / head_dim - 1) * trained
        cos[0, :, -1], sin[0, :, -1] = angle.cos(), angle.sin()
    return cos, sin
