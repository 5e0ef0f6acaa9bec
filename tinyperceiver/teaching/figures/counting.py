"""Chapter 3: prices, tables of counts, and what they cost on music."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, STEPS_PER_SECOND, TIME_SHIFT
from tinyperceiver.sound.roll import piano_roll
from tinyperceiver.teaching.drawing import panels, ticks
from tinyperceiver.teaching.music import EDGES, KINDS, times_of
from tinyperceiver.teaching.style import BLUE, GREY, ORANGE, PINK, shades

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_price(share: np.ndarray) -> "Figure":
    """-ln p against p, and what three tokens of known probability cost.

    Args:
        share: probabilities of the loaded die, (388,).
    """
    fig, ax = panels(2.8)
    p = np.concatenate([np.geomspace(3e-4, 0.01, 40), np.linspace(0.01, 1, 200)])
    ax.plot(p, -np.log(p), "-", color=BLUE)
    wait = share[TIME_SHIFT]
    for at, says, offset, side in (
        (1 / NUM_EVENTS, "fair die: any token, p = 1/388", (12, 2), "left"),
        (wait, f"loaded die: wait 10 ms, p = {100 * wait:.1f} %", (12, 2), "left"),
        (1.0, "sure and right", (0, 12), "right"),
    ):
        cost = -np.log(at) + 0.0  # no "-0"
        ax.plot(at, cost, "o", color=ORANGE, ms=6, clip_on=False)
        text = f"{says}: {cost:.2f}"
        ax.annotate(text, (at, cost), offset, textcoords="offset points", ha=side)
    ax.set(xlabel="probability p that you gave", ylabel="price, nats")
    ax.set(xlim=(-0.01, 1.02), ylim=(0, 8.2))
    return fig


def draw_bigrams(counts: np.ndarray) -> "Figure":
    """Probability of the next token (across) after each token (down), log scale."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    fig, ax = panels(5.9)
    depth = np.clip(1 + np.log10(np.maximum(share, 1e-12)) / 4, 0, 1)  # 0 at 1e-4
    picture = ax.imshow(depth, cmap=shades(BLUE), vmin=0, vmax=1, interpolation="none")
    for edge in EDGES[1:-1]:
        ax.axhline(edge - 0.5, color=GREY, lw=0.8, ls="--")
        ax.axvline(edge - 0.5, color=GREY, lw=0.8, ls="--")
    middles = [(a + b) / 2 for a, b in pairwise(EDGES)]
    ax.set_xticks(middles, KINDS)
    ax.set_yticks(middles, KINDS, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set(xlabel="the next token", ylabel="the token before it")
    ax.spines[:].set_visible(True)
    bar = fig.colorbar(picture, ax=ax, shrink=0.6, aspect=25, pad=0.02)
    ticks(bar.ax.yaxis, np.linspace(0, 1, 5), ["≤ 0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    return fig


def draw_sparsity(orders: list[dict]) -> "Figure":
    """Runs that are possible, that occur, that occur twice; and what held-out music meets."""
    fig, (left, right) = panels(2.9, 1, 2)
    n = [result["order"] for result in orders]
    for label, values, color, marker, dash in (
        ("possible", [NUM_EVENTS**k for k in n], GREY, "o", ":"),
        ("that occur", [run["distinct"] for run in orders], BLUE, "s", "-"),
        ("that occur again", [run["distinct"] - run["once"] for run in orders], ORANGE, "^", "--"),
    ):
        left.semilogy(n, values, dash, color=color, marker=marker, ms=4, label=label)
    left.set(xlabel="n", ylabel="different runs of n tokens", xticks=n)
    left.legend(loc="upper left")
    seen = [100 * run["valid_seen"] for run in orders]
    bars = right.bar(n, seen, color=BLUE, width=0.65)
    right.bar_label(bars, [f"{share:.4g}" for share in seen], fontsize=9)
    right.set(xlabel="n", ylabel="held-out runs seen before, %", xticks=n, ylim=(0, 112))
    return fig


def draw_orders(small: list[tuple[float, float]], orders: list[dict]) -> "Figure":
    """Nats per token by order, on the music counted and on music held out.

    Args:
        small: train and held-out nats of orders 1, 2, ... on the five pieces.
        orders: those of the recorded run.
    """
    fig, axes = panels(3.0, 1, 2, sharey=True)
    large = [(result["train"], result["valid"]) for result in orders]
    titled = {"five pieces": small, "GiantMIDI-Piano": large}
    for ax, (title, curves) in zip(axes, titled.items(), strict=True):
        n = range(1, len(curves) + 1)
        train, held_out = zip(*curves, strict=True)
        ax.plot(n, held_out, "-", color=BLUE, marker="o", ms=4, label="held out")
        ax.plot(n, train, "--", color=ORANGE, marker="s", ms=4, label="counted")
        best = int(np.argmin(held_out))
        at, text = (best + 1, held_out[best]), f"{held_out[best]:.2f}"
        ax.annotate(text, at, (0, 6), textcoords="offset points", ha="center")
        ax.axhline(np.log(NUM_EVENTS), color=GREY, lw=1, ls=":")
        ax.set(title=title, xlabel="order", xticks=list(n), ylim=(0, 6.4))
    axes[0].text(1, np.log(NUM_EVENTS) - 0.1, "a uniform guess", va="top", fontsize=9)
    axes[0].set_ylabel("nats per token")
    axes[0].legend(loc="lower left")
    return fig


def draw_surprise(tokens: list[int], nats: np.ndarray) -> "Figure":
    """A piano roll, and below it what each key that goes down costs to foretell."""
    ids, nats = np.array(tokens), np.asarray(nats)
    time = times_of(tokens)[:-1] / STEPS_PER_SECOND
    on = np.flatnonzero(ids < NOTE_OFF)
    top = on[np.argsort(-nats[on])[:8]]
    fig, (roll, below) = panels(4.2, 2, 1, sharex=True, height_ratios=[3, 2])
    piano_roll(decode_midi(tokens), roll)
    roll.plot(time[top], ids[top], "v", color=PINK, ms=6)
    roll.set_xlabel("")
    below.vlines(time[on], 0, nats[on], color=BLUE, lw=1)
    below.plot(time[top], nats[top], "v", color=PINK, ms=6)
    below.axhline(nats[on].mean(), color=GREY, lw=1, ls="--")
    below.set(xlabel="seconds", ylabel="nats of note on", ylim=(0, None))
    return fig
