"""Chapter 13: what a token costs, and how fast tokens come."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from tinyperceiver.teaching.drawing import LOOKS, PLAIN, Look, arrow, box, canvas, panels, ticks
from tinyperceiver.teaching.style import BLUE, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MUSIC = 36.7  # tokens in a second of music, in 310 recordings of GiantMIDI-Piano
BAR = {"alpha": 0.75, "edgecolor": INK, "lw": 0.6}


def draw_graph() -> "Figure":
    """What a decoding step's graph takes and gives, and what its caller does."""
    fig, ax = canvas(3.1, x=(0, 10), y=(0, 5))
    box(ax, (3.6, 1.4), (2.8, 2.2), "the graph\nand its weights", Look(BLUE), fill=0.33, radius=0.1)
    head = {"arrowstyle": "-|>", "lw": 1.2}
    for left, y, text in (
        (0.05, 4.0, "tokens, positions"),
        (0.05, 2.5, "masks"),
        (0.05, 1.0, "rings of keys\nand values"),
        (7.15, 4.0, "logits"),
        (7.15, 1.0, "new keys\nand values"),
    ):
        box(ax, (left, y - 0.45), (2.8, 0.9), text, PLAIN, radius=0.1, line=1)
        level = 2.5 + 0.4 * (y - 2.5)
        ends = ((2.85, y), (3.6, level)) if left < 5 else ((6.4, level), (7.15, y))
        arrow(ax, *ends, **head)
    for y, bend, at, text in (
        (4.45, 0.05, 4.8, "choose a token"),
        (0.55, -0.05, 0.2, "write them into the rings"),
    ):
        bow = {"connectionstyle": f"arc3,rad={bend}", "ls": "--"}
        arrow(ax, (8.2, y), (1.8, y), ORANGE, **head, **bow)
        ax.text(5, at, text, ha="center", va="center", color=ORANGE)
    return fig


def draw_race(due: Sequence[float], rates: Sequence[float]) -> "Figure":
    """When each token is due in the music, and when it comes at some rates.

    due: seconds of music before each token. rates: tokens a second, slowest first.
    """
    fig, ax = panels(3.0)
    count = len(due)
    ax.plot(due, range(count), color=INK, ls="-", lw=2.4)
    ax.text(due[-1], count, " due in the music", ha="center", va="bottom")
    for rate, dash, look in zip(rates, ("--", ":", "-."), LOOKS[1:], strict=False):
        end = min(count / rate, 2.6 * due[-1])
        ax.plot([0, end], [0, end * rate], ls=dash, color=look.color)
        at = 0.62 * end
        ax.text(at, at * rate, f"  {rate:.0f} a second", va="top", color=look.color)
    ax.margins(y=0.12)
    ax.set(xlabel="seconds since the first token", ylabel="tokens", xlim=(0, None), ylim=(0, None))
    return fig


def draw_shares(rows: dict[str, dict[str, float]]) -> "Figure":
    """What the time of a token is made of: a bar for each row.

    rows: name -> (kind -> milliseconds), the kinds in the same order.
    """
    fig, ax = panels(1.15 + 0.5 * len(rows))
    for y, shares in enumerate(rows.values()):
        left = 0.0
        for (kind, ms), look in zip(shares.items(), LOOKS, strict=False):
            style = BAR | {"color": look.color, "hatch": look.hatch}
            ax.barh(y, ms, 0.62, left, label=None if y else kind, **style)
            left += ms
        ax.text(left, y, f" {left:.0f} ms", va="center")
    ms = 1000 / MUSIC
    ax.axvline(ms, color=PINK, ls="--", lw=1.4)
    ax.text(ms, 1.0, " music", color=PINK, transform=ax.get_xaxis_transform())
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set(xlabel="milliseconds a token")
    ax.margins(x=0.12)
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.02), ncols=3)
    return fig


def draw_roofline(
    bandwidth: float, peak: float, points: dict[int, tuple[float, float]]
) -> "Figure":
    """The roof of a machine, and products of R rows under it.

    bandwidth in GB/s, peak in G operations/s; points: R -> (operations a byte, G
    operations/s).
    """
    fig, ax = panels(3.4)
    ridge = peak / bandwidth
    low, high = 0.25, 4 * max(x for x, _ in points.values())
    bottom = low * bandwidth / 2
    ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color=INK, lw=2.2)
    ax.axvline(ridge, color=GREY, ls=":", lw=1.2)
    ax.text(0.55 * ridge, 0.62 * peak, "as memory reads ", ha="right")
    ax.text(math.sqrt(ridge * high), 1.15 * peak, "as cores compute", ha="center")
    ax.text(1.08 * ridge, 1.1 * bottom, "the ridge", color=GREY)
    for rows, (x, y) in points.items():
        ax.plot(x, y, "o", color=BLUE, ms=7)
        name = f"{rows:,} row" + "s" * (rows > 1)
        ax.annotate(name, (x, y), (6, -13), textcoords="offset points")
    lowest = min(y for _, y in points.values())
    ax.set(
        xscale="log", xlim=(low, high), xlabel="operations for each byte that is read or written"
    )
    ax.set(
        yscale="log", ylim=(min(bottom, 0.6 * lowest), 2.2 * peak), ylabel="G operations a second"
    )
    ax.minorticks_off()
    return fig


def draw_waterfall(steps: dict[str, float], floor: float) -> "Figure":
    """Milliseconds of a token, from way to way; steps: name -> milliseconds."""
    fig, ax = panels(3.0)
    times, music = list(steps.values()), 1000 / MUSIC
    ax.bar(range(len(times)), times, 0.62, color=BLUE, **BAR)
    gone = [before - ms for before, ms in pairwise(times)]
    look = {"color": "none", "edgecolor": GREY, "ls": ":"}
    ax.bar(range(1, len(times)), gone, 0.62, times[1:], **look)
    for x, ms in enumerate(times):
        above = ms if ms > 1.4 * music else max(ms, 1.05 * music)  # off the dashed line
        text = f"{ms:.0f} ms\n{1000 / ms:.0f} a second"
        ax.text(x, above, text, ha="center", va="bottom", fontsize=9)
    last = len(times) - 1
    ax.hlines(floor, last - 0.42, last + 0.42, color=ORANGE, lw=2.4)
    ax.text(last + 0.45, floor, "its floor", color=ORANGE, va="center")
    ax.axhline(music, color=PINK, ls="--", lw=1.4)
    text = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    ax.text(1.0, music, "music", color=PINK, **text)
    ax.set_xticks(range(len(times)), list(steps))
    ax.set(xlim=(-0.5, last + 1.25), ylim=(0, 1.28 * max(times)), ylabel="milliseconds a token")
    return fig


def draw_rates(rates: dict[str, dict[str, float]], floors: dict) -> "Figure":
    """Tokens a second: groups of bars, over each what the floor would allow.

    rates: group -> (name -> tokens a second); floors: the same of the floors, for
    those that have one.
    """
    fig, ax = panels(3.2)
    names = list(next(iter(rates.values())))
    width = 0.8 / len(rates)
    for i, ((group, by_name), look) in enumerate(zip(rates.items(), LOOKS, strict=False)):
        at = {name: x + (i - (len(rates) - 1) / 2) * width for x, name in enumerate(names)}
        style = BAR | {"color": look.color, "hatch": look.hatch, "label": group}
        ax.bar(list(at.values()), [by_name[name] for name in names], 0.9 * width, **style)
        for name, x in at.items():
            rate, half = by_name[name], 0.45 * width
            ax.text(x, rate, f"{rate:.0f}", ha="center", va="bottom", fontsize=9)
            if floor := floors[group].get(name):
                ax.hlines(floor, x - half, x + half, color=INK, lw=2)
    ax.axhline(MUSIC, color=PINK, ls="--", lw=1.4)
    ax.text(-0.5, MUSIC, "music", color=PINK, va="bottom")
    ax.set_xticks(range(len(names)), names)
    ax.set(xlim=(-0.55, len(names) - 0.45), ylabel="tokens a second")
    ax.legend(loc="upper left")
    return fig


def draw_batches(batches: Sequence[int], rates: dict[str, list[float]]) -> "Figure":
    """Tokens a second of all rows against the number of rows."""
    fig, ax = panels(2.8)
    for (name, values), marker in zip(rates.items(), "osD^", strict=False):
        ax.plot(batches, values, marker=marker, ms=5, label=name)
    alone = [MUSIC * rows for rows in batches]
    ax.plot(batches, alone, color=GREY, ls=":", lw=1.2, label="music for all rows")
    ax.set(xscale="log", yscale="log", xlabel="rows $B$", ylabel="tokens a second")
    ticks(ax.xaxis, batches)
    ax.minorticks_off()
    ax.legend()
    return fig
