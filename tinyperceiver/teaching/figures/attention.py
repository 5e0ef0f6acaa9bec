"""Chapter 5: weights, masks, heads, what attention costs, and the ring."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tinyperceiver.teaching.drawing import (
    LOOKS,
    Look,
    arrow,
    bare,
    box,
    canvas,
    curves,
    marks,
    panels,
    ticks,
)
from tinyperceiver.teaching.music import pitch_name
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, PINK, shades

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_expectations(notes: Tensor, heads: dict[str, Tensor]) -> "Figure":
    """What was played, and what a head expected there: a panel for each head.

    notes (n,); heads: title -> expected pitches, (n - 1,), of notes 1, 2, ...
    """
    size = len(heads)
    fig, axes = panels(1.75 * size, size, 1, sharex=True, sharey=True)
    place = torch.arange(len(notes))
    for ax, (title, expected) in zip(axes, heads.items(), strict=True):
        right = expected == notes[1:]
        ax.plot(place, notes, "_", ls="none", color=GREY, ms=6, mew=1.2)
        ax.plot(place[1:][right], expected[right], "o", ls="none", color=BLUE, ms=4)
        wrong = place[1:][~right], expected[~right]
        ax.plot(*wrong, "x", ls="none", color=PINK, ms=4.7, mew=1.2)
        ax.set_title(f"{title}: {right.sum()} of {len(right)} right", loc="left")
        for bar in range(0, len(notes), 16):
            ax.axvline(bar - 0.5, color=INK, alpha=0.6, lw=0.8)
            ax.axvline(bar + 7.5, color=INK, alpha=0.35, lw=0.8, ls=":")
        ax.set(yticks=[60, 72], yticklabels=["C4", "C5"], xlim=(-0.6, len(notes) - 0.4))
        ax.set(xticks=range(0, len(notes), 8))
    axes[-1].set_xlabel("note")
    return fig


def draw_weights(heads: dict[str, Tensor], notes: Tensor) -> "Figure":
    """Attention weights, (n, n) each, side by side: a row for each query."""
    fig, axes = panels(3.5, 1, len(heads), sharey=True)
    size = len(notes)
    for ax, (title, weights) in zip(axes, heads.items(), strict=True):
        ax.imshow(weights[:size, :size], cmap=shades(BLUE), vmin=0, vmax=1)
        ax.plot([-0.5, size - 0.5], [-0.5, size - 0.5], color=INK, lw=0.7, ls=":")
        every = range(0, size, 8)
        ax.set(xticks=every, yticks=every, title=title, xlabel="key $j$")
        for bar in range(16, size, 16):
            ax.axhline(bar - 0.5, color=INK, alpha=0.3, lw=0.6)
            ax.axvline(bar - 0.5, color=INK, alpha=0.3, lw=0.6)
    axes[0].set_ylabel("query $i$, the last note played")
    return fig


def draw_saturation(raw: Tensor, scaled: Tensor, entropies: dict[int, list[float]]) -> "Figure":
    """Two softmaxes of the same scores, and how flat they are by number of channels.

    raw, scaled (n,): weights of one query; entropies: by d, raw and scaled.
    """
    fig, (left, right) = panels(2.6, 1, 2)
    largest = (weights.sort(descending=True).values[:16] for weights in (scaled, raw))
    names = "divided by √d", "not divided"
    curves(left, range(1, 17), dict(zip(names, largest, strict=True)))
    for place, look in ((1, LOOKS[0]), (0, LOOKS[1])):
        row = [pair[place] for pair in entropies.values()]
        style = {"color": look.color, "marker": look.marker, "ls": look.dash}
        right.plot(list(entropies), row, ms=4, **style)
    left.set(xlabel="key, by weight", ylabel="weight", title="one query, $d$ = 96")
    left.set(xticks=[1, 4, 8, 12, 16], ylim=(0, 1.02))
    right.axhline(math.log(len(raw)), color=GREY, lw=1, ls=":")
    right.text(4, math.log(len(raw)) + 0.08, "all 64 alike", va="bottom", fontsize=9)
    right.set(xscale="log", xlabel="channels $d$", title="spread of the weights")
    right.set(ylabel="entropy (nats)", ylim=(0, 4.9))
    ticks(right.xaxis, entropies)
    return fig


def draw_masks(masks: dict[str, Tensor]) -> "Figure":
    """Masks, (l, n) each, side by side: a square where query i may look at key j.

    The last row of each is framed: it is the query of the newest position.
    """
    fig, axes = panels(2.7, 1, len(masks))
    tallest = max(mask.size(0) for mask in masks.values())
    for ax, (title, mask) in zip(axes, masks.items(), strict=True):
        l, n = mask.shape
        marks(ax, mask, 0, 10)
        box(ax, (-0.5, l - 1.5), (n, 1))
        ax.set(xlim=(-0.7, n - 0.3), ylim=(tallest - 0.3, -0.7), aspect="equal")
        ticks(ax.xaxis, range(n))
        ticks(ax.yaxis, range(l), [str(i + n - l) for i in range(l)])
        ax.set(title=title, xlabel="key at position")
        bare(ax)
    axes[0].set_ylabel("query at position")
    return fig


def draw_heads(n: int = 6, d: int = 4) -> "Figure":
    """(B, n, D) cut into three heads, each attended to, and put together again."""
    fig, ax = canvas(2.9, (-0.1, 9.95), (-0.25, 3.6))
    colors, cell, row = (BLUE, GREEN, PINK), 0.16, 0.14  # the size of a number
    wide, middle = 3 * d * cell, 2.05

    def sheet(x: float, y: float, color: str, cells=None, **look) -> None:
        """A square for each number, from x on, around y; by default n rows of d."""
        i, j = np.indices((n, d)).reshape(2, -1) if cells is None else cells
        places = x + (j + 0.5) * cell, y + (n / 2 - i - 0.5) * row
        ax.plot(*places, "s", ls="none", color=color, ms=6.3, **look)

    for h, color in enumerate(colors):
        y = 2.85 - 1.22 * h
        for x, height in ((h * d * cell, middle), (3.1, y), (6.55, y)):
            sheet(x, height, color, alpha=0.75, mew=0)
        sheet(7.9 + h * d * cell, middle, color, alpha=0.75, mew=0)
        sheet(4.6, y, color, np.tril_indices(n), mfc="none", mew=0.9)
        ax.text(2.98, y, f"head {h}", ha="right", va="center", fontsize=9)
        for x, to_x in ((3.18 + d * cell, 4.52), (4.68 + n * cell, 6.47)):
            arrow(ax, (x, y), (to_x, y), lw=1)
    for x, to_x in ((wide + 0.08, 2.3), (6.65 + d * cell, 7.8)):
        arrow(ax, (x, middle), (to_x, middle), lw=1)
    for x, y, text in (
        (wide / 2, 2.65, "$Q$, $K$, $V$: $(B, n, D)$"),
        (wide / 2, 1.2, "one row a position,\n$H$ times $d$ channels"),
        (7.9 + wide / 2, 2.65, "$(B, n, D)$"),
        (7.9 + wide / 2, 1.1, "side by side again,\nthen mixed by the\noutput map"),
        (3.1 + d * cell / 2, 3.45, "$(B, H, n, d)$"),
        (4.6 + n * cell / 2, 3.45, "its own weights"),
        (6.55 + d * cell / 2, 3.45, "$(B, H, n, d)$"),
    ):
        ax.text(x, y, text, ha="center", va="center")
    return fig


def draw_answers(notes: Tensor, heads: dict[str, Tensor]) -> "Figure":
    """The weights of one query over the notes: a panel for each head, (n,) each."""
    size = len(notes)
    fig, axes = panels(1.25 * len(heads) + 0.3, len(heads), 1, sharex=True)
    for ax, (title, weights) in zip(axes, heads.items(), strict=True):
        ax.bar(range(size), weights, width=0.7, color=BLUE)
        for j in range(size):
            if weights[j] > 0.04:
                ax.text(j, weights[j] + 0.04, f"{weights[j]:.2f}", ha="center", size=9)
        ax.set(ylim=(0, 1.3), yticks=[0, 1], xlim=(-0.6, size - 0.4))
        ax.set_title(title, loc="left")
    names = [f"{pitch_name(pitch)}\n{j}" for j, pitch in enumerate(notes)]
    axes[-1].set_xticks(range(size), names)
    axes[-1].set_xlabel("key: a note and its place")
    return fig


def draw_cost(lengths: list[int], times: dict[str, list[float]]) -> "Figure":
    """Seconds against tokens, both logarithmic, with the slope of n squared.

    times: label -> seconds for each of `lengths`.
    """
    fig, ax = panels(3.0)
    rows = {label: 1000 * np.array(seconds) for label, seconds in times.items()}
    last = 2 * max(row[-1] for row in rows.values())
    square = last * (np.array(lengths) / lengths[-1]) ** 2
    ax.plot(lengths, square, color=GREY, ls=":", lw=1.2, label="slope of $n^2$")
    curves(ax, lengths, rows)
    ax.set(xscale="log", yscale="log", xlabel="tokens $n$", ylabel="milliseconds")
    ticks(ax.xaxis, lengths)
    return fig


def draw_ring(capacity: int, steps: list[int]) -> "Figure":
    """What each slot of a ring holds after so many positions: a row for each step."""
    size = 0.42 * len(steps) + 0.7
    fig, ax = canvas(size, (-3.2, capacity + 2.8), (len(steps), -0.7))
    for row, seen in enumerate(steps):
        for slot in range(capacity):
            held = range(slot, seen, capacity)
            newest = bool(held) and held[-1] == seen - 1
            text = str(held[-1]) if held else "–"
            look = {"look": Look(BLUE), "fill": 0.6} if newest else {"look": Look(GREY)}
            box(ax, (slot, row), (0.92, 0.8), text, line=2 if newest else 0.8, **look)
        count = f"after {seen} position{'s' * (seen > 1)}"
        ax.text(-0.2, row + 0.42, count, ha="right", va="center")
        if seen > capacity:
            note = f"{seen - 1 - capacity} overwritten"
            ax.text(capacity + 0.15, row + 0.42, note, va="center")
    for slot in range(capacity):
        ax.text(slot + 0.46, -0.3, f"slot {slot}", ha="center", va="center", fontsize=9)
    return fig
