"""Chapter 6: masks, layers and what they cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinyperceiver.model.attention import causal_mask
from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import STEPS_PER_SECOND
from tinyperceiver.teaching.drawing import (
    LATENTS,
    PREFIX,
    Look,
    arrow,
    bare,
    boundary,
    box,
    canvas,
    marks,
    name_parts,
    octave_ticks,
    panels,
    part_bars,
)
from tinyperceiver.teaching.music import times_of
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_window(tokens: Sequence[int], m: int) -> "Figure":
    """A piano roll of the tokens: outlines for notes that start in the prefix of m."""
    seam = times_of(tokens)[m] / STEPS_PER_SECOND
    notes = decode_midi(tokens).instruments[0].notes
    end, top = max(note.end for note in notes), max(note.pitch for note in notes) + 4
    low = min(note.pitch for note in notes) - 2
    fig, ax = panels(2.5)
    for note in notes:
        is_prefix = note.start < seam
        look = Look(PREFIX.color if is_prefix else LATENTS.color)
        size = note.end - note.start, 0.8
        box(
            ax,
            (note.start, note.pitch - 0.4),
            size,
            look=look,
            fill=not is_prefix,
            line=1,
        )
    boundary(ax, seam)
    texts = f"prefix, m = {m}", f"latents, l = {len(tokens) - m}"
    name_parts(ax, (seam / 2, (seam + end) / 2), top, texts)
    ax.set(xlim=(0, end + 0.2), ylim=(low, top + 3), xlabel="seconds")
    octave_ticks(ax, low, top)
    return fig


def draw_few_ask_many(n: int = 12, l: int = 4, layers: int = 3) -> "Figure":
    """A Perceiver in its simplest form: l latents ask n inputs, then each other."""
    fig, ax = canvas(2.9, (-0.4, n + 6.6), (-0.4, 1.2 * layers + 1))
    places = [(n - 1) * (i + 0.5) / l for i in range(l)]  # of latents
    heights = [0.0, *(1.2 * layer + 0.6 for layer in range(1, layers + 1))]
    for layer in range(layers):
        below = range(n) if layer == 0 else places
        for i in places:
            for j in below:
                ax.plot([j, i], heights[layer : layer + 2], "-", color=GREY, lw=0.6)
    ax.plot(range(n), [0] * n, "o", color=INK, mfc="none", ms=8)
    for height in heights[1:]:
        ax.plot(places, [height] * l, LATENTS.marker, color=LATENTS.color, ms=9)
    notes = {
        0: f"n = {n} inputs",
        0.9: f"cross-attention: l · n = {l * n} pairs",
        1.8: f"l = {l} latents",
        2.4: f"self-attention: l² = {l * l} pairs",
        3.6: f"again: {l * l} pairs, and so on",
    }
    for height, text in notes.items():
        ax.text(n + 0.2, height, text, va="center", fontsize=9)
    return fig


def draw_pads(m: int, l: int, pads: Sequence[int]) -> "Figure":
    """Who hears padding: for each number of pads the mask of layer 1 and, above, the next."""
    n, gap = m + l, l + 1.0
    fig, axes = panels(2.9, 1, len(pads), sharey=True)
    for ax, count in zip(axes, pads, strict=True):
        is_pad = torch.arange(n) < count
        first = causal_mask(l, n, is_pad[None])[0, 0]
        for mask, left, top in ((first, 0, gap), (causal_mask(l, l), m, 0.0)):
            hears = mask & is_pad[left:]
            marks(ax, mask & ~hears, m - left, 6, at=(left, top))
            i, j = hears.nonzero(as_tuple=True)
            ax.plot(left + j, top + i, "X", ls="none", color=PINK, ms=7, mew=0)
        boundary(ax, m - 0.5)
        ax.set(title=f"{count} pads", xticks=[], ylim=(gap + l + 1.1, -0.6))
        ax.text(m - 0.9, l / 2 - 0.5, "the layer above", ha="right", va="center")
        for j in range(n):
            text, color, turn = ("pad", PINK, 90) if is_pad[j] else ("♪", INK, 0)
            ax.text(j, gap + l + 0.1, text, ha="center", va="center", rotation=turn,
                    color=color, fontsize=9)  # fmt: skip
        bare(ax)
    rows = [top + i for top in (0, gap) for i in range(l)]
    axes[0].set_yticks(rows, [f"i = {i}" for _ in range(2) for i in range(l)])
    axes[0].set_ylabel("queries")
    return fig


def draw_mask(mask: Tensor, names: Sequence[str]) -> "Figure":
    """A hybrid mask, (l, n), with the names of its n tokens beside rows and columns."""
    l, n = mask.shape
    m = n - l
    fig, ax = panels(1.9 + 0.36 * l)
    marks(ax, mask, m, 14)
    boundary(ax, m - 0.5)
    ax.plot(range(m, n), range(l), "s", color=INK, ms=19, mfc="none")  # own keys
    for i in range(l):
        ax.text(n - 0.2, i, f"sees {int(mask[i].sum())}", va="center", fontsize=9)
    columns = [f"{j}: {name}" for j, name in enumerate(names)]
    ax.set_xticks(range(n), columns, rotation=50, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.set_yticks(range(l), [f"i = {i}: {names[m + i]}" for i in range(l)])
    name_parts(ax, ((m - 1) / 2, m + (l - 1) / 2), l - 0.2)
    ax.set(xlim=(-0.6, n - 0.4), ylim=(l + 0.1, -0.75), ylabel="queries")
    bare(ax)
    return fig


def draw_heard(found: dict[str, Tensor], m: int) -> "Figure":
    """Measured masks side by side: title -> (l, n), True where an output moved."""
    fig, axes = panels(1.75, 1, len(found), sharey=True)
    for ax, (title, moved) in zip(axes, found.items(), strict=True):
        l, n = moved.shape
        marks(ax, moved, m, 6.5)
        boundary(ax, m - 0.5)
        ax.set(title=title, xticks=[0, m, n - 1], yticks=range(l))
        ax.set(xlim=(-0.6, n - 0.4), ylim=(l - 0.4, -0.6), xlabel="position changed")
        bare(ax)
    axes[0].set_ylabel("output")
    return fig


def draw_normed(before: Tensor, after: Tensor, labels: Sequence[str]) -> "Figure":
    """The channels of a few tokens, (tokens, D) each, before a LayerNorm and after it."""
    fig, axes = panels(2.3, 1, 2, sharey=True)
    titled = {"before": before, "after": after}
    for ax, (title, values) in zip(axes, titled.items(), strict=True):
        looks = zip(values, (GREEN, PINK, GREY, INK), "osD^", strict=False)
        for row, (channels, color, mark) in enumerate(looks):
            at = [row] * len(channels)
            ax.plot(channels, at, mark, color=color, ms=5, alpha=0.55)
            mean = channels.mean()
            ax.plot([mean, mean], [row - 0.33, row + 0.33], color=INK, lw=2, ls="-")
        ax.set(title=title, xlabel="value of a channel", ylim=(len(values) - 0.5, -0.5))
    axes[0].set_yticks(range(len(before)), labels)
    return fig


def draw_softmaxes(rows: dict[str, Tensor], m: int) -> "Figure":
    """Weights of one query over n keys as bars: title -> (n,)."""
    fig, axes = panels(2.2, 1, len(rows), sharey=True)
    for ax, (title, weights) in zip(axes, rows.items(), strict=True):
        n = len(weights)
        part_bars(ax, weights, m)
        sums = f"prefix {weights[:m].sum():.2f}", f"latents {weights[m:].sum():.2f}"
        name_parts(ax, ((m - 1) / 2, (m + n - 1) / 2), 1.04, sums, weight="normal", size=9)
        ax.set(title=title, xlabel="key", ylim=(0, 1.1), xticks=[0, m, n - 1])
    axes[0].set(ylabel="weight", yticks=[0, 0.5, 1])
    return fig


def draw_layer() -> "Figure":
    """What goes where in the hybrid layer and in those above it, with shapes."""
    fig, ax = canvas(4.6, (-0.1, 11.3), (-0.1, 7.55))
    old, new, both = Look(ORANGE, dash="--"), Look(BLUE), Look(INK)
    for x, y, width, text, look in (
        (0, 0, 6.6, "prefix (m, D)", old),
        (6.9, 0, 3.3, "x: latents (l, D)", new),
        (0, 1.3, 6.6, "prefix_norm", old),
        (6.9, 1.3, 3.3, "norm", new),
        (0, 2.6, 6.6, "context (n, D): m keys and values", old),
        (6.6, 2.6, 2.0, "and l more", new),
        (9.0, 2.6, 1.2, "queries\n(l, D)", new),
        (3.2, 4.1, 7.0, "attention: one softmax over n keys  (l, D)", both),
        (6.9, 5.4, 3.3, "x + output (l, D)", new),
        (6.9, 6.7, 3.3, "18 layers of\nself-attention (l, D)", new),
    ):
        box(ax, (x, y), (width, 0.72), text, look, radius=0.12)
    for x, y, to_x, to_y in (
        (3.3, 0.72, 3.3, 1.3),
        (8.55, 0.72, 8.55, 1.3),
        (3.3, 2.02, 3.3, 2.6),
        (7.6, 2.02, 7.6, 2.6),
        (9.6, 2.02, 9.6, 2.6),
        (4.3, 3.32, 5.3, 4.1),
        (9.6, 3.32, 9.6, 4.1),
        (8.55, 4.82, 8.55, 5.4),
        (8.55, 6.12, 8.55, 6.7),
    ):
        arrow(ax, (x, y), (to_x, to_y))
    ax.plot([10.2, 10.7, 10.7], [0.35, 0.35, 5.76], color=BLUE, lw=1.3, ls="-")
    arrow(ax, (10.7, 5.76), (10.2, 5.76), BLUE)
    ax.text(10.82, 3.0, "as it is", rotation=90, va="center", fontsize=9)
    ends = "The prefix ends\nin layer 1."
    ax.text(0, 6.4, ends, fontsize=9.5, va="center", color=ORANGE)
    ax.text(0, 3.62, "layer 1", fontsize=9.5)
    return fig


def draw_weights(weights: Tensor, names: Sequence[str], m: int, last: int = 24) -> "Figure":
    """How the heads of one query spread over its `last` keys: weights (H, n)."""
    H, n = weights.shape
    first = n - last
    fig, axes = panels(0.85 * H + 1.3, H, 1, sharex=True, sharey=True)
    for h, ax in enumerate(axes):
        part_bars(ax, weights[h, first:], m, first)
        ax.set_ylabel(f"head {h}", rotation=0, ha="right", va="center")
        ax.set(yticks=[0, 0.5], xlim=(first - 0.7, n - 0.3))
        prefix, unseen = weights[h, :m].sum(), weights[h, :first].sum()
        text = f"all of the prefix: {prefix:.2f}, left of this picture: {unseen:.2f}"
        ax.text(0.01, 0.8, text, transform=ax.transAxes, fontsize=9)
    axes[-1].set_xticks(range(first, n), names[first:], rotation=90, fontsize=9)
    return fig


def draw_costs(lengths: Sequence[int], curves: dict[str, Sequence[float]]) -> "Figure":
    """Pairs of query and key, in millions, over the length of the window."""
    fig, ax = panels(2.9)
    dashes = ("-", (0, (6, 2)), (0, (3, 2)), (0, (1, 1.5)))
    for (name, values), dash in zip(curves.items(), dashes, strict=False):
        millions = [value / 1e6 for value in values]
        color = INK if name == "full" else BLUE
        ax.plot(lengths, millions, color=color, ls=dash, label=name)
    ax.legend(loc="upper left")
    ax.axvline(6144, color=GREY, lw=1, ls=":")
    ax.text(6250, ax.get_ylim()[1], "6,144", va="top", fontsize=9)
    ax.set(xlabel="window n, tokens", xlim=(0, lengths[-1]))
    ax.set(ylabel="million pairs", ylim=(0, None))
    return fig
