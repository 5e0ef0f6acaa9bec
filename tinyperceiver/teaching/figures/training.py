"""Chapter 9: losses, rates and gradients by step; formats of numbers; two processes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.teaching.drawing import LOOKS, PLAIN, Look, arrow, box, canvas, panels, ticks
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tinyperceiver.teaching.records import Run

ORDER = (
    LOOKS[0],
    LOOKS[3]._replace(dash="--"),
    LOOKS[1]._replace(dash="-."),
    LOOKS[2]._replace(dash=":"),
)


def smooth(values: Sequence[float], width: int) -> np.ndarray:
    """The mean of each value and those before it, `width` at most."""
    sums = np.cumsum(np.append(0.0, values))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _plot_losses(ax: "Axes", losses: dict[str, Sequence[float]]) -> None:
    for (name, values), look in zip(losses.items(), ORDER, strict=False):
        steps = np.arange(1, len(values) + 1)
        ax.plot(steps, values, color=look.color, ls=look.dash, label=name)
    ax.set(xlabel="step")


def draw_bugs(one_batch: dict[str, list[float]], new_batches: dict[str, list[float]]) -> "Figure":
    """Losses by step and by what is wrong: on one batch, and on a new one each step.

    New batches differ, and so do their losses: each is drawn as a mean with those before.
    """
    new_batches = {name: smooth(losses, 10) for name, losses in new_batches.items()}
    fig, axes = panels(4.0, 1, 2, sharey=True)
    for ax, losses in zip(axes, (one_batch, new_batches), strict=True):
        _plot_losses(ax, losses)
        ax.axhline(math.log(389), color=GREY, lw=1)
        ax.text(len(losses["right"]), 6.08, "ln 389", color=GREY, fontsize=9, ha="right")
        ax.set(ylim=(0, 7.5))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes[0].set(title="the same batch every step", ylabel="loss, nats per token")
    axes[1].set(title="a new batch every step")
    return fig


def draw_rates(losses: dict[str, list[float]]) -> "Figure":
    """Losses by step, by the schedule of the learning rate."""
    fig, ax = panels(2.9)
    _plot_losses(ax, losses)
    ax.set(ylabel="loss, nats per token", ylim=(None, 8))
    ax.legend(loc="upper right")
    return fig


def draw_schedule(rates: list[float], run: "Run") -> "Figure":
    """The learning rate of each step, planned and logged, with the end of the warm-up."""
    warmup, top = run.config.warmup_steps, max(rates)
    fig, ax = panels(2.4)
    ax.plot(np.arange(1, len(rates) + 1), rates, color=BLUE, label="planned")
    ax.plot(run.steps, run.rate, color=ORANGE, ls="--", label="logged")
    ax.axvline(warmup, color=GREY, ls=":", lw=1.2)
    text = f"warm-up ends: step {warmup:,}"
    ax.text(warmup + 0.01 * len(rates), 0.08 * top, text, fontsize=9)
    ax.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.1 * top))
    ax.ticklabel_format(axis="y", scilimits=(0, 0))
    ax.legend(loc="upper right")
    return fig


def _mark_stages(run: "Run", *axes: "Axes") -> None:
    """Dotted lines where windows grow."""
    ends = np.cumsum([stage.steps for stage in run.config.stages])[:-1]
    for end in ends[ends < run.steps[-1]]:
        for ax in axes:
            ax.axvline(end, color=GREY, ls=":", lw=1.2)


def draw_norms(run: "Run") -> "Figure":
    """The length of the gradient by step, and the bound."""
    fig, ax = panels(2.6)
    # A page does not need thousands of dots; none that is cut is left out.
    is_cut = run.norm > run.config.max_norm
    some = is_cut | (np.arange(len(run.steps)) % max(1, len(run.steps) // 600) == 0)
    ax.plot(run.steps[some], run.norm[some], ".", color=BLUE, ms=2.5)
    ax.axhline(run.config.max_norm, color=ORANGE, ls="--")
    _mark_stages(run, ax)
    ax.set(xlabel="step", ylabel="length of the gradient", yscale="log")
    ticks(ax.yaxis, (0.5, 1, 2, 4))
    return fig


def draw_formats() -> "Figure":
    """Sign, exponent and mantissa of the three formats, bit by bit."""
    fig, ax = canvas(1.9, x=(0, 6.4), y=(0, 1.9))
    looks = Look(GREY, hatch=".."), Look(ORANGE, hatch="//"), Look(BLUE)
    formats = (("float32", 8, 23), ("bfloat16", 8, 7), ("float16", 5, 10))
    for row, (name, exponent, mantissa) in enumerate(formats):
        y = 1.2 - 0.5 * row
        ax.text(0.05, y + 0.14, name, va="center")
        kinds = np.repeat([0, 1, 2], [1, exponent, mantissa])
        for bit, look in enumerate(looks[kind] for kind in kinds):
            box(ax, (0.9 + 0.163 * bit, y), (0.13, 0.28), look=look, line=1.1)
        if len(kinds) < 32:
            says = f"{exponent} exponent, {mantissa} mantissa"
            ax.text(0.95 + 0.163 * len(kinds), y + 0.14, says, va="center", fontsize=9.5)
    for x, text, look in zip(
        (0.9, 1.25, 2.6), ("sign,", "8 bits of exponent,", "23 of mantissa"), looks, strict=True
    ):
        ax.text(x, 1.66, text, color=look.color, fontsize=9.5)
    return fig


def draw_parting(run: "Run", best_count: float | None) -> "Figure":
    """A small run: loss on the training pieces and held-out loss, which part.

    `best_count` is what the best n-gram pays for the same tokens of Mozart.
    """
    steps, _, held_out = run.held_out.T
    trained, last = smooth(run.loss, 10), run.steps[-1]
    fig, ax = panels(3.0)
    ax.plot(run.steps, trained, color=ORANGE, ls="--")
    ax.plot(steps, held_out, color=BLUE, ls="-", marker="o")
    names = [(trained[-1], "training pieces", ORANGE)]
    if best_count is None:
        names.append((held_out[-1], "held out", BLUE))
    else:
        ax.plot(run.steps[[0, -1]], [best_count] * 2, color=GREY, ls=":")
        names.append((best_count, "Mozart, best n-gram", GREY))
        names.append((held_out[-1], "Mozart, held out", BLUE))
    gap, free = 0.045 * (run.loss.max() - trained.min()), -np.inf
    for y, text, color in sorted(names):
        free = max(y, free + gap)  # names must not overlap
        ax.text(last * 1.02, free, text, color=color, va="center", fontsize=9.5)
        free += gap
    lowest = held_out.argmin()
    ax.plot(steps[lowest], held_out[lowest], "o", color=INK, ms=9, fillstyle="none")
    ax.set(xlabel="step", ylabel="loss, nats per token", xlim=(0, 1.35 * last))
    return fig


def draw_recorded(run: "Run") -> "Figure":
    """A run's losses, learning rate and pace by step, with its stages."""
    fig, axes = panels(6.2, 3, 1, sharex=True, height_ratios=(3, 1, 1))
    top, middle, bottom = axes
    # A page does not need thousands of points.
    some = slice(None, None, max(1, len(run.steps) // 400))
    trained = smooth(run.loss, 100)
    line = {"color": ORANGE, "ls": "--", "lw": 1.2, "label": "training, mean of 100 steps"}
    top.plot(run.steps[some], trained[some], **line)
    windows = run.held_out[:, 1]
    for window, marker in zip(dict.fromkeys(windows), "os^D", strict=False):
        part = run.held_out[windows == window]
        line = {"color": BLUE, "ls": "-", "marker": marker, "ms": 4}
        top.plot(part[:, 0], part[:, 2], **line, label=f"held out, window {window:,.0f}")
    low = min(run.held_out[:, 2].min(initial=9), trained.min())
    top.set(ylabel="nats per token", ylim=(low - 0.1, min(low + 1.5, 6.1)))
    top.legend(loc="upper right")
    middle.plot(run.steps[some], 1000 * run.rate[some], color=GREEN, ls="-")
    middle.set(ylabel="rate × 1000", ylim=(0, None))
    bottom.plot(run.speed[some, 0], smooth(run.speed[:, 1], 50)[some], color=PINK, ls="-")
    bottom.set(ylabel="tokens/s", xlabel="step", ylim=(0, None))
    _mark_stages(run, *axes)
    fig.align_ylabels()
    return fig


def draw_processes() -> "Figure":
    """One step on two processes: whole models, half the rows each, one average."""
    fig, ax = canvas(2.9, x=(0, 6.4), y=(0, 2.9))
    for row in range(8):
        look = Look(ORANGE, hatch="//") if row < 4 else Look(PINK)
        box(ax, (0.1, 2.4 - 0.26 * row - 0.2 * (row > 3)), (0.75, 0.18), look=look, line=1.2)
    ax.text(0.1, 2.68, "8 windows", fontsize=9.5)
    head = {"arrowstyle": "-|>", "lw": 1.2, "mutation_scale": 11}
    for rank, y, middle in ((0, 1.84, 1.53), (1, 0.6, 1.37)):
        ax.text(1.35, y + 0.56, f"process {rank}", fontsize=9.5)
        for x, width, text, look in (
            (1.35, 1.05, "whole model", Look(BLUE)),
            (2.76, 0.85, "gradient", PLAIN),
            (5.12, 1.2, "the same step", Look(BLUE)),
        ):
            box(ax, (x, y), (width, 0.46), text, look, radius=0.08)
        level = y + 0.23
        for start, end in (
            ((0.95, level), (1.3, level)),
            ((2.4, level), (2.72, level)),
            ((3.61, level), (3.95, middle)),
            ((4.75, middle), (5.08, level)),
        ):
            arrow(ax, start, end, **head)
    box(ax, (3.93, 1.22), (0.84, 0.46), "average", Look(GREEN), radius=0.08)
    ax.text(4.35, 0.72, "the only message", ha="center", fontsize=9)
    return fig
