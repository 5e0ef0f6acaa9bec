"""Chapter 4: pictures of the rotation, and the dial to play with."""

import json
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinyperceiver.model.rotary import apply_rotation, rotation_at
from tinyperceiver.teaching.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    interactive,
    shades,
)

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure

__all__ = [
    "draw_arrows",
    "draw_clocks",
    "draw_pairings",
    "draw_scores",
    "rotary_dial",
]

# Figures


def draw_scores(panels: dict[str, Tensor], first_query: int = 0) -> "Figure":
    """Score matrices side by side: title -> (l, n), queries in rows, keys in columns."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    l, n = next(iter(panels.values())).shape
    height = 0.75 + min(2.15, 5.4 / len(panels) * l / n)
    fig, axes = plt.subplots(
        1, len(panels), figsize=(6.4, height), sharey=True, squeeze=False
    )
    for ax, (title, scores) in zip(axes[0], panels.items(), strict=True):
        extent = (-0.5, n - 0.5, first_query + l - 0.5, first_query - 0.5)
        ax.imshow(scores, cmap=shades(BLUE), interpolation="nearest", extent=extent)
        ax.set(title=title, xlabel="key position j")
        ax.spines[:].set_visible(True)
        ax.yaxis.set_major_locator(MaxNLocator(5 if l == n else 3, integer=True))
    axes[0, 0].set_ylabel("query i" if l < n else "query position i")
    return fig


def draw_arrows(panels: dict[str, tuple[Tensor, Tensor]]) -> "Figure":
    """A query and a key, two numbers each, as arrows: title -> (query, key)."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(6.4, 1.75), squeeze=False)
    for ax, (title, pair) in zip(axes[0], panels.items(), strict=True):
        ax.add_patch(plt.Circle((0, 0), 1, fill=False, color=GREY, lw=0.8))
        for (x, y), name, color, dash in zip(
            pair, "qk", (BLUE, GREEN), ("-", (0, (3, 1.5))), strict=True
        ):
            x, y = float(x), float(y)
            ax.plot([0, x], [0, y], color=color, ls=dash, lw=2.2)
            ax.plot(x, y, marker="o" if name == "q" else "s", color=color, ms=6)
            length = math.hypot(x, y)
            place = (1 + 0.22 / length) * x, (1 + 0.22 / length) * y
            ax.text(*place, name, ha="center", va="center", style="italic", size=12)
        ax.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", title=title)
        ax.axis("off")
    return fig


def draw_clocks(rotation: tuple[Tensor, Tensor], positions: list[int]) -> "Figure":
    """Channel pairs as the hands of clocks: a row for each pair, a column for each position.

    `rotation` is cosines and sines of the pairs drawn, each (1, len(positions), pairs).
    """
    import matplotlib.pyplot as plt

    cos, sin = (part[0].tolist() for part in rotation)  # (n, pairs)
    rows, columns = len(cos[0]), len(positions)
    fig, axes = plt.subplots(rows, columns, figsize=(6.4, 0.95 * rows + 0.3))
    for row in range(rows):
        for column, position in enumerate(positions):
            ax = axes[row, column]
            ax.add_patch(plt.Circle((0, 0), 1, fill=False, color=GREY, lw=0.8))
            ax.plot([0, 1], [0, 0], color=GREY, lw=0.8, ls=":")
            x, y = cos[column][row], sin[column][row]
            ax.plot([0, x], [0, y], color=BLUE, lw=2)
            ax.plot(x, y, "o", color=BLUE, ms=4)
            ax.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row == 0:
                ax.set_title(f"{position:,}")
            if column == 0:
                ax.set_ylabel(f"pair {row}", rotation=0, ha="right", va="center")
    return fig


def draw_pairings(d: int = 8) -> "Figure":
    """Which channels of a head are turned together, in either layout."""
    import matplotlib.pyplot as plt

    layouts = {
        "interleaved: pair i is 2i, 2i + 1": [(i, i + 1) for i in range(0, d, 2)],
        "halves: pair i is i, i + d/2": [(i, i + d // 2) for i in range(d // 2)],
    }
    colors = (BLUE, ORANGE, GREEN, PINK)
    dashes = ("-", "--", "-.", ":")
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 1.8), sharey=True)
    for ax, (title, pairs) in zip(axes, layouts.items(), strict=True):
        for p, (a, b) in enumerate(pairs):
            height = 0.35 + 0.28 * (b - a if b - a == 1 else p + 1)
            x = [a, a, b, b]
            ax.plot(x, [0.32, height, height, 0.32], color=colors[p], ls=dashes[p])
            for channel in (a, b):
                box = {"boxstyle": "square,pad=0.35", "fc": "none", "ec": colors[p]}
                text = {"ha": "center", "va": "center", "bbox": box}
                ax.text(channel, 0, str(channel), **text)
                ax.text(channel, -0.62, f"$\\theta_{p}$", ha="center", va="center")
        ax.set(title=title, xlim=(-0.6, d - 0.4), ylim=(-0.9, 1.6))
        ax.axis("off")
    return fig


# The dial: a head of four pairs, to turn by hand


SPEEDS = (1.0, 0.1, 0.01, 0.001)  # of a head with 8 channels, base 10,000
QUERY = (0.8, 0.5, -0.4, 0.8, 0.7, -0.6, 0.3, 0.9)
KEY = (0.9, -0.3, 0.5, 0.7, 0.9, 0.2, -0.3, 0.8)
FARTHEST, SHIFTS = 60, 1000  # greatest positions, greatest shift, in tokens
TOP = sum(  # no score is higher
    math.hypot(*QUERY[p : p + 2]) * math.hypot(*KEY[p : p + 2]) for p in range(0, 8, 2)
)

DIAL_SCRIPT = """
const set = %s;
const turn = (x, position) => set.speeds.flatMap((speed, p) => {
  const cos = Math.cos(position * speed), sin = Math.sin(position * speed);
  const even = x[2 * p], odd = x[2 * p + 1];
  return [even * cos - odd * sin, even * sin + odd * cos];
});
const part = (q, k, p) => q[2 * p] * k[2 * p] + q[2 * p + 1] * k[2 * p + 1];
const signed = x => (x < 0 ? "\\u2212" : "+") + Math.abs(x).toFixed(2);
const input = name => controls.querySelector(`[data-name=${name}]`);
const update = () => {
  const [i, j, shift] = ["query", "key", "shift"].map(name => {
    const slider = input(name);
    slider.parentElement.querySelector(".value").textContent =
      Number(slider.value).toLocaleString("en");
    return Number(slider.value);
  });
  const q = turn(set.query, i + shift), k = turn(set.key, j + shift);
  let score = 0;
  picture.querySelectorAll(".clock").forEach((clock, p) => {
    for (const [name, x] of [["q", q], ["k", k]]) {
      const arrow = clock.querySelector("." + name);
      const [right, up] = [50 * x[2 * p], 50 * x[2 * p + 1]];
      arrow.querySelector("line").setAttribute("x2", right);
      arrow.querySelector("line").setAttribute("y2", -up);
      arrow.querySelector(".tip").setAttribute("transform", `translate(${right} ${-up})`);
    }
    score += part(q, k, p);
    clock.querySelector(".part").textContent = signed(part(q, k, p));
  });
  const dot = picture.querySelector(".dot");
  dot.setAttribute("cx", set.left + set.step * (i - j + set.farthest));
  dot.setAttribute("cy", set.middle - set.height * score / set.top);
  const place = x => (x + shift).toLocaleString("en");
  picture.querySelector(".sentence").textContent =
    `Query at ${place(i)}, key at ${place(j)}: distance ${i - j}`.replace("-", "\\u2212") +
    `, score ${signed(score)}.`;
};
controls.addEventListener("input", update);
update();  // a browser may have kept the sliders of an earlier visit
"""


def rotary_dial() -> "HTML":
    """Three sliders turn a query and a key; only their distance moves the score."""
    query, key = 7, 2
    q, k = _turned(QUERY, query), _turned(KEY, key)
    clocks = "".join(_clock(p, q, k) for p in range(4))
    graph = {"left": 40, "step": 3, "middle": 116, "height": 98}
    score = _score(q, k)
    picture = (
        '<p style="margin:.2em 0">Arrows: query, solid with a round tip; key, dashed with a '
        "square tip. The numbers below are the products of the pairs. They add up to the "
        "score.</p>"
        '<div style="display:flex;gap:.4em;max-width:36em">'
        f"{clocks}</div>{_graph(query - key, score, **graph)}"
        '<p class="sentence" aria-live="polite" style="margin:.2em 0;font-weight:600">'
        f"Query at {query}, key at {key}: distance {query - key}, score {_signed(score)}.</p>"
    )
    sliders = [
        ("query", "Query position i", FARTHEST, query),
        ("key", "Key position j", FARTHEST, key),
        ("shift", "Shift both by", SHIFTS, 0),
    ]
    columns = "repeat(auto-fit,minmax(10em,1fr))"
    controls = (
        f'<div style="display:grid;grid-template-columns:{columns};gap:.3em 1.2em;max-width:36em">'
        + "".join(
            f'<label style="display:block">{text}: <span class="value">{value}</span>'
            f'<input type="range" data-name="{name}" min="0" max="{most}" value="{value}" '
            'style="width:100%"></label>'
            for name, text, most, value in sliders
        )
        + "</div>"
    )
    settings = {
        "speeds": SPEEDS,
        "query": QUERY,
        "key": KEY,
        "farthest": FARTHEST,
        "top": TOP,
    }
    return interactive(
        "rotary-dial",
        picture,
        controls,
        DIAL_SCRIPT % json.dumps(settings | graph),
        caption="Move the query, then the key: arrows turn, and the dot runs along the curve. "
        "Now shift both: all eight arrows turn, and neither the numbers nor the dot move.",
    )


def _turned(x: tuple[float, ...], position: int) -> list[float]:
    """Eight channels turned as the package does: (8)."""
    channels = torch.tensor(x)[None, None, None]  # (1, 1, 1, 8)
    rotation = rotation_at(torch.tensor([[position]]), len(x))
    return apply_rotation(channels, rotation).flatten().tolist()


def _score(q: list[float], k: list[float]) -> float:
    return sum(a * b for a, b in zip(q, k, strict=True))


def _signed(x: float) -> str:
    return f"{'−' if x < 0 else '+'}{abs(x):.2f}"


def _clock(p: int, q: list[float], k: list[float]) -> str:
    """One pair: a circle with two arrows, its speed, and its part of the score."""
    pair = slice(2 * p, 2 * p + 2)
    arrows = ""
    for name, (right, up), color, dash, tip in (
        ("q", q[pair], BLUE, "none", f'<circle r="6" fill="{BLUE}"/>'),
        (
            "k",
            k[pair],
            GREEN,
            "7 4",
            f'<rect x="-5" y="-5" width="10" height="10" fill="{GREEN}"/>',
        ),
    ):
        x, y = 50 * right, -50 * up
        arrows += (
            f'<g class="{name}"><line x1="0" y1="0" x2="{x:.2f}" y2="{y:.2f}" stroke="{color}" '
            f'stroke-width="4" stroke-dasharray="{dash}"/>'
            f'<g class="tip" transform="translate({x:.2f} {y:.2f})">{tip}</g></g>'
        )
    text = 'text-anchor="middle" font-size="14.5" fill="currentColor"'
    return (
        f'<svg class="clock" role="img" aria-label="Pair {p}, which turns by {SPEEDS[p]:g} rad '
        'a token: an arrow for the query and one for the key." viewBox="-62 -62 124 168" '
        'style="flex:1 1 0;min-width:0;height:auto">'
        f'<circle r="50" fill="none" stroke="{GREY}"/>{arrows}'
        f'<text y="79" {text}>{SPEEDS[p]:g} rad/token</text>'
        f'<text y="100" class="part" {text} font-weight="600">'
        f"{_signed(_score(q[pair], k[pair]))}</text></svg>"
    )


def _graph(
    distance: int, score: float, left: int, step: int, middle: int, height: int
) -> str:
    """The score at every distance, and a dot at this one."""
    still = _turned(KEY, 0)
    distances = range(-FARTHEST, FARTHEST + 1)
    scores = [_score(_turned(QUERY, r), still) for r in distances]
    points = " ".join(
        f"{left + step * place},{middle - height * score_there / TOP:.1f}"
        for place, score_there in enumerate(scores)
    )
    right = left + step * 2 * FARTHEST
    text = 'font-size="13" fill="currentColor"'
    ticks = "".join(
        f'<text x="{left + step * (r + FARTHEST)}" y="166" text-anchor="middle" {text}>'
        f"{str(r).replace('-', '−')}</text>"
        for r in range(-FARTHEST, FARTHEST + 1, 30)
    )
    return (
        '<svg role="img" aria-label="The score against the distance of query and key, from −60 to '
        '60 tokens: a wave, and a dot at the present distance." '
        f'viewBox="0 0 {right + 20} 190" '
        'style="display:block;width:100%;max-width:36em;height:auto">'
        f'<line x1="{left}" y1="{middle}" x2="{right}" y2="{middle}" stroke="{GREY}"/>'
        f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end" {text}>0</text>'
        f'<text x="{left}" y="12" {text}>score</text>{ticks}'
        f'<text x="{(left + right) / 2}" y="185" text-anchor="middle" {text}>'
        "distance i − j, in tokens</text>"
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.8"/>'
        f'<circle class="dot" cx="{left + step * (distance + FARTHEST)}" '
        f'cy="{middle - height * score / TOP:.1f}" r="6" fill="{BLUE}"/></svg>'
    )
