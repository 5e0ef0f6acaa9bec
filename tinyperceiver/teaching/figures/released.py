"""Chapter 12: names of two libraries, faults and what finds them, prompts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyperceiver.teaching.drawing import WIDTH, canvas, panels, ticks
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_key_map(rows: Sequence[tuple[str, str, str]], title: tuple[str, str]) -> "Figure":
    """Names of ours and of the peer's, joined by lines, each side in its own order.

    Args:
        rows: ours, theirs, shape; in the order of ours.
        title: what both begin with.
    """
    step, height = 0.27, 0.27 * len(rows) + 0.75
    fig, ax = canvas(height, (0, WIDTH), (0, height))
    top, theirs = height - 0.62, sorted(other for _, other, _ in rows)
    mono = {"family": "monospace", "fontsize": 9, "va": "center"}
    for x, text in zip((0.05, 4.13), title, strict=True):
        ax.text(x, height - 0.2, text, fontsize=10, va="center")
    for i, (own, other, shape) in enumerate(rows):
        y, their_y = top - step * i, top - step * theirs.index(other)
        color = ORANGE if "prefix" in own else BLUE
        ax.text(0.05, y, own, **mono)
        ax.text(3.16, y, shape, fontsize=9, va="center", ha="right", color=GREY)
        ax.plot([3.23, 4.05], [y, their_y], "o-", color=color, lw=1.3, ms=3)
        ax.text(4.13, their_y, other, **mono)
    return fig


def draw_faults(found: dict[str, tuple[float, int, float]], asked: int) -> "Figure":
    """What three judges say of each fault: logits, continuations, loss.

    Args:
        found: by fault, the largest difference of a logit, tokens of the continuations
            before the first that differs, and the difference of the loss.
        asked: tokens of all continuations.
    """
    names = list(found)[::-1]
    fig, axes = panels(0.33 * len(names) + 1.0, 1, 3, sharey=True)
    titles = "logits: off by", f"greedy: right\nof {asked} tokens", "loss: off by"
    for which, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for y, name in enumerate(names):
            color, marker = (GREEN, "o") if name == "none" else (PINK, "X")
            value = abs(found[name][which])
            ax.plot(value if which == 1 else max(value, 2e-7), y, marker, color=color, ms=7)
        ax.set(title=title, ylim=(-0.6, len(names) - 0.4))
        ax.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.6)
        if which != 1:
            ax.axvline(5e-5, color=INK, linewidth=0.9, linestyle="--")
            ax.set(xscale="log", xlim=(1e-7, 60))
            ticks(ax.xaxis, [1e-6, 1e-3, 1], ["$10^{-6}$", "$10^{-3}$", "1"])
    axes[0].set_yticks(range(len(names)), names)
    axes[1].set_xlim(-0.06 * asked, 1.06 * asked)
    return fig


def draw_prompts(rows: Sequence[tuple[str, int, int, int]]) -> "Figure":
    """What a model reads of each prompt, and how much it adds.

    Args:
        rows: name, tokens of prefix, latents at first, new tokens.
    """
    fig, ax = panels(0.36 * len(rows) + 1.0)
    empty = {"fill": False, "linewidth": 1.4}
    for y, (_, m, l, new) in enumerate(rows):
        ax.barh(y, m, 0.55, edgecolor=ORANGE, hatch="//", **empty)
        ax.barh(y, l, 0.55, left=m, color=BLUE)
        ax.barh(y, new, 0.55, left=m + l, edgecolor=BLUE, linestyle="--", **empty)
        ax.text(m + l + new + 12, y, f"{l} + {new}", va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.invert_yaxis()
    ax.set(xlabel="tokens", xlim=(0, 1.17 * max(m + l + new for _, m, l, new in rows)))
    return fig
