"""Chapter 7: a layer, the whole stack, and what goes through it."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.teaching.drawing import (
    LATENTS,
    PREFIX,
    Look,
    arrow,
    bare,
    boundary,
    box,
    canvas,
    legend_below,
    name_parts,
    panels,
    ticks,
)
from tinyperceiver.teaching.reference import Case
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THICK = {"arrowstyle": "-|>", "mutation_scale": 11}  # looks of arrows


def draw_gelu() -> "Figure":
    """GELU beside ReLU, and how far the approximation by tanh is from the exact one."""
    x = torch.linspace(-4, 4, 401, dtype=torch.float64)
    exact = nn.functional.gelu(x)
    fig, (left, right) = panels(2.5, 1, 2)
    left.plot(x, x.relu(), color=GREY, ls="--")
    left.plot(x, exact, color=BLUE, ls="-")
    left.text(1.3, 1.9, "ReLU", color=GREY, ha="right")
    left.text(1.6, 0.8, "GELU", color=BLUE)
    left.set(title="what goes in, what comes out", xlabel="x")
    difference = nn.functional.gelu(x, approximate="tanh") - exact
    right.plot(x, 1000 * difference, color=PINK, ls="-")
    right.axhline(0, color=INK, lw=0.6)
    right.set(title="approximation − exact, × 1000", xlabel="x")
    return fig


def draw_journey(journeys: dict[str, tuple[list[float], list[float]]]) -> "Figure":
    """How large rows are after each layer, and how different from each other.

    Args:
        journeys: by wiring, size and difference after each layer.
    """
    looks = (
        Look(GREY, "s"), Look(PINK, "^", "--"), Look(ORANGE, "v", "-."), Look(GREEN, "D", ":"),
        Look(BLUE),
    )  # fmt: skip
    fig, axes = panels(3.5, 1, 2)
    titles = "size of a row", "difference between rows,\nas a share of their size"
    for which, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for (name, journey), look in zip(journeys.items(), looks, strict=True):
            layers, style = (
                range(1, len(journey[which]) + 1),
                {"color": look.color, "ls": look.dash},
            )
            ax.plot(layers, journey[which], look.marker, ms=4, markevery=3, label=name, **style)
        ax.set(yscale="log", xlabel="after layer", title=title, xticks=[1, 5, 10, 15, 19])
    legend_below(fig)
    return fig


def draw_layer() -> "Figure":
    """One layer: the stream along the bottom, what is added to it above."""
    fig, ax = canvas(3.0, (0, 6.4), (0, 3.0))
    stream, top = 0.55, 1.75
    arrow(ax, (0.1, stream), (6.3, stream), BLUE, lw=3, **THICK)
    for x, text, at in (
        (0.1, "x, (B, l, D)", "left"),
        (3.2, "residual stream", "center"),
        (6.3, "x, (B, l, D)", "right"),
    ):
        ax.text(x, stream - 0.36, text, fontsize=9.5, ha=at)
    for x, parts in (
        (0.7, [(0.55, "norm"), (0.95, "attention")]),
        (3.1, [(0.55, "norm"), (0.5, "up"), (0.55, "GELU"), (0.6, "down")]),
    ):
        ax.plot([x, x], [stream, top], "-", color=INK, lw=1.2)
        for width, name in parts:
            arrow(ax, (x, top), (x + 0.13, top), **THICK)
            box(ax, (x + 0.13, top - 0.2), (width, 0.4), name, radius=0.08)
            x += 0.13 + width
        ax.plot([x, x + 0.15], [top, top], "-", color=INK, lw=1.2)
        arrow(ax, (x + 0.15, top), (x + 0.15, stream + 0.11), **THICK)
        ax.plot(x + 0.15, stream, "o", color=BLUE, ms=13)
        ax.text(x + 0.15, stream - 0.015, "+", ha="center", va="center", fontsize=12)
        ax.text(x + 0.05, 1.1, "dropout", fontsize=9, ha="right", alpha=0.8)
    arrow(ax, (1.85, 2.6), (1.85, top + 0.21), ORANGE, lw=1.6, **THICK)
    prefix = "hybrid layer only: prefix, (B, m, D)"
    ax.text(0.1, 2.74, prefix, fontsize=9.5, color=ORANGE)
    ax.text(4.48, 2.2, "(B, l, 4 D)", fontsize=9.5, ha="center")
    return fig


def draw_stack(config: PerceiverConfig) -> "Figure":
    """The whole model from tokens to logits, with shapes of a full window."""
    fig, ax = canvas(4.7, (0, 6.4), (0, 4.7))
    m, l, D = config.max_prefix_len, config.max_latents, config.num_channels
    left, middle, right = 0.15, 2.15, 4.15  # prefix from left, latents from middle
    for x, look in ((left, PREFIX._replace(dash="-")), (middle, LATENTS)):
        for y, height in ((0.45, 0.2), (1.1, 0.32)):
            for i in range(8):
                box(ax, (x + 0.25 * i, y), (0.2, height), look=look, line=1.2)
    name_parts(ax, (left, middle), 0.22, ha="left", weight="normal", size=10)
    rotating, last = config.num_rotary_layers, config.num_self_attention_layers
    layers = f"layer 1 to {rotating}" if rotating > 1 else "layer 1"
    for y, x, name in (
        (1.75, left, "hybrid layer"),
        (2.4, middle, f"self-attention {layers}"),
        (3.05, middle, f"layers {rotating + 1} to {last}"),
        (3.7, middle, r"norm, then $E^\top$"),
    ):
        box(ax, (x, y), (right - 0.05 - x, 0.36), name, radius=0.08)
    for x, color, heights in (
        (3.12, BLUE, (0.7, 1.47, 2.16, 2.81, 3.46, 4.11)),
        (1.12, ORANGE, (0.7, 1.47)),
    ):
        for y in heights:
            arrow(ax, (x, y), (x, y + 0.24), color, lw=2.2, **THICK)
    ax.text(1.12, 2.5, "the prefix ends here", color=ORANGE, fontsize=9.5, ha="center")
    ax.text(2.98, 0.78, "embedding $E$", fontsize=9.5, ha="right")
    for y, text in (
        (0.47, f"tokens, (B, {m + l:,})"),
        (1.18, f"(B, {m + l:,}, {D})"),
        (1.85, f"(B, {l:,}, {D}), rotates"),
        (2.5, f"(B, {l:,}, {D}), rotates"),
        (3.15, f"(B, {l:,}, {D})"),
        (4.4, f"logits, (B, {l:,}, {config.vocab_size})"),
    ):
        ax.text(right + 0.1, y, text, fontsize=9.5)
    return fig


def _tokens(
    ax: "Axes", y: float, numbers: dict[int, str], m: int, left_out: tuple[int, ...] = ()
) -> None:
    """A row of boxes: place -> text, with a gap between a prefix of m and the latents."""
    for place, text in numbers.items():
        look = Look(LATENTS.color if place >= m else PREFIX.color)
        if place in left_out:
            look = Look(GREY, dash="--")
        box(ax, (0.5 * place + 0.15 * (place >= m), y), (0.4, 0.34), text, look)


def draw_padding(position: Tensor, pads: Tensor, num_latents: int) -> "Figure":
    """Rows of a batch with padding on the left, each token with its position."""
    B, n = pads.shape
    m = n - num_latents
    fig, ax = canvas(0.5 * B + 0.5, (-1.1, 5.3), (-0.12, 0.5 * B + 0.38))
    for row in range(B):
        y, count = 0.5 * (B - 1 - row), int(pads[row].sum())
        texts = ["pad"] * count + [f"{p}" for p in position[row, count:].tolist()]
        _tokens(ax, y, dict(enumerate(texts)), m, tuple(range(count)))
        ax.text(-0.9, y + 0.17, f"row {row}", va="center")
        ax.text(0.5 * n + 0.35, y + 0.17, f"{n - count} tokens", va="center")
    look = {"ha": "left", "weight": "normal", "size": 10}
    name_parts(ax, (0, 0.5 * m + 0.15), 0.5 * B + 0.1, **look)
    return fig


def draw_kept(kept: list[int], prefix_len: int, num_latents: int) -> "Figure":
    """A prefix of which some is left out, and two ways to number the rest."""
    n = prefix_len + num_latents
    read = [*kept, *range(prefix_len, n)]
    left_out = tuple(place for place in range(n) if place not in read)
    fig, ax = canvas(2.05, (-1.4, 5.3), (-0.1, 1.85))
    for y, name, numbers in (
        (1.0, "all places", {place: str(place) for place in range(n)}),
        (0.5, "numbered before", {place: str(place) for place in read}),
        (0.0, "numbered after", {place: str(i) for i, place in enumerate(read)}),
    ):
        ax.text(-1.4, y + 0.17, name, va="center")
        _tokens(ax, y, numbers, prefix_len, left_out)
    look = {"ha": "left", "weight": "normal", "size": 10}
    name_parts(ax, (0, 0.5 * prefix_len + 0.15), 1.6, **look)
    return fig


def draw_parameters(parts: dict[str, int]) -> "Figure":
    """A bar for each part of a model, with the number and share of its parameters."""
    total = sum(parts.values())
    fig, ax = panels(0.42 * len(parts) + 0.5)
    bars = ax.barh(list(parts), list(parts.values()), color=BLUE, height=0.62)
    labels = [f" {n:,}  ({n / total:.1%})" for n in parts.values()]
    ax.bar_label(bars, labels, padding=2, fontsize=9.5)
    ax.set(xlim=(0, 1.45 * max(parts.values())), xticks=[])
    bare(ax)
    ax.tick_params(axis="y", labelsize=9.5)
    ax.invert_yaxis()
    return fig


def draw_agreement(cases: list[Case], first: list[Tensor], final: list[Tensor]) -> "Figure":
    """Our logits over the reference's, and the largest difference in each case."""
    fig, (left, right) = panels(3.1, 1, 2)
    padded = {i: case.pad_mask.any(dim=1) for i, case in enumerate(cases) if case.pad_mask.any()}
    for name, answers, color, marker in (
        ("first version", first, ORANGE, "v"),
        ("package", final, BLUE, "o"),
    ):
        look = {"ls": "", "color": color, "mfc": "none", "marker": marker}
        x, y = (
            torch.cat([logits[i][rows].flatten()[::97] for i, rows in padded.items()])
            for logits in ([case.logits for case in cases], answers)
        )
        left.plot(x, y, ms=4, label=name, **look)
        pairs = zip(answers, cases, strict=True)
        right.plot([(ours - case.logits).abs().max() for ours, case in pairs], ms=7, **look)
    left.set(xlabel="logits of the reference", ylabel="ours", title="rows with padding")
    left.legend(loc="upper left", handletextpad=0.1)
    right.axhline(1e-5, color=INK, lw=1, ls="--")
    right.text(2.5, 1.8e-5, "$10^{-5}$", ha="center", fontsize=9.5)
    ticks(right.xaxis, range(len(cases)), [f"{i}\npads" * (i in padded) or f"{i}" for i in
                                           range(len(cases))])  # fmt: skip
    right.set(yscale="log", ylim=(3e-7, 40), title="largest difference", xlabel="case")
    right.set_xlim(-0.5, len(cases) - 0.5)
    return fig


def draw_leak(change: Tensor, prefix_len: int) -> "Figure":
    """Which logits change with which token: `change` is (n, l), by changed token."""
    from matplotlib.colors import LogNorm

    n = len(change)
    fig, ax = panels(3.0)
    seen = np.ma.masked_less(change.T.double().numpy(), 1e-9)
    low, high = seen.min(), seen.max()
    edges = np.arange(n + 1) - 0.5, np.arange(prefix_len, n + 1) - 0.5
    # From a third of the least, so that the least is not invisible.
    drawn = ax.pcolormesh(*edges, seen, cmap=shades(BLUE), norm=LogNorm(low / 3, high))
    boundary(ax, prefix_len - 0.5)
    name_parts(ax, (prefix_len - 2.4, prefix_len + 1.6), prefix_len - 1.2, weight="normal")
    ax.set(xlabel="position of the changed token", ylabel="logits at position")
    ax.set(aspect="equal", xticks=range(0, n, 2), yticks=range(prefix_len, n, 2))
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, prefix_len - 0.5))
    bar = fig.colorbar(drawn, ax=ax, shrink=0.8, label="largest change of a logit")
    steps = [step for step in (0.1, 0.2, 0.5, 1, 2, 5) if low < step < high]
    ticks(bar.ax.yaxis, steps, [f"{step:g}" for step in steps])
    return fig


def draw_losses(losses: dict[str, list[float]]) -> "Figure":
    """Training losses, by what the model was asked for."""
    fig, ax = panels(2.7)
    for (name, values), look in zip(losses.items(), ((PINK, "--"), (BLUE, "-")), strict=True):
        ax.plot(range(1, len(values) + 1), values, color=look[0], ls=look[1])
        ax.text(len(values) + 1, max(values[-1], 0.3), name, color=look[0], va="center")
    ax.set(xlabel="training step", ylabel="loss, nats a token", ylim=(0, None))
    ax.set(xlim=(0, 1.32 * len(values)), xticks=range(0, len(values) + 1, 10))
    return fig
