"""The parts that figures are made of, so that the same thing looks the same in all chapters.

`style` says how the book looks; here are panels, marks, bars, boxes and arrows in that style.
Positions are in the units of the axes, sizes of figures in inches.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyperceiver.teaching.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    shades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 6.4  # inches: as wide as the text of a page


class Look(NamedTuple):
    """What tells one thing from another, also for those who print in grey."""

    color: str
    marker: str = "o"
    dash: str = "-"
    hatch: str = ""


PLAIN = Look(INK)
PREFIX = Look(ORANGE, "o", "--", "///")
LATENTS = Look(BLUE, "s", "-", "")
# For things that are neither, in the order in which they are drawn.
LOOKS = (
    Look(BLUE, "o", "-", ""),
    Look(ORANGE, "s", "--", "///"),
    Look(GREEN, "^", "-.", "..."),
    Look(PINK, "D", ":", "xxx"),
)


# Paper


def panels(height: float, rows: int = 1, columns: int = 1, **options) -> tuple:
    """A figure as wide as a page, and its axes as `matplotlib.pyplot.subplots` returns them."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(WIDTH, height), **options)


def canvas(height: float, x: tuple[float, float], y: tuple[float, float]) -> "tuple[Figure, Axes]":
    """A figure without axes, for drawings: `x` and `y` are the ends of its units."""
    fig, ax = panels(height)
    ax.set(xlim=x, ylim=y)
    ax.axis("off")
    return fig, ax


def bare(ax: "Axes") -> None:
    """Leave the labels of the axes and take their lines away."""
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def ticks(axis: "Axis", places: Iterable[float], labels: Sequence[str] = ()) -> None:
    """Ticks at these places and at no others: numbers are written as 1,024."""
    places = list(places)
    axis.set_ticks(places, labels or [f"{place:,}" for place in places])
    axis.set_ticks([], minor=True)


def octave_ticks(ax: "Axes", low: float, high: float) -> None:
    """Name the Cs between two pitches (MIDI numbers) on the vertical axis."""
    octaves = [pitch for pitch in range(0, 128, 12) if low < pitch < high]
    ticks(ax.yaxis, octaves, [f"C{pitch // 12 - 1}" for pitch in octaves])


# Boxes and arrows


def box(
    ax: "Axes",
    corner: tuple[float, float],
    size: tuple[float, float],
    text: str = "",
    look: Look = PLAIN,
    *,
    fill: float = 0.0,
    radius: float = 0.0,
    line: float = 1.4,
) -> None:
    """A box with its lower left corner there, and a text in the middle.

    Args:
        fill: opacity of the inside, 0 to 1.
        radius: of the corners.
        line: width of the outline, in points.
    """
    from matplotlib.patches import FancyBboxPatch

    shape = f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0"
    ax.add_patch(
        FancyBboxPatch(
            corner, *size, boxstyle=shape, facecolor=(look.color, fill), lw=line,
            edgecolor=look.color, ls=look.dash, hatch=look.hatch or None,
        )
    )  # fmt: skip
    middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
    ax.text(*middle, text, ha="center", va="center", fontsize=9.5)


def arrow(
    ax: "Axes",
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = INK,
    **look,
) -> None:
    """An arrow from `start` to `end`; `look` goes to `matplotlib.patches.FancyArrowPatch`."""
    ends = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=ends | {"color": color, "lw": 1.3} | look)


# Prefix and latents


def boundary(ax: "Axes", at: float) -> None:
    """The dashed line between prefix and latents."""
    ax.axvline(at, color=INK, lw=1, ls="--")


def name_parts(
    ax: "Axes",
    middles: tuple[float, float],
    y: float,
    texts: tuple[str, str] = ("prefix", "latents"),
    **font,
) -> None:
    """Write beside prefix and latents what they are, bold and in their colours."""
    for x, text, look in zip(middles, texts, (PREFIX, LATENTS), strict=True):
        style = {"ha": "center", "va": "center", "weight": "bold"} | font
        ax.text(x, y, text, color=look.color, **style)


def marks(
    ax: "Axes", mask: np.ndarray, m: int, size: float, at: tuple[float, float] = (0, 0)
) -> None:
    """A mask as marks, one a cell: row i, column j of it lies at (at[0] + j, at[1] + i).

    Args:
        mask: (l, n) booleans. A mark stands where it is True, a speck where it is False.
        m: columns that belong to the prefix: their marks are round, the others square.
        size: of a mark, in points.
    """
    seen = np.asarray(mask, dtype=bool)
    is_prefix = np.broadcast_to(np.arange(seen.shape[1]) < m, seen.shape)
    for cells, marker, color, points in (
        (~seen, ".", GREY, 3),
        (seen & is_prefix, PREFIX.marker, PREFIX.color, size),
        (seen & ~is_prefix, LATENTS.marker, LATENTS.color, size),
    ):
        i, j = np.nonzero(cells)
        ax.plot(at[0] + j, at[1] + i, marker, ls="none", color=color, ms=points, mew=0)


def part_bars(ax: "Axes", values: Sequence[float], m: int, first: int = 0) -> None:
    """Bars at the positions `first`, ...: hatched before position m, filled from there on."""
    at, values = np.arange(first, first + len(values)), np.asarray(values)
    for part, (color, _, _, hatch) in ((at < m, PREFIX), (at >= m, LATENTS)):
        face = "none" if hatch else color
        look = {"color": face, "edgecolor": color, "hatch": hatch or None}
        ax.bar(at[part], values[part], **look)
    boundary(ax, m - 0.5)


# Numbers


def curves(ax: "Axes", x: Sequence[float], rows: dict[str, Sequence[float]]) -> None:
    """A line with marks for each row, and a legend: name -> values at `x`."""
    for (name, values), look in zip(rows.items(), LOOKS, strict=False):
        ax.plot(x, values, color=look.color, ls=look.dash, marker=look.marker, ms=4,
                label=name)  # fmt: skip
    ax.legend()


def with_errors(
    ax: "Axes",
    x: Sequence[float],
    y: Sequence[float],
    look: Look,
    label: str,
    **errors: Sequence[float],
) -> None:
    """Values with bars of two standard errors, given as `xerr` or `yerr`."""
    twice = {name: 2 * np.asarray(error) for name, error in errors.items()}
    ax.errorbar(
        x, y, **twice, color=look.color, marker=look.marker, ls=look.dash, ms=5,
        capsize=3, label=label,
    )  # fmt: skip


def segments(
    start: tuple[np.ndarray, np.ndarray], end: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Many short lines as one with gaps; drawn one by one they would fill a page's bytes.

    Args:
        start: x and y of where each line begins, (lines,) both.
        end: x and y of where it ends.

    Returns:
        x and y for one call of `plot`, (3 * lines,) both.
    """
    x, y = (
        np.stack((a, b, np.full(len(a), np.nan)), 1).ravel()
        for a, b in zip(start, end, strict=True)
    )
    return x, y


def table(ax: "Axes", values: np.ndarray, texts: Sequence[Sequence[str]] = ()):
    """Numbers from 0 up as shades of blue, (rows, columns), with a text in each cell.

    Returns:
        What `Figure.colorbar` takes.
    """
    picture = ax.imshow(values, cmap=shades(BLUE), vmin=0, aspect="auto")
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            ax.text(j, i, text, ha="center", va="center", fontsize=9)
    bare(ax)
    return picture


def legend_below(fig: "Figure", looks: dict[str, Look] | None = None) -> None:
    """One legend for all panels, below them: of what carries a label, or of `looks`."""
    from matplotlib.lines import Line2D

    handles, _ = fig.axes[0].get_legend_handles_labels()
    handles += [
        Line2D([], [], color=look.color, marker=look.marker, ls=look.dash, label=name)
        for name, look in (looks or {}).items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
