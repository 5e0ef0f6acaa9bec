"""Chapter 4: scores, arrows, and channel pairs as the hands of clocks."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from tinyperceiver.teaching.drawing import LOOKS, panels
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_scores(matrices: dict[str, Tensor], first_query: int = 0) -> "Figure":
    """Score matrices side by side: title -> (l, n), queries in rows, keys in columns."""
    from matplotlib.ticker import MaxNLocator

    l, n = next(iter(matrices.values())).shape
    height = 0.75 + min(2.15, 5.4 / len(matrices) * l / n)
    fig, axes = panels(height, 1, len(matrices), sharey=True, squeeze=False)
    for ax, (title, scores) in zip(axes[0], matrices.items(), strict=True):
        extent = (-0.5, n - 0.5, first_query + l - 0.5, first_query - 0.5)
        ax.imshow(scores, cmap=shades(BLUE), interpolation="nearest", extent=extent)
        ax.set(title=title, xlabel="key position j")
        ax.spines[:].set_visible(True)
        ax.yaxis.set_major_locator(MaxNLocator(5 if l == n else 3, integer=True))
    axes[0, 0].set_ylabel("query i" if l < n else "query position i")
    return fig


def _circle(ax: "Axes", reach: float) -> None:
    """A circle of radius 1, and axes without lines that end at `reach`."""
    from matplotlib.patches import Circle

    ax.add_patch(Circle((0, 0), 1, fill=False, color=GREY, lw=0.8))
    ends = (-reach, reach)
    ax.set(xlim=ends, ylim=ends, aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def draw_arrows(pairs: dict[str, tuple[Tensor, Tensor]]) -> "Figure":
    """A query and a key, two numbers each, as arrows: title -> (query, key)."""
    fig, axes = panels(1.75, 1, len(pairs), squeeze=False)
    looks = ("q", BLUE, "-", "o"), ("k", GREEN, (0, (3, 1.5)), "s")
    for ax, (title, pair) in zip(axes[0], pairs.items(), strict=True):
        _circle(ax, 1.3)
        for tip, (name, color, dash, marker) in zip(pair, looks, strict=True):
            x, y = tip.tolist()
            ax.plot([0, x], [0, y], color=color, ls=dash, lw=2.2)
            ax.plot(x, y, marker, color=color, ms=6)
            beyond = 1 + 0.22 / math.hypot(x, y)
            text = {"ha": "center", "va": "center", "style": "italic", "size": 12}
            ax.text(beyond * x, beyond * y, name, **text)
        ax.set_title(title)
    return fig


def draw_clocks(rotation: tuple[Tensor, Tensor], positions: list[int]) -> "Figure":
    """Channel pairs as the hands of clocks: a row for each pair, a column for each position.

    `rotation` is cosines and sines of the pairs drawn, each (1, len(positions), pairs).
    """
    cos, sin = (part[0].T.tolist() for part in rotation)  # (pairs, n)
    fig, axes = panels(0.95 * len(cos) + 0.3, len(cos), len(positions))
    for p, row in enumerate(axes):
        for ax, x, y in zip(row, cos[p], sin[p], strict=True):
            _circle(ax, 1.15)
            ax.plot([0, 1], [0, 0], color=GREY, lw=0.8, ls=":")
            ax.plot([0, x], [0, y], color=BLUE, ls="-", lw=2)
            ax.plot(x, y, "o", color=BLUE, ms=4)
        row[0].set_ylabel(f"pair {p}", rotation=0, ha="right", va="center")
    for ax, position in zip(axes[0], positions, strict=True):
        ax.set_title(f"{position:,}")
    return fig


def draw_pairings(d: int = 8) -> "Figure":
    """Which channels of a head are turned together, in either layout."""
    fig, axes = panels(1.8, 1, 2, sharey=True)
    middle = {"ha": "center", "va": "center"}
    for ax, title, pairs in (
        (axes[0], "interleaved: pair i is 2i, 2i + 1", [(i, i + 1) for i in range(0, d, 2)]),
        (axes[1], "halves: pair i is i, i + d/2", [(i, i + d // 2) for i in range(d // 2)]),
    ):
        for p, ((a, b), look) in enumerate(zip(pairs, LOOKS, strict=True)):
            height = 0.35 + 0.28 * (b - a if b - a == 1 else p + 1)
            line = {"color": look.color, "ls": look.dash}
            ax.plot([a, a, b, b], [0.32, height, height, 0.32], **line)
            frame = {"boxstyle": "square,pad=0.35", "fc": "none", "ec": look.color}
            for channel in (a, b):
                ax.text(channel, 0, str(channel), bbox=frame, **middle)
                ax.text(channel, -0.62, f"$\\theta_{p}$", **middle)
        ax.set(title=title, xlim=(-0.6, d - 0.4), ylim=(-0.9, 1.6))
        ax.axis("off")
    return fig
