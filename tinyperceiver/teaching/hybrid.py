"""For chapter 6: pictures of masks, layers and costs, and the checkers of its exercises."""

from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinyperceiver.attention import (
    HybridAttention,
    attend,
    attention_formula,
    causal_mask,
)
from tinyperceiver.rotary import Rotation, apply_rotation
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    interactive,
)

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "attention_weights",
    "check_audit",
    "check_cheaper_mask",
    "check_hybrid_mask",
    "check_most_latents",
    "check_readers",
    "draw_costs",
    "draw_few_ask_many",
    "draw_heard",
    "draw_layer",
    "draw_mask",
    "draw_normed",
    "draw_pads",
    "draw_softmaxes",
    "draw_weights",
    "draw_window",
    "hybrid_explorer",
    "name_of",
    "tiny_weights",
    "trained_first_layer",
]


# Figures


def name_of(token: int) -> str:
    """A token in words, as short as a figure needs it: "C4 down", "wait 100 ms"."""
    from pretty_midi import note_number_to_name

    if token < 256:
        key = note_number_to_name(token % 128)
        return f"{key} {'down' if token < 128 else 'up'}"
    if token < 356:
        return f"wait {10 * (token - 255)} ms"
    return f"velocity {4 * (token - 356)}"


def draw_window(tokens: Sequence[int], m: int) -> "Figure":
    """A piano roll of the tokens: outlines for notes that start in the prefix of m."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    from tinyperceiver.tokenizer import decode_midi

    seam = sum(token - 255 for token in tokens[:m] if 256 <= token < 356) / 100
    fig, ax = plt.subplots(figsize=(6.4, 2.5))
    notes = decode_midi(tokens).instruments[0].notes
    for note in notes:
        old = note.start < seam
        face, edge = ("none", ORANGE) if old else (BLUE, BLUE)
        corner, length = (note.start, note.pitch - 0.4), note.end - note.start
        ax.add_patch(Rectangle(corner, length, 0.8, fc=face, ec=edge, lw=1))
    end, top = max(note.end for note in notes), max(note.pitch for note in notes) + 4
    ax.axvline(seam, color=INK, lw=1, ls="--")
    for middle, text, color in (
        (seam / 2, f"prefix, m = {m}", ORANGE),
        ((seam + end) / 2, f"latents, l = {len(tokens) - m}", BLUE),
    ):
        ax.text(middle, top, text, ha="center", va="center", color=color, weight="bold")
    low = min(note.pitch for note in notes) - 2
    ax.set(xlim=(0, end + 0.2), ylim=(low, top + 3), xlabel="seconds")
    octaves = [pitch for pitch in range(36, 97, 12) if low < pitch < top]
    ax.set_yticks(octaves, [f"C{pitch // 12 - 1}" for pitch in octaves])
    return fig


def draw_few_ask_many(n: int = 12, l: int = 4, layers: int = 3) -> "Figure":
    """A Perceiver in its simplest form: l latents ask n inputs, then each other."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.9))
    places = [(n - 1) * (i + 0.5) / l for i in range(l)]  # of latents
    for top in range(1, layers + 1):
        below, height = (range(n), 0) if top == 1 else (places, 1.2 * top - 0.6)
        for i in places:
            for j in below:
                ax.plot([j, i], [height, 1.2 * top + 0.6], "-", color=GREY, lw=0.6)
    ax.plot(range(n), [0] * n, "o", color=INK, mfc="none", ms=8)
    for height in range(1, layers + 1):
        ax.plot(places, [1.2 * height + 0.6] * l, "s", color=BLUE, ms=9)
    notes = {
        0: f"n = {n} inputs",
        0.9: f"cross-attention: l · n = {l * n} pairs",
        1.8: f"l = {l} latents",
        2.4: f"self-attention: l² = {l * l} pairs",
        3.6: f"again: {l * l} pairs, and so on",
    }
    for height, text in notes.items():
        ax.text(n + 0.2, height, text, va="center", fontsize=9)
    ax.set(xlim=(-0.4, n + 6.6), ylim=(-0.4, 1.2 * layers + 1))
    ax.axis("off")
    return fig


def draw_pads(m: int, l: int, pads: Sequence[int]) -> "Figure":
    """Who hears padding: for each number of pads the mask of layer 1 and, above, the next."""
    import matplotlib.pyplot as plt

    n, gap = m + l, l + 1.0
    fig, axes = plt.subplots(1, len(pads), figsize=(6.4, 2.9), sharey=True)
    for ax, count in zip(axes, pads, strict=True):
        is_pad = torch.arange(n) < count
        masks = (  # where each grid stands, its first column, its mask
            (0.0, 0, causal_mask(l, n, is_pad[None])[0, 0]),
            (gap, m, causal_mask(l, l)),
        )
        for bottom, left, mask in masks:
            for i, row in enumerate(mask.tolist()):
                for j, sees in enumerate(row, start=left):
                    mark, color, size = ("o", ORANGE, 6) if j < m else ("s", BLUE, 6)
                    if not sees:
                        mark, color, size = ".", GREY, 3
                    elif is_pad[j]:
                        mark, color, size = "X", PINK, 7
                    ax.plot(j, bottom + l - 1 - i, mark, color=color, ms=size, mew=0)
        ax.axvline(m - 0.5, color=INK, lw=1, ls="--")
        ax.set(title=f"{count} pads", ylim=(-2.1, gap + l - 0.4))
        ax.text(m - 0.9, gap + l / 2 - 0.5, "the layer above", ha="right", va="center")
        for j in range(n):
            text, color, turn = ("pad", PINK, 90) if is_pad[j] else ("♪", INK, 0)
            ax.text(j, -1.1, text, ha="center", va="center", rotation=turn, color=color,
                    fontsize=9)  # fmt: skip
        ax.set_xticks([])
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    rows = [bottom + l - 1 - i for bottom in (0, gap) for i in range(l)]
    axes[0].set_yticks(rows, [f"i = {i}" for _ in range(2) for i in range(l)])
    axes[0].set_ylabel("queries")
    return fig


def _dots(ax: "Axes", mask: Tensor, m: int, size: float) -> None:
    """A mask as marks: circles for keys of the prefix, squares for latents, specks for no."""
    for i, row in enumerate(mask.tolist()):
        for j, sees in enumerate(row):
            color, marker = (ORANGE, "o") if j < m else (BLUE, "s")
            if sees:
                ax.plot(j, i, marker, color=color, ms=size, mew=0)
            else:
                ax.plot(j, i, ".", color=GREY, ms=3, mew=0)
    if 0 < m < mask.size(1):
        ax.axvline(m - 0.5, color=INK, lw=1, ls="--")
    ax.set(xlim=(-0.6, mask.size(1) - 0.4), ylim=(mask.size(0) - 0.4, -0.6))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_mask(mask: Tensor, names: Sequence[str]) -> "Figure":
    """A hybrid mask, (l, n), with the names of its n tokens beside rows and columns."""
    import matplotlib.pyplot as plt

    l, n = mask.shape
    m = n - l
    fig, ax = plt.subplots(figsize=(6.4, 1.9 + 0.36 * l))
    _dots(ax, mask, m, 14)
    for i in range(l):  # its own key
        ax.plot(m + i, i, "s", ms=19, mfc="none", mec=INK, mew=1.2)
        ax.text(n - 0.2, i, f"sees {int(mask[i].sum())}", va="center", fontsize=9)
    ax.set_xticks(
        range(n), [f"{j}: {name}" for j, name in enumerate(names)], rotation=50
    )
    ax.xaxis.tick_top()
    for label in ax.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    ax.set_yticks(range(l), [f"i = {i}: {names[m + i]}" for i in range(l)])
    middle = -0.5 + m / 2, m - 0.5 + l / 2
    for x, text, color in zip(
        middle, ("prefix", "latents"), (ORANGE, BLUE), strict=True
    ):
        ax.text(x, l - 0.2, text, ha="center", va="center", color=color, weight="bold")
    ax.set_ylim(l + 0.1, -0.75)
    ax.set_ylabel("queries")
    return fig


def draw_heard(panels: dict[str, Tensor], m: int) -> "Figure":
    """Measured masks side by side: title -> (l, n), True where an output moved."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(6.4, 1.75), sharey=True)
    for ax, (title, moved) in zip(axes, panels.items(), strict=True):
        l, n = moved.shape
        _dots(ax, moved, m, 6.5)
        ax.set(title=title, xticks=[0, m, n - 1], yticks=range(l))
        ax.set_xlabel("position changed")
    axes[0].set_ylabel("output")
    return fig


def draw_normed(before: Tensor, after: Tensor, labels: Sequence[str]) -> "Figure":
    """The channels of a few tokens, (tokens, D) each, before a LayerNorm and after it."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.3), sharey=True)
    for ax, values, title in zip(
        axes, (before, after), ("before", "after"), strict=True
    ):
        for row, (channels, color, mark) in enumerate(
            zip(values.tolist(), (GREEN, PINK, GREY, INK), "osD^", strict=False)
        ):
            ax.plot(
                channels, [row] * len(channels), mark, color=color, ms=5, alpha=0.55
            )
            mean = sum(channels) / len(channels)
            ax.plot([mean, mean], [row - 0.33, row + 0.33], color=INK, lw=2, ls="-")
        ax.set(title=title, xlabel="value of a channel", ylim=(len(values) - 0.5, -0.5))
    axes[0].set_yticks(range(len(before)), labels)
    return fig


def draw_softmaxes(rows: dict[str, Tensor], m: int) -> "Figure":
    """Weights of one query over n keys as bars: title -> (n,)."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(rows), figsize=(6.4, 2.2), sharey=True)
    for ax, (title, weights) in zip(axes, rows.items(), strict=True):
        for j, weight in enumerate(weights.tolist()):
            color, hatch = (ORANGE, "//") if j < m else (BLUE, None)
            ax.bar(
                j,
                weight,
                color="none" if hatch else color,
                edgecolor=color,
                hatch=hatch,
            )
        ax.axvline(m - 0.5, color=INK, lw=1, ls="--")
        before, after = weights[:m].sum().item(), weights[m:].sum().item()
        for middle, text, color in (
            (m / 2, f"prefix {before:.2f}", ORANGE),
            ((m + len(weights)) / 2, f"latents {after:.2f}", BLUE),
        ):
            ax.text(middle - 0.5, 1.0, text, ha="center", color=color, fontsize=9)
        ax.set(
            title=title, xlabel="key", ylim=(0, 1.1), xticks=[0, m, len(weights) - 1]
        )
    axes[0].set(ylabel="weight", yticks=[0, 0.5, 1])
    return fig


def draw_layer() -> "Figure":
    """What goes where in the hybrid layer and in those above it, with shapes."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    fig, ax = plt.subplots(figsize=(6.4, 4.6))

    def box(
        x: float, y: float, width: float, text: str, color: str, dash: str = "-"
    ) -> None:
        shape = FancyBboxPatch(
            (x, y),
            width,
            0.72,
            boxstyle="round,pad=0,rounding_size=.12",
            mutation_aspect=0.8,
        )
        shape.set(facecolor="none", edgecolor=color, linewidth=1.6, linestyle=dash)
        ax.add_patch(shape)
        ax.text(x + width / 2, y + 0.35, text, ha="center", va="center", fontsize=9.5)

    def arrow(x: float, y: float, to_x: float, to_y: float, color: str = INK) -> None:
        style = {
            "arrowstyle": "->",
            "color": color,
            "lw": 1.3,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        ax.annotate("", (to_x, to_y), (x, y), arrowprops=style)

    box(0, 0, 6.6, "prefix (m, D)", ORANGE, "--")
    box(6.9, 0, 3.3, "x: latents (l, D)", BLUE)
    box(0, 1.3, 6.6, "prefix_norm", ORANGE, "--")
    box(6.9, 1.3, 3.3, "norm", BLUE)
    box(0, 2.6, 6.6, "context (n, D): m keys and values", ORANGE, "--")
    box(6.6, 2.6, 2.0, "and l more", BLUE)
    box(9.0, 2.6, 1.2, "queries\n(l, D)", BLUE)
    box(3.2, 4.1, 7.0, "attention: one softmax over n keys  (l, D)", INK)
    box(6.9, 5.4, 3.3, "x + output (l, D)", BLUE)
    box(6.9, 6.7, 3.3, "18 layers of\nself-attention (l, D)", BLUE)
    for x in (3.3, 8.55):
        arrow(x, 0.72, x, 1.3)
    arrow(3.3, 2.02, 3.3, 2.6)
    arrow(7.6, 2.02, 7.6, 2.6)
    arrow(9.6, 2.02, 9.6, 2.6)
    arrow(4.3, 3.32, 5.3, 4.1)
    arrow(9.6, 3.32, 9.6, 4.1)
    arrow(8.55, 4.82, 8.55, 5.4)
    arrow(8.55, 6.12, 8.55, 6.7)
    ax.plot([10.2, 10.7, 10.7], [0.35, 0.35, 5.76], color=BLUE, lw=1.3, ls="-")
    arrow(10.7, 5.76, 10.2, 5.76, BLUE)
    ax.text(10.82, 3.0, "as it is", rotation=90, va="center", fontsize=9)
    ax.text(
        0, 6.4, "The prefix ends\nin layer 1.", fontsize=9.5, va="center", color=ORANGE
    )
    ax.text(0, 3.62, "layer 1", fontsize=9.5)
    ax.set(xlim=(-0.1, 11.3), ylim=(-0.1, 7.55))
    ax.axis("off")
    return fig


def draw_weights(
    weights: Tensor, names: Sequence[str], m: int, last: int = 24
) -> "Figure":
    """How the heads of one query spread over its `last` keys: weights (H, n)."""
    import matplotlib.pyplot as plt

    H, n = weights.shape
    fig, axes = plt.subplots(
        H, 1, figsize=(6.4, 0.85 * H + 1.1), sharex=True, sharey=True
    )
    for h, ax in enumerate(axes):
        for j in range(n - last, n):
            color, hatch = (ORANGE, "///") if j < m else (BLUE, None)
            face = "none" if hatch else color
            ax.bar(j, weights[h, j].item(), color=face, edgecolor=color, hatch=hatch)
        ax.axvline(m - 0.5, color=INK, lw=1, ls="--")
        ax.set_ylabel(f"head {h}", rotation=0, ha="right", va="center")
        ax.set(yticks=[0, 0.5], xlim=(n - last - 0.7, n - 0.3))
        share = weights[h, :m].sum().item()
        unseen = weights[h, : n - last].sum().item()
        ax.text(
            0.01,
            0.8,
            f"all of the prefix: {share:.2f}, left of this picture: {unseen:.2f}",
            transform=ax.transAxes,
            fontsize=9,
        )
    axes[-1].set_xticks(range(n - last, n), names[n - last :], rotation=90, fontsize=9)
    return fig


def draw_costs(lengths: Sequence[int], curves: dict[str, Sequence[float]]) -> "Figure":
    """Pairs of query and key, in millions, over the length of the window."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.9))
    dashes = ("-", (0, (6, 2)), (0, (3, 2)), (0, (1, 1.5)))
    for (name, values), dash in zip(curves.items(), dashes, strict=False):
        color = INK if name == "full" else BLUE
        ax.plot(
            lengths, [value / 1e6 for value in values], color=color, ls=dash, label=name
        )
    ax.legend(loc="upper left")
    ax.axvline(6144, color=GREY, lw=1, ls=":")
    ax.text(6250, ax.get_ylim()[1], "6,144", va="top", fontsize=9)
    ax.set(
        xlabel="window n, tokens",
        ylabel="million pairs",
        ylim=(0, None),
        xlim=(0, lengths[-1]),
    )
    return fig


# A trained layer


def tiny_weights() -> dict[str, Tensor]:
    """The weights of the shipped checkpoint "tiny", in float32, under our names."""
    from safetensors.torch import load

    file = resources.files("tinyperceiver") / "assets" / "tiny" / "model.safetensors"
    return {name: tensor.float() for name, tensor in load(file.read_bytes()).items()}


def trained_first_layer() -> tuple[Tensor, dict[str, Tensor]]:
    """From the checkpoint that ships: its embedding, (V, D), and its hybrid layer's weights.

    The weights are named as `HybridAttention(256, 4)` names them.
    """
    weights = tiny_weights()
    start = "hybrid_layer.attention."
    layer = {
        name.removeprefix(start): value
        for name, value in weights.items()
        if name.startswith(start)
    }
    return weights["embedding.weight"], layer


@torch.inference_mode()
def attention_weights(
    layer: HybridAttention, x: Tensor, prefix: Tensor, rotation: Rotation
) -> Tensor:
    """The weights inside a hybrid layer, one batch row: (H, l, n)."""
    x = layer.norm(x)
    context = torch.cat((layer.prefix_norm(prefix), x), dim=1)
    inner, l, n = layer.attention, x.size(1), context.size(1)
    q = inner._split_heads(inner.query(x))
    k = inner._split_heads(inner.key(context))
    q = apply_rotation(q, tuple(part[:, -l:] for part in rotation))
    k = apply_rotation(k, rotation)
    # Values that name their own key: what attention mixes of them are its weights.
    names = torch.eye(n).expand(1, inner.num_heads, n, n)
    return attend(q, k, names)[0]


# The mask to play with

MOST_PREFIX, MOST_LATENTS, LAYERS, WINDOW = 16, 8, 18, 6144
WIDTH, HEIGHT, LEFT, TOP = 360, 120, 50, 84  # of the grid, in the drawing's own units


def _pairs(m: int, l: int) -> tuple[int, int, int]:
    """Pairs of layer 1, of the self-attention layers above it, and of full attention."""
    n = m + l
    return (
        l * m + l * (l + 1) // 2,
        LAYERS * l * (l + 1) // 2,
        (LAYERS + 1) * n * (n + 1) // 2,
    )


def _grid(m: int, l: int, query: int) -> str:
    """The mask as SVG elements, as large as its place allows, one query's row marked."""
    cell = min(WIDTH / (m + l), HEIGHT / l, 30)
    parts = []
    for i in range(l):
        y, here = TOP + cell * (i + 0.5), i == query
        weight, strength = (700, 1) if here else (400, 0.45)
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end" '
            f'font-weight="{weight}">i = {i}</text>'
        )
        for j in range(m + l):
            x = LEFT + cell * (j + 0.5)
            if j > i + m:
                parts.append(
                    f'<circle cx="{x:g}" cy="{y:g}" r="1.5" fill="currentColor" opacity=".5"/>'
                )
            elif j < m:
                parts.append(
                    f'<circle cx="{x:g}" cy="{y:g}" r="{0.4 * cell:g}" fill="{ORANGE}" '
                    f'opacity="{strength}"/>'
                )
            else:
                parts.append(
                    f'<rect x="{x - 0.4 * cell:g}" y="{y - 0.4 * cell:g}" '
                    f'width="{0.8 * cell:g}" height="{0.8 * cell:g}" fill="{BLUE}" '
                    f'opacity="{strength}"/>'
                )
    parts.append(
        f'<rect x="{LEFT - 2}" y="{TOP + cell * query:g}" width="{cell * (m + l) + 4:g}" '
        f'height="{cell:g}" fill="none" stroke="currentColor"/>'
    )
    return "".join(parts)


def _bars(m: int, l: int) -> str:
    """Pairs of the two stacks as bars, full attention as wide as the drawing."""
    first, above, full = _pairs(m, l)
    a, b = 360 * l * m / full, 360 * (first + above - l * m) / full
    return (
        f'<rect x="{LEFT}" y="32" width="360" height="12" fill="{GREY}" opacity=".6"/>'
        f'<rect x="{LEFT}" y="50" width="{a:.2f}" height="12" fill="{ORANGE}"/>'
        f'<rect x="{LEFT + a:.2f}" y="50" width="{b:.2f}" height="12" fill="{BLUE}"/>'
    )


def _seen(m: int, l: int, query: int) -> str:
    """What one query sees, in a sentence."""
    hidden = l - 1 - query
    later = f"{hidden} later latent{'s are' if hidden != 1 else ' is'} hidden"
    return (
        f"Query i = {query} stands at position {query + m}. It sees the keys "
        f"j ≤ {query} + {m} = {query + m}: {m} of the prefix and {query + 1} of the latents, "
        f"itself the last; {later}."
    )


def _table(m: int, l: int) -> str:
    """Pairs of this window, and of one of the released model's length, in one proportion."""
    large_m = round(WINDOW * m / (m + l))
    small, large = _pairs(m, l), _pairs(large_m, WINDOW - large_m)
    rows = [("tokens: m + l", f"{m} + {l}", f"{large_m:,} + {WINDOW - large_m:,}")]
    columns = [(a, b, a + b, full) for a, b, full in (small, large)]
    names = (
        "layer 1",
        f"{LAYERS} layers above",
        "together",
        f"full attention, {LAYERS + 1} layers",
    )
    for name, here, there in zip(names, *columns, strict=True):
        rows.append((name, f"{here:,}", f"{there:,}"))
    shares = [f"{100 * together / full:.1f} %" for *_, together, full in columns]
    rows.append(("hybrid, of full attention", *shares))
    cells = "".join(
        '<tr><th scope="row" style="text-align:left;font-weight:400;padding:0 .6em 0 0">'
        f"{name}</th>"
        f'<td style="text-align:right;padding:0 0 0 .6em">{here}</td>'
        f'<td style="text-align:right;padding:0 0 0 .6em">{there}</td></tr>'
        for name, here, there in rows
    )
    return cells


def hybrid_explorer(m: int = 8, l: int = 4, query: int = 1) -> "HTML":
    """Drag prefix and latents, and watch the mask and the pairs that it costs."""
    height = TOP + HEIGHT + 4
    label = (
        "A mask with a row for each latent and a column for each position. A row sees the whole "
        "prefix and the latents up to itself. Above, two bars compare the pairs of all 19 "
        "layers with those of full attention."
    )
    picture = (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {LEFT + WIDTH + 6} {height}" '
        'font-size="12.5" fill="currentColor" '
        'style="display:block;width:100%;max-width:620px;height:auto" '
        'xmlns="http://www.w3.org/2000/svg">'
        f'<circle cx="{LEFT + 6}" cy="10" r="6" fill="{ORANGE}"/>'
        f'<text x="{LEFT + 16}" y="14">key of the prefix</text>'
        f'<rect x="{LEFT + 134}" y="4" width="12" height="12" fill="{BLUE}"/>'
        f'<text x="{LEFT + 150}" y="14">key of a latent</text>'
        f'<circle cx="{LEFT + 258}" cy="10" r="1.3" opacity=".6"/>'
        f'<text x="{LEFT + 266}" y="14">hidden</text>'
        f'<text x="{LEFT - 8}" y="42" text-anchor="end">full</text>'
        f'<text x="{LEFT - 8}" y="60" text-anchor="end">hybrid</text>'
        f'<g class="bars">{_bars(m, l)}</g><g class="grid">{_grid(m, l, query)}</g></svg>'
        f'<p class="seen" aria-live="polite" style="margin:.4em 0">{_seen(m, l, query)}</p>'
        '<table style="font-size:.9em;font-variant-numeric:tabular-nums;width:auto">'
        '<thead><tr><th style="text-align:left;padding:0">pairs</th>'
        '<th style="text-align:right;padding:0 0 0 .6em">this window</th>'
        '<th style="text-align:right;padding:0 0 0 .6em">6,144 tokens</th></tr></thead>'
        f'<tbody class="costs">{_table(m, l)}</tbody></table>'
    )
    sliders = (
        ("m", "prefix m", 0, MOST_PREFIX, m),
        ("l", "latents l", 1, MOST_LATENTS, l),
        ("i", "query row i", 0, l - 1, query),
    )
    controls = "".join(
        f'<label style="display:flex;gap:.6em;align-items:center;max-width:30em">'
        f'<span style="flex:0 0 6.5em">{text}</span>'
        f'<input type="range" name="{name}" min="{low}" max="{high}" value="{value}" '
        f'style="flex:1;min-width:0"><output style="flex:0 0 1.6em">{value}</output></label>'
        for name, text, low, high, value in sliders
    )
    values = {
        "WIDTH": WIDTH,
        "HEIGHT": HEIGHT,
        "LEFT": LEFT,
        "TOP": TOP,
        "LAYERS": LAYERS,
        "WINDOW": WINDOW,
    }
    values |= {"ORANGE": f'"{ORANGE}"', "BLUE": f'"{BLUE}"', "GREY": f'"{GREY}"'}
    constants = "".join(f"const {name} = {value};\n" for name, value in values.items())
    return interactive(
        "hybrid-explorer",
        picture,
        controls,
        constants + EXPLORER,
        "Make the prefix empty: the triangle of plain causal attention is left. "
        "Make one latent: a row without a hidden key. Then keep the window at 20 and go from 4 "
        "latents to 8: which line of the table less than doubles, which more than triples, "
        "and why?",
    )


# The same picture in the browser: `_grid`, `_bars`, `_seen` and `_table` once more.
EXPLORER = """
const input = name => controls.querySelector(`[name=${name}]`);
const part = name => picture.querySelector("." + name);
const text = number => number.toLocaleString("en-US");
const pairs = (m, l) => {
  const n = m + l;
  return [l * m + l * (l + 1) / 2, LAYERS * l * (l + 1) / 2, (LAYERS + 1) * n * (n + 1) / 2];
};
const grid = (m, l, query) => {
  const cell = Math.min(WIDTH / (m + l), HEIGHT / l, 30);
  let out = "";
  for (let i = 0; i < l; i++) {
    const y = TOP + cell * (i + 0.5), here = i === query, strength = here ? 1 : 0.45;
    out += `<text x="${LEFT - 8}" y="${y + 4}" text-anchor="end"
      font-weight="${here ? 700 : 400}">i = ${i}</text>`;
    for (let j = 0; j < m + l; j++) {
      const x = LEFT + cell * (j + 0.5);
      if (j > i + m)
        out += `<circle cx="${x}" cy="${y}" r="1.5" fill="currentColor" opacity=".5"/>`;
      else if (j < m)
        out += `<circle cx="${x}" cy="${y}" r="${0.4 * cell}" fill="${ORANGE}"
          opacity="${strength}"/>`;
      else
        out += `<rect x="${x - 0.4 * cell}" y="${y - 0.4 * cell}" width="${0.8 * cell}"
          height="${0.8 * cell}" fill="${BLUE}" opacity="${strength}"/>`;
    }
  }
  return out + `<rect x="${LEFT - 2}" y="${TOP + cell * query}" width="${cell * (m + l) + 4}"
    height="${cell}" fill="none" stroke="currentColor"/>`;
};
const bars = (m, l) => {
  const [first, above, full] = pairs(m, l), a = 360 * l * m / full,
    b = 360 * (first + above - l * m) / full;
  return `<rect x="${LEFT}" y="32" width="360" height="12" fill="${GREY}" opacity=".6"/>
    <rect x="${LEFT}" y="50" width="${a}" height="12" fill="${ORANGE}"/>
    <rect x="${LEFT + a}" y="50" width="${b}" height="12" fill="${BLUE}"/>`;
};
const seen = (m, l, query) => {
  const hidden = l - 1 - query;
  return `Query i = ${query} stands at position ${query + m}. It sees the keys ` +
    `j ≤ ${query} + ${m} = ${query + m}: ${m} of the prefix and ${query + 1} of the latents, ` +
    `itself the last; ${hidden} later latent${hidden === 1 ? " is" : "s are"} hidden.`;
};
const costs = (m, l) => {
  const M = Math.round(WINDOW * m / (m + l)), rows = part("costs").rows;
  [pairs(m, l), pairs(M, WINDOW - M)].forEach(([first, above, full], column) => {
    const share = (100 * (first + above) / full).toFixed(1) + " %";
    const tokens = column ? `${text(M)} + ${text(WINDOW - M)}` : `${m} + ${l}`;
    [tokens, ...[first, above, first + above, full].map(text), share]
      .forEach((value, row) => { rows[row].cells[column + 1].textContent = value; });
  });
};
const update = () => {
  const m = +input("m").value, l = +input("l").value;
  input("i").max = l - 1;
  const query = Math.min(+input("i").value, l - 1);
  part("grid").innerHTML = grid(m, l, query);
  part("bars").innerHTML = bars(m, l);
  part("seen").textContent = seen(m, l, query);
  costs(m, l);
  for (const label of controls.querySelectorAll("label"))
    label.querySelector("output").value = label.querySelector("input").value;
};
controls.addEventListener("input", update);
"""


# Exercises


def _as_mask(answer: object, m: int, l: int) -> Tensor:
    """What an answer returned, as (l, m + l) booleans, or a `Mistake` in words."""
    try:
        if isinstance(answer, (list, tuple)):  # of lists, or of tensors
            answer = torch.stack([torch.as_tensor(row) for row in answer])
        mask = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(
            f"for m = {m}, l = {l} it returns a {type(answer).__name__} that is no table: return "
            "l rows of m + l values, True or False, all rows of one length."
        ) from None
    if tuple(mask.shape) != (l, m + l):
        raise Mistake(
            f"for m = {m}, l = {l} the mask has the shape {tuple(mask.shape)}, not {(l, m + l)}: "
            "a row for each latent, a column for each position of the window."
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise Mistake("the mask holds other values than True and False.")
    return mask.bool()


@checker
def check_hybrid_mask(answer: Callable) -> str:
    for m, l in ((8, 4), (1, 3), (0, 5), (6, 1), (2, 7)):
        mask, right = _as_mask(answer(m, l), m, l), causal_mask(l, m + l)
        if torch.equal(mask, right):
            continue
        where = f"m = {m}, l = {l}"
        if torch.equal(mask, ~right):
            raise Mistake(
                f"for {where} True and False are exchanged: True is for a key that is seen."
            )
        if torch.equal(mask, torch.ones(l, m + l).tril().bool()):
            raise Mistake(
                f"for {where} the mask is aligned at the left: query 0 sees position 0 alone. But "
                f"it stands at position {m}. Count the queries' places from there."
            )
        if mask.all():
            raise Mistake(
                f"for {where} nothing is hidden: every latent sees the future."
            )
        if torch.equal(mask, right & ~torch.eye(l, m + l).roll(m, 1).bool()):
            raise Mistake(
                f"for {where} a latent does not see itself: compare with ≤, not with <."
            )
        i, j = (mask != right).nonzero()[0].tolist()
        word = "sees" if mask[i, j] else "does not see"
        raise Mistake(
            f"for {where} query {i}, which stands at position {i + m}, {word} position {j}."
        )
    return "Five windows, with an empty prefix and with a single latent among them."


@checker
def check_readers(answer: Callable) -> str:
    for j, m, l in ((9, 8, 4), (8, 8, 4), (11, 8, 4), (3, 8, 4), (0, 5, 2), (2, 0, 5)):
        try:
            found = [int(i) for i in answer(j, m, l)]
        except TypeError:
            raise Mistake(
                f"for j = {j}, m = {m}, l = {l} it returns no list of numbers."
            ) from None
        where = f"for j = {j}, m = {m}, l = {l} it returns {found}"
        right = list(range(max(0, j - m), l))
        if sorted(found) == right:
            continue
        if found == [int(j <= i + m) for i in range(l)]:
            raise Mistake(
                f"{where}, a column of the mask. Wanted are the numbers of the latents, those i "
                "for which it is True."
            )
        if m and sorted(found) == list(range(max(j, m), m + l)):
            raise Mistake(
                f"{where}, positions in the window. Latents are numbered from 0, at position m."
            )
        if any(i < 0 or i >= l for i in found):
            raise Mistake(
                f"{where}, and there are only the latents 0 to {l - 1}. A token of the prefix "
                "stands before all of them."
            )
        if len(set(found)) < len(found):
            raise Mistake(f"{where}: some latent is listed more than once.")
        if sorted(found) == right[1:] and j >= m:
            raise Mistake(
                f"{where}: latent {j - m} is missing, and it is the token itself."
            )
        if j < m:
            raise Mistake(f"{where}, but this token is in the prefix.")
        early = sorted(set(found) - set(right))
        if early:
            raise Mistake(
                f"{where}: latent {early[0]} stands before position {j}, at {early[0] + m}."
            )
        late = min(set(right) - set(found))
        raise Mistake(f"{where}: latent {late}, after position {j}, is missing.")
    return "A token of the prefix has l readers, the last token has one: itself."


def _stack_pairs(n: int, l: int, layers: int) -> int:
    return l * (n - l) + l * (l + 1) // 2 + layers * l * (l + 1) // 2


def _largest(cost: Callable, n: int, budget: int) -> int:
    return max((l for l in range(1, n + 1) if cost(l) <= budget), default=0)


@checker
def check_most_latents(answer: Callable) -> str:
    cases = ((6144, 18, 48_253_952), (6144, 18, 20_000_000), (1024, 3, 300_000), (12, 0, 42),
             (12, 18, 222), (12, 18, 221), (20, 2, 630), (20, 18, 19))  # fmt: skip
    for n, layers, budget in cases:
        right = _largest(lambda l, n=n, k=layers: _stack_pairs(n, l, k), n, budget)
        where = f"for n = {n:,}, {layers} layers above and {budget:,} pairs"
        try:
            found = answer(n, layers, budget)
        except Mistake:  # None
            if right:
                raise
            raise Mistake(
                f"{where} not even one latent fits: return 0 then, not None."
            ) from None
        if found == right:
            continue
        if not isinstance(found, int):
            raise Mistake(
                f"{where} it returns a {type(found).__name__}, not a whole number."
            )
        wrong = {
            "the layers above layer 1 are not counted": lambda l, n=n: _stack_pairs(
                n, l, 0
            ),
            "hidden pairs are counted, whole rectangles": lambda l, n=n, k=layers: (
                l * n + k * l * l
            ),
            "the layers above are charged for the prefix": (
                lambda l, n=n, k=layers: (k + 1) * _stack_pairs(n, l, 0)
            ),
            "a layer were missing (`layers` are those above layer 1)": (
                lambda l, n=n, k=layers: _stack_pairs(n, l, k - 1)
            ),
        }
        for reason, cost in wrong.items():
            if layers and found == _largest(cost, n, budget):
                raise Mistake(f"{where} {found:,} latents come out, as if {reason}.")
        if found < 0 or found > n:
            raise Mistake(f"{where} it returns {found:,}: l is between 0 and n.")
        spent = _stack_pairs(n, found, layers)
        if spent > budget:
            raise Mistake(
                f"{where} it returns {found:,}, which costs {spent:,} pairs: too many."
            )
        raise Mistake(
            f"{where} it returns {found:,}, and one latent more would still fit."
        )
    return "48,253,952 pairs buy 2,048 latents in a window of 6,144: the released model's shape."


def _toy_layer(
    see: Callable[[int, int], Tensor], normed: bool = False
) -> Callable[[Tensor, Tensor], Tensor]:
    """A layer with fixed weights: `see(l, n)` is its mask."""

    def layer(x: Tensor, prefix: Tensor) -> Tensor:
        context = torch.cat((prefix, x), dim=1)
        if normed:
            context = torch.nn.functional.layer_norm(context, context.shape[-1:])
        l, n = x.size(1), context.size(1)
        # The sums make a sum of the output tell more than the zero that a norm leaves.
        values = context.cumsum(dim=-1)
        return attention_formula(context[:, n - l :], context, values, see(l, n))

    return layer


def _but(i: int, j: int, sees: bool) -> Callable[[int, int], Tensor]:
    """The hybrid mask but for one place: query i and the position j after the prefix."""

    def see(l: int, n: int) -> Tensor:
        mask = causal_mask(l, n)
        if i < l and 0 <= n - l + j < n:
            mask[i, n - l + j] = sees
        return mask

    return see


def _everything(l: int, n: int) -> Tensor:
    return torch.ones(l, n, dtype=torch.bool)


def _prefix_and_self(l: int, n: int) -> Tensor:
    return (torch.arange(n) < n - l) | torch.eye(n, dtype=torch.bool)[n - l :]


def _faint(x: Tensor, prefix: Tensor) -> Tensor:
    out = _toy_layer(causal_mask)(x, prefix)
    return out - 0.0001 * x.sum(dim=1, keepdim=True)


def _late(x: Tensor, prefix: Tensor) -> Tensor:
    """Every output stands one place too late, and hears what is before its own token."""
    m, none = prefix.size(1), torch.zeros_like(x[:, :1])
    window = torch.cat((none, prefix, x[:, :-1]), dim=1)
    return _toy_layer(causal_mask)(window[:, m:], window[:, :m])


def _rounded(x: Tensor, prefix: Tensor) -> Tensor:
    out, total = _toy_layer(causal_mask)(x, prefix), x.sum(dim=1, keepdim=True)
    return (out + total) - total


AUDITS = (
    (_toy_layer(causal_mask), "fine",
     "An output may move with its own token, and must move with all before it."),
    (_toy_layer(_everything), "leaks", "In that layer all latents see all."),
    (_toy_layer(_but(0, 1, True)), "leaks",
     "In that layer latent 0 sees latent 1, and nothing else is wrong. Changing only the last "
     "latent does not find it: change each."),
    (_toy_layer(_but(1, 4, True)), "leaks",
     "In that layer latent 1 sees latent 4. Look at all outputs before the token that you have "
     "changed, not at the nearest or the first alone."),
    (_faint, "leaks", "That leak is weak: some outputs move by a few ten-thousandths, which is "
     "well above rounding."),
    (_toy_layer(causal_mask, normed=True), "fine",
     "That layer begins with a LayerNorm, which takes away the scale of a token and whatever all "
     "its channels have in common. Change tokens in another way."),
    (_toy_layer(_but(2, 3, True), normed=True), "leaks",
     "Latent 2 of that layer sees latent 3, behind a LayerNorm."),
    (_toy_layer(lambda l, n: torch.ones(l, n).tril().bool()), "deaf",
     "Its mask is aligned at the left: the future is hidden, and most of the past as well."),
    (_toy_layer(_prefix_and_self), "deaf",
     "It hears the prefix and each token itself, but not the latents between."),
    (_toy_layer(_but(3, -4, False)), "deaf",
     "One latent does not hear one token of the prefix: change tokens of the prefix as well, and "
     "look at each output."),
    (_late, "deaf", "Each output hears what stands before its token, but not the token. By the "
     "mask its own token is heard, too."),
    (_toy_layer(lambda l, n: torch.arange(n) >= torch.arange(n - l, n)[:, None]), "leaks",
     "That layer hears the future, and is deaf to the past as well. A leak comes first."),
    (_rounded, "fine", "In that layer some outputs move with the future, but by rounding alone."),
)  # fmt: skip


@checker
def check_audit(answer: Callable) -> str:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, 8, generator=random)
    prefix = torch.randn(1, 7, 8, generator=random)
    for layer, right, why in AUDITS:
        found = answer(layer, x, prefix)
        if not isinstance(found, str) or found not in ("leaks", "deaf", "fine"):
            raise Mistake(
                f'it returns {found!r}, not one of the words "leaks", "deaf" and "fine".'
            )
        if found != right:
            raise Mistake(
                f'one of the layers is to be called "{right}", and you say "{found}". {why}'
            )
    return (
        f"{len(AUDITS)} layers told apart, six of which leak and four of which are deaf. "
        "Run it on any layer that you write."
    )


@checker
def check_cheaper_mask(answer: Callable) -> str:
    share = 0.0
    for m, l in ((64, 16), (200, 8), (64, 64), (100, 50)):
        mask, full, where = (
            _as_mask(answer(m, l), m, l),
            causal_mask(l, m + l),
            f"m = {m}, l = {l}",
        )
        if (mask & ~full).any():
            i, j = (mask & ~full).nonzero()[0].tolist()
            raise Mistake(
                f"for {where} query {i}, at position {i + m}, sees position {j}: the future leaks."
            )
        own = mask.diagonal(m)
        if not own.all():
            raise Mistake(
                f"for {where} latent {int((~own).nonzero()[0])} does not see itself."
            )
        unread = (~mask.any(dim=0)).nonzero().flatten()
        if len(unread):
            raise Mistake(
                f"for {where} nobody reads {len(unread)} tokens of the prefix, the first of them "
                f"at position {int(unread[0])}: what stands there is forgotten."
            )
        neighbours = mask.diagonal(m - 1)
        if not neighbours.all():
            i = int((~neighbours).nonzero()[0])
            raise Mistake(f"for {where} latent {i} does not see the token before it.")
        used = int(mask.sum()) / int(full.sum())
        if used > 0.5:
            raise Mistake(
                f"for {where} {used:.0%} of the pairs are left, and half of them are allowed."
            )
        share = max(share, used)
        reads = mask[:, :m].sum(dim=1)
    return (
        f"No leak, no token of the prefix unread, and at most {share:.0%} of the pairs. Of a "
        f"prefix of {m} a latent reads {int(reads.min())} to {int(reads.max())} tokens."
    )
