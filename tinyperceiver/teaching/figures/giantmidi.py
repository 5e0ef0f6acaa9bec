"""Chapter 8: what is in the recordings, and what becomes of it in batches."""

from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.dataset.windows import IGNORED, Batch
from tinyperceiver.music.vocabulary import NOTE_OFF, VELOCITY
from tinyperceiver.teaching.drawing import LATENTS, PREFIX, Look, panels, ticks
from tinyperceiver.teaching.style import BLUE, GREY, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK_KEYS = (1, 3, 6, 8, 10)  # of the twelve of an octave
LOWEST, HIGHEST = 21, 108  # keys of a piano
BIN = 8  # tokens of a step in a picture, or a page has megabytes


def draw_lengths(tokens_of_each: list[int], windows: dict[str, int]) -> "Figure":
    """How many recordings are how long, in tokens; `windows`: name -> length to mark."""
    fig, ax = panels(2.7)
    ax.hist(tokens_of_each, np.geomspace(500, 200_000, 53), color=BLUE, alpha=0.8)
    ax.set(xscale="log", xlabel="tokens of a recording (log scale)", ylabel="recordings")
    ax.set_xticks(places := (1000, 10_000, 100_000), [f"{place:,}" for place in places])
    top = ax.get_ylim()[1]
    ax.set(xlim=(200, 200_000), ylim=(0, 1.3 * top))
    for name, length in windows.items():
        is_last = length == max(windows.values())
        ax.axvline(length, color=ORANGE, ls="--", lw=1.3)
        side, at = ("left", length * 1.06) if is_last else ("right", length / 1.06)
        ax.text(at, 1.27 * top, f"{name}, {length:,}", ha=side, va="top")
    return fig


def draw_music(recordings: dict) -> "Figure":
    """Keys, velocities and notes a second: `recordings` of the recorded statistics."""
    import matplotlib.pyplot as plt

    events = np.array(recordings["events"])
    fig, axes = plt.subplot_mosaic("kk;vn", figsize=(6.4, 4.4))
    ax, keys = axes["k"], np.arange(LOWEST, HIGHEST + 1)
    share = 100 * events[keys] / events[:NOTE_OFF].sum()
    black = np.isin(keys % 12, BLACK_KEYS)
    hatched = {"color": "none", "edgecolor": GREY, "hatch": "////"}
    ax.bar(keys[~black], share[~black], width=0.8, color=BLUE, label="white keys")
    ax.bar(keys[black], share[black], width=0.8, **hatched, label="black keys")
    ax.set(title="which keys", xlim=(LOWEST - 1, HIGHEST + 1), ylabel="% of the notes")
    ax.set_xticks(range(24, 109, 12), [f"C{octave}" for octave in range(1, 9)])
    ax.legend(loc="upper right")
    ax = axes["v"]
    touch = 100 * events[VELOCITY:] / events[VELOCITY:].sum()
    ax.bar(np.arange(32) * 4 + 2, touch, width=3.4, color=BLUE)
    ax.set(title="how hard", xlabel="velocity", ylabel="% of the tokens", xlim=(0, 128))
    ax.set_xticks(range(0, 129, 32))
    ax = axes["n"]
    density = np.divide(recordings["notes_of_each"], recordings["seconds_of_each"])
    ax.hist(density, np.arange(0, 26), color=BLUE)
    ax.set(title="how many", xlabel="notes a second", ylabel="recordings", xlim=(0, 25))
    for ax in axes.values():
        ax.title.set(ha="left", x=0)
    return fig


def draw_durations(files: dict) -> "Figure":
    """How long keys are down: `files` of the recorded statistics."""
    edges, counts = np.array(files["duration_edges"]), np.array(files["durations"])
    share = 100 * counts / files["notes"]
    short = edges[1:] < 0.03
    fig, ax = panels(2.5)
    for part, fill, edge, hatch in ((~short, BLUE, BLUE, None), (short, "none", PINK, "////")):
        look = {"color": fill, "edgecolor": edge, "hatch": hatch, "lw": 0.6}
        ax.bar(edges[:-1][part], share[part], np.diff(edges)[part], align="edge", **look)
    ax.set(xscale="log", xlabel="a key is down for (log scale)", ylabel="% of the notes")
    places = (0.005, 0.015, 0.05, 0.15, 0.5, 1.5, 5, 15)
    texts = [f"{x:g} s" if x > 1 else f"{1000 * x:g} ms" for x in places]
    ticks(ax.xaxis, places, texts)
    ax.set_xlim(0.0036, 21)
    ax.annotate(
        "below 29 ms", (0.01, share[short].max()), xytext=(0, 24), ha="center",
        textcoords="offset points", arrowprops={"arrowstyle": "-", "color": GREY},
    )  # fmt: skip
    return fig


def draw_leak(orders: list[int], splits_of: dict[str, dict[str, list[float]]]) -> "Figure":
    """Nats per token by order of a counted model, for each way to split, a panel each.

    splits_of: title -> split -> nats of each order.
    """
    fig, axes = panels(3.2, 1, len(splits_of), sharey=True)
    looks = Look(BLUE, "o", "-"), Look(ORANGE, "s", "--"), Look(PINK, "^", ":")
    for ax, (title, splits) in zip(axes, splits_of.items(), strict=True):
        for (name, nats), look in zip(splits.items(), looks, strict=True):
            line = {"color": look.color, "ls": look.dash, "marker": look.marker}
            ax.plot(orders, nats, ms=4.5, label=name, **line)
        ax.set(xlabel="order of the model", xticks=orders, title=title)
    axes[0].set(ylabel="nats per token, “held out”", ylim=(0, 6.2))
    axes[-1].legend(loc="lower left")
    return fig


def draw_coverage(counts: dict[str, dict[str, np.ndarray]]) -> "Figure":
    """How often each token was a target: way to draw -> piece -> counts, (length,)."""
    fig, axes = panels(1.35 * len(counts) + 0.5, len(counts), sharex=True, sharey=True)
    mean = np.mean(np.concatenate(list(next(iter(counts.values())).values())))
    for ax, (way, pieces) in zip(axes, counts.items(), strict=True):
        begin = 0
        for name, count in pieces.items():
            edges = np.arange(0, len(count) - BIN // 2, BIN)
            level = [count[edge : edge + BIN].mean() / mean for edge in edges]
            ax.stairs(level, begin + np.append(edges, len(count)), fill=True, color=BLUE)
            ax.axvline(begin, color=GREY, lw=0.8)
            if ax is axes[0]:
                middle = begin + len(count) / 2
                ax.text(middle, 3.75, name.split("-")[0], ha="center", va="top")
            begin += len(count)
        ax.axhline(1, color=GREY, lw=1, ls=":")
        ax.set_title(way, loc="left", pad=4)
        ax.set(ylim=(0, 3.75), yticks=[0, 1, 2, 3], xlim=(0, begin))
    axes[len(axes) // 2].set_ylabel("times a target, 1 = the average")
    axes[-1].set_xlabel("tokens of the five pieces, one after the other")
    return fig


def draw_batch(batch: Batch) -> "Figure":
    """What each position of a batch is: padding, prefix, latent, latent without a target."""
    (rows, n), m = batch.tokens.shape, batch.prefix_len
    pads = np.zeros(rows, int) if batch.pad_mask is None else batch.pad_mask.sum(1).numpy()
    known = (batch.targets != IGNORED).sum(1).numpy()
    fig, ax = panels(0.36 * rows + 1.3)
    for name, start, end, fill, edge, hatch in (
        ("padding", 0 * pads, pads, "none", GREY, ".."),
        ("prefix", pads, m, PREFIX.color, PREFIX.color, None),
        ("latents", m, m + known, LATENTS.color, LATENTS.color, None),
        ("latents without a target", m + known, n, "none", LATENTS.color, "////"),
    ):
        look = {"color": fill, "edgecolor": edge, "hatch": hatch, "lw": 0.8}
        ax.barh(range(rows), end - start, 0.72, start, label=name, **look)
    ax.invert_yaxis()
    ax.set(xlabel="position in the window", ylabel="row", yticks=range(rows), xlim=(0, n))
    ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1.2)
    return fig


def draw_drift(seconds: np.ndarray, late: dict[str, np.ndarray]) -> "Figure":
    """How late each event is, in ms, against its time; two ways to round."""
    fig, ax = panels(2.5)
    for (name, error), (color, dash) in zip(late.items(), ((PINK, "--"), (BLUE, "-")), strict=True):
        ax.plot(seconds, error, dash, color=color, lw=1.5, label=name)
    ax.axhspan(-5, 5, color=GREY, alpha=0.25, lw=0)
    ax.set(xlabel="seconds of the piece", ylabel="late (+), early (−), ms")
    ax.legend(loc="best")
    return fig


def draw_wobble(nats_of: dict[str, list[float]]) -> "Figure":
    """One model measured on other random windows: their number -> nats of each try."""
    fig, ax = panels(2.3)
    for row, nats in enumerate(map(np.array, nats_of.values())):
        ax.plot(nats, np.full(len(nats), row), "o", color=BLUE, ms=5, alpha=0.6)
        spread = f"standard deviation {nats.std(ddof=1):.2f}"
        ax.text(nats.mean(), row - 0.28, spread, ha="center", va="bottom")
    ax.set_yticks(range(len(nats_of)), [f"{size} windows" for size in nats_of])
    ax.set(ylim=(len(nats_of) - 0.6, -0.75), xlabel="nats per token")
    return fig
