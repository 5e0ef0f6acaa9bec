"""Chapter 11: temperatures, windows on their way, and what they forget."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from tinyperceiver.teaching.drawing import LATENTS, PREFIX, Look, panels, with_errors
from tinyperceiver.teaching.music import name_of
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_temperatures(logits: Tensor, temperatures: Sequence[float], most: int = 24) -> "Figure":
    """Probabilities of the likeliest tokens at several temperatures: logits (V,)."""
    order = logits.argsort(descending=True)[:most]
    fig, ax = panels(3.4)
    looks = ((GREEN, "^", ":"), (BLUE, "o", "-"), (PINK, "s", "--"))
    for temperature, (color, marker, dashes) in zip(temperatures, looks, strict=True):
        p = (logits / temperature).softmax(-1)[order]
        label = f"T = {temperature:g}, {1 - float(p.sum()):.0%} elsewhere"
        ax.plot(p, color=color, marker=marker, ms=4, ls=dashes, label=label)
    names = [name_of(int(token)) for token in order]
    ax.set_xticks(range(most), names, rotation=60, ha="right", rotation_mode="anchor")
    ax.set(ylabel="probability", ylim=(0, None))
    ax.legend()
    return fig


def draw_walk(steps: Sequence[tuple[int, int, int]]) -> "Figure":
    """A row for each step: the window's first token, its prefix and its latents."""
    fig, ax = panels(0.5 + 0.17 * len(steps))
    said = None
    for y, (first, prefix, latents) in enumerate(steps):
        edge, end = first + prefix, first + prefix + latents
        ax.plot(range(first), [y] * first, ".", color=GREY, ms=3)
        for begin, stop, look in ((first, edge, PREFIX), (edge, end, LATENTS)):
            left = np.arange(begin, stop) - 0.5
            ax.barh([y] * len(left), 1, 0.8, left=left, color=look.color, hatch=look.hatch or None,
                    edgecolor=INK, lw=0.5)  # fmt: skip
        _, prefix_before, latents_before = steps[max(y - 1, 0)]
        kind = (
            "latents grow" if latents > latents_before else
            "read again" if latents < latents_before else
            "prefix grows" if prefix > prefix_before else
            "the window slides"
        )  # fmt: skip
        if y and kind != said:
            ax.text(end - 0.3, y, kind, va="center", fontsize=9)
            said = kind
    ax.invert_yaxis()
    ax.set(xlim=(-0.8, max(map(sum, steps)) + 7), xlabel="token", ylabel="tokens added")
    ax.set_yticks(range(0, len(steps), 4))
    return fig


def draw_memory(
    back: Sequence[int], changes: dict[str, Sequence[float]], edges: dict[str, int]
) -> "Figure":
    """How much the logits change with a token so far back; a logarithmic scale.

    Args:
        back: tokens back.
        changes: label -> the change for each; zeros are drawn at the bottom.
        edges: label -> tokens back where a line is drawn.
    """
    fig, ax = panels(3.2)
    floor = 1e-13
    looks = ((BLUE, "o"), (ORANGE, "x"))
    for (label, change), (color, marker) in zip(changes.items(), looks, strict=True):
        ax.plot(back, np.maximum(change, floor), marker, color=color, ms=4, label=label)
    for label, at in edges.items():
        ax.axvline(at - 0.5, color=GREY, lw=1, ls=":")
        ax.text(at - 0.8, 1e-8, label, rotation=90, ha="right", va="top", fontsize=9)
    ax.set_yscale("log")
    ax.set_yticks([1e-12, 1e-9, 1e-6, 1e-3, 1])
    ax.text(0, floor * 2.5, "zero:", fontsize=9, va="bottom")
    ax.set(xlabel="tokens back", ylabel="change of the logits", ylim=(floor / 4, 60))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return fig


def draw_policies(walk: dict) -> "Figure":
    """Nats above those of refilling, by tokens since window and latents were full.

    Args:
        walk: `edges` of the tokens, and for each difference of policies, a mean and its standard
            error between each two edges, or None.
    """
    fig, ax = panels(3.4)
    for shift, name, sign, label, look in (
        (0, "slide less refill", 1, "slide", Look(ORANGE, "s", "--")),
        (0, "slide, renormed less refill", 1, "slide, renormed", Look(PINK, "^", "-.")),
        (0.12, "refill less fresh", -1, "afresh for each token", Look(BLUE, "o", ":")),
    ):
        rows = walk["difference"][name]
        at, mean, error = np.array([(i, *row) for i, row in enumerate(rows) if row]).T
        with_errors(ax, at + shift, sign * mean, look, label, yerr=error)
    ax.axhline(0, color=GREY, lw=1, ls=":")
    names = ["0", *(f"{a:,}\N{EN DASH}{b:,}" for a, b in pairwise(walk["edges"][1:]))]
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set(xlabel="tokens since window and latents were full")
    ax.set(ylabel="nats per token above refill", yticks=[0, 0.05, 0.1, 0.15])
    ax.legend()
    return fig
