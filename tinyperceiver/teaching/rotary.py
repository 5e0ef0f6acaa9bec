"""Chapter 4: pictures of the rotation, the dial to play with, and the exercise checkers."""

import json
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinyperceiver.model.rotary import apply_rotation, rotation_at
from tinyperceiver.teaching.checking import Mistake, checker
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
    from collections.abc import Callable

    from IPython.display import HTML
    from matplotlib.figure import Figure

__all__ = [
    "check_long_rotation",
    "check_period",
    "check_to_halves",
    "check_turn_back",
    "check_turn_pair",
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


# Exercise checkers


def _as_tensor(answer, shape: tuple[int, ...], name: str) -> Tensor:
    """The answer as a tensor of the shape that the task asks for."""
    if not isinstance(answer, Tensor):
        raise Mistake(f"{name} returns a {type(answer).__name__}, not a tensor.")
    if answer.shape != shape:
        raise Mistake(
            f"{name} returns shape {tuple(answer.shape)}; it should be {shape}."
        )
    return answer


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((a.double() - b.double()).abs().max() < tolerance)


@checker
def check_turn_pair(turn_pair: "Callable") -> str:
    """`turn_pair(x, y, angle)` -> the turned x and y; the angle in radians."""
    for x, y, angle in (
        (0.3, -1.2, 0.7),
        (1.0, 0.0, math.pi / 2),
        (2.0, 5.0, -2.5),
        (1, 2, 0),
        (-0.4, 0.8, 1.1),
        (0.0, 1.0, -0.4),
    ):
        answer = turn_pair(x, y, angle)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            kind = type(answer).__name__
            raise Mistake(
                f"turn_pair returns a {kind}; it should return two numbers, the new x and the "
                "new y, with a comma between them."
            )
        new = complex(*(float(part) for part in answer))

        def turned(by: float, x=x, y=y) -> complex:
            return complex(x, y) * complex(math.cos(by), math.sin(by))

        if abs(new - turned(angle)) < 1e-6:
            continue
        start = f"({x:g}, {y:g}) turned by {angle:.3g} became ({new.real:.3g}, {new.imag:.3g}). "
        if abs(new - turned(-angle)) < 1e-6:
            raise Mistake(
                start + "That is the wrong way round: a positive angle turns "
                "counter-clockwise, so (1, 0) goes up, not down."
            )
        if abs(new - turned(math.radians(angle))) < 1e-6:
            raise Mistake(
                start + "That is a turn by so many degrees: the angle is in radians."
            )
        if abs(complex(new.imag, new.real) - turned(angle)) < 1e-6:
            raise Mistake(
                start
                + "Both numbers are right, in the wrong order: the new x comes first."
            )
        exchanged = complex(y, x) * complex(math.cos(angle), math.sin(angle))
        if abs(new - exchanged) < 1e-6:
            raise Mistake(
                start + "x and y have changed places: this is what (y, x) turns into."
            )
        x_first = x * math.cos(angle) - y * math.sin(angle)
        reused = complex(x_first, x_first * math.sin(angle) + y * math.cos(angle))
        if abs(new - reused) < 1e-6:
            raise Mistake(
                start + "The new x has overwritten the old one before y was computed: "
                "both need the old x."
            )
        if abs(new + turned(angle)) < 1e-6:
            raise Mistake(
                start
                + "The arrow points exactly backwards. If you ask y / x where it points: "
                "(1, −2) and (−1, 2) have the same quotient."
            )
        before, after = math.hypot(x, y), abs(new)
        if abs(after - before) > 1e-6:
            raise Mistake(
                start
                + f"A turn keeps the length, which was {before:.3g} and is {after:.3g}."
            )
        raise Mistake(start + "The length is right, the direction is not.")
    return "Six arrows turned, and each kept its length."


@checker
def check_turn_back(turn_back: "Callable") -> str:
    """`turn_back(x, positions)`, (B, H, n, d) and (B or 1, n) -> x before `apply_rotation`."""
    torch.manual_seed(0)
    for positions, shape in (
        (torch.arange(6)[None], (2, 3, 6, 8)),
        (torch.tensor([[3, 900, 41], [7, 0, 6000]]), (2, 1, 3, 16)),
    ):
        d = shape[-1]
        plain = torch.randn(shape)
        rotation = rotation_at(positions, d)
        turned = apply_rotation(plain, rotation)
        back = _as_tensor(turn_back(turned, positions), shape, "turn_back")
        if _close(back, plain):
            continue
        if _close(back, turned):
            raise Mistake("turn_back gives back what it got: nothing has turned.")
        if _close(back, apply_rotation(turned, rotation)):
            raise Mistake(
                "turn_back turns forward once more: position 3 is now turned as "
                "position 6 would be."
            )
        cos, sin = rotation
        if _close(back, apply_rotation(turned, (-cos, sin))):
            raise Mistake(
                "every channel comes back with the wrong sign. Turning the other way leaves the "
                "cosines alone, since cos(−a) = cos(a), and `x` as well."
            )
        if _close(back, apply_rotation(turned, (-cos, -sin))):
            raise Mistake(
                "what comes back is turned forward once more, and has the wrong sign. Of cosines, "
                "sines and `x`, turning back changes one."
            )
        counted = rotation_at(-torch.arange(shape[2])[None], d)
        if _close(back, apply_rotation(turned, counted)):
            raise Mistake(
                "these tokens are turned back as if they stood at 0, 1, 2, …; they stand at "
                "`positions`."
            )
        halves = _turn_halves(turned, (cos, -sin))
        if _close(back, halves):
            raise Mistake(
                "the right angles, the wrong channels: these are the pairs (i, i + d/2), and "
                "`apply_rotation` turned (0, 1), (2, 3), …"
            )
        if back.shape[0] > 1 and _close(back[0], plain[0]):
            raise Mistake(
                "the first row of the batch is right, the second is not: each row has "
                "positions of its own."
            )
        off = (back - plain).abs().max()
        raise Mistake(f"what comes back differs from the original by up to {off:.2g}.")
    return "Turned there and back, every channel is off by less than 0.0001."


@checker
def check_period(period: "Callable") -> str:
    """`period(pair, head_dim, base)` -> tokens in which a channel pair turns once."""
    for pair, head_dim, base in (
        (47, 96, 10_000.0),
        (0, 96, 10_000.0),
        (5, 64, 500.0),
    ):
        answer = period(pair, head_dim, base)
        try:
            answer = float(answer)
        except (TypeError, ValueError):
            kind = type(answer).__name__
            raise Mistake(f"period should return a number, not a {kind}.") from None
        speed = base ** (-2 * pair / head_dim)
        right = 2 * math.pi / speed

        def near(value: float, answer=answer) -> bool:
            return math.isclose(answer, value, rel_tol=1e-4)

        if near(right):
            continue
        start = f"period({pair}, {head_dim}, {base:g}) is {answer:.4g}. "
        if near(speed):
            raise Mistake(
                start + "That is the speed, in radians a token. How many tokens does a "
                "whole turn take?"
            )
        if near(1 / speed):
            raise Mistake(
                start
                + "In that many tokens the pair turns by one radian; a whole turn "
                "has more of them."
            )
        if near(2 * math.pi * base ** (pair / head_dim)):
            raise Mistake(
                start + "The exponent is half of what it should be: pair i begins at "
                "channel 2i."
            )
        if near(2 * math.pi * 10_000 ** (2 * pair / head_dim)):
            raise Mistake(start + "The base is not used: it is an argument, too.")
        if near(2 * math.pi * speed):
            raise Mistake(
                start + "The faster a pair, the shorter its period; here it is longer."
            )
        raise Mistake(
            start + "Multiply it by the pair's speed: a whole turn should come out."
        )
    return (
        "From 6.28 tokens for the first of 48 pairs to 51,862 for the last. Did you guess? With "
        "a base of a million the first keeps its 6.28 and the last needs 4.7 million: the slower "
        "a pair, the more it gains."
    )


def _turn_halves(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """The other layout: channel i turns with channel i + d / 2."""
    cos, sin = (part[:, None] for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def _heads(x: Tensor, weight: Tensor, num_heads: int) -> Tensor:
    """Queries or keys, (1, H, n, d), of x, (n, D)."""
    return (x @ weight.T).unflatten(-1, (num_heads, -1)).transpose(0, 1)[None]


@checker
def check_to_halves(to_halves: "Callable") -> str:
    """`to_halves(weight, num_heads)`: the rows in the order that the halves layout needs."""
    torch.manual_seed(0)
    for D, H, n in ((12, 1, 5), (16, 2, 6), (32, 4, 9)):
        x = torch.randn(n, D)
        weights = torch.randn(2, D, D) / D**0.5
        rotation = rotation_at(torch.arange(n)[None], D // H)
        query, key = (apply_rotation(_heads(x, w, H), rotation) for w in weights)
        expected = query @ key.transpose(-2, -1)  # (1, H, n, n)
        new = [_as_tensor(to_halves(w, H), (D, D), "to_halves") for w in weights]
        query, key = (_turn_halves(_heads(x, w, H), rotation) for w in new)
        agree = _close(query @ key.transpose(-2, -1), expected, 1e-3)
        # (D, D): is this new row (first axis) that old one (second axis)?
        found = (new[0][:, None] == weights[0]).all(dim=-1)
        same_rows = bool((found.sum(0) == 1).all() and (found.sum(1) == 1).all())
        if agree and same_rows:
            continue
        if agree:
            raise Mistake(
                "The scores agree, but some rows are none of the old ones: nothing needs to be "
                "computed here, they need only another order."
            )
        rows = new[0].unflatten(0, (H, -1))  # (H, d, D)
        before = weights[0].unflatten(0, (H, -1))
        evens_first = torch.cat((torch.arange(0, D, 2), torch.arange(1, D, 2)))
        if torch.equal(new[0], weights[0]):
            raise Mistake("the weight comes back as it was: nothing has moved.")
        if torch.equal(new[0], weights[0][:, evens_first]):
            raise Mistake(
                "the columns have moved. The channels of a query are the rows of the weight; "
                "its columns are the channels of x."
            )
        if H > 1 and torch.equal(new[0], weights[0][evens_first]):
            raise Mistake(
                f"rows have moved from head to head. Each of the {H} heads has rows of its own, "
                "and pairs are made within a head."
            )
        d = D // H
        interleave = torch.arange(d).reshape(2, -1).T.flatten()
        if torch.equal(rows, before[:, interleave]):
            raise Mistake(
                "this is the way back, from halves to interleaved. Ask of each new row: which "
                "old row must stand here?"
            )
        right = torch.cat((before[:, 0::2], before[:, 1::2]), dim=1)
        if all(any(torch.equal(head, other) for other in right) for head in rows):
            raise Mistake(
                "within each head the rows are right, but the heads have changed places: what "
                "were the first head's rows must stay the first d."
            )
        if torch.equal(rows, torch.cat((before[:, 1::2], before[:, 0::2]), dim=1)):
            raise Mistake(
                "the odd channels stand first: the x and y of every arrow have changed places, so "
                "that it turns the other way."
            )
        if not same_rows:
            raise Mistake(
                "the new weight does not hold the same rows in another order. Nothing needs "
                "to be computed here."
            )
        raise Mistake(
            f"with {H} head{'s' if H > 1 else ''} the scores under the halves layout are not those "
            "from before. Partners (2i, 2i + 1) must become (i, i + d/2)."
        )
    return "With 1, 2 and 4 heads, the halves layout now gives the scores of the interleaved one."


@checker
def check_long_rotation(long_rotation: "Callable") -> str:
    """`long_rotation(n, head_dim, trained)` -> cosines and sines, each (1, n, d / 2)."""
    for head_dim, trained, n in (
        (32, 512, 512),
        (32, 512, 200),
        (32, 512, 2048),
        (96, 1024, 3072),
        (32, 512, 4096),
    ):
        answer = long_rotation(n, head_dim, trained)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Mistake("long_rotation should return two tensors, cosines and sines.")
        shape = (1, n, head_dim // 2)
        cos, sin = (
            _as_tensor(part, shape, "long_rotation").double() for part in answer
        )
        if not _close(cos**2 + sin**2, torch.ones(shape)):
            raise Mistake("cos² + sin² is not 1: these are no longer rotations.")
        # Turns from each token to the next, which must be the same everywhere.
        step_cos = cos[0, 1:] * cos[0, :-1] + sin[0, 1:] * sin[0, :-1]  # (n - 1, d / 2)
        step_sin = sin[0, 1:] * cos[0, :-1] - cos[0, 1:] * sin[0, :-1]
        speed = torch.atan2(step_sin, step_cos).mean(dim=0)  # (d / 2)
        steady = torch.arange(n).double()[:, None] * speed  # angles from token 0 on
        off_cos = cos[0] * cos[0, 0] + sin[0] * sin[0, 0] - steady.cos()
        off_sin = sin[0] * cos[0, 0] - cos[0] * sin[0, 0] - steady.sin()
        if max(off_cos.abs().max(), off_sin.abs().max()) > 1e-3:
            uneven = (step_cos - step_cos[:1]).abs() + (step_sin - step_sin[:1]).abs()
            uneven = uneven.amax(dim=1)
            place = int((uneven > 0.5 * uneven.max()).nonzero()[0])
            here, there = (
                torch.stack((cos[0, p], sin[0, p])) for p in (place, place + 1)
            )
            if _close(here, there):
                raise Mistake(
                    f"tokens {place} and {place + 1} are turned alike, so the model cannot tell "
                    "which of them came first."
                )
            if _close(there, torch.stack((cos[0, 0], sin[0, 0]))):
                raise Mistake(
                    f"token {place + 1} is turned as token 0 is, so the model takes the newest "
                    "tokens for the oldest."
                )
            raise Mistake(
                f"distance alone no longer counts: from token {place} to {place + 1} the pairs "
                "turn by another angle than from 0 to 1."
            )
        plain = rotation_at(torch.arange(n)[None], head_dim)
        is_plain = _close(cos, plain[0], 1e-3) and _close(sin, plain[1], 1e-3)
        if n <= trained:
            if not is_plain:
                raise Mistake(
                    f"{n} tokens fit into the {trained} of the training, and yet the rotation "
                    "has changed: short windows should stay as the model knows them."
                )
            continue
        usual = 10_000.0 ** (-torch.arange(0, head_dim, 2).double() / head_dim)
        known = usual * trained  # radians that a pair turned in training
        reach = speed * (n - 1)
        if cos[0, 0].min() < 0 or sin[0, 0].abs().max() > 1e-3:
            raise Mistake(
                f"with a window of {n:,} tokens position 0 has turned already; its angles should "
                "be 0."
            )
        if (reach < -1e-3).any():
            pair = int((reach < -1e-3).nonzero()[0])
            raise Mistake(
                f"with a window of {n:,} tokens pair {pair} turns clockwise: the model would take "
                "what came before for what comes after."
            )
        is_slow = known < 2 * math.pi  # fast pairs have seen every angle
        strange = is_slow & (reach > 1.001 * known)
        if strange.any():
            pair = int(strange.nonzero()[-1])
            raise Mistake(
                f"over {n:,} tokens pair {pair} turns by {reach[pair]:.2g} radians, past the "
                f"{known[pair]:.2g} that it reached over the {trained:,} of the training: the "
                "model has never met such an angle."
            )
        if 0 <= speed.max() < 0.1:
            raise Mistake(
                "even the fastest pair turns by less than 0.1 radians a token: neighbours can "
                "hardly be told apart."
            )
        idle = is_slow & (reach < 0.1 * known)
        if idle.any():
            pair = int(idle.nonzero()[-1])
            raise Mistake(
                f"over {n:,} tokens pair {pair} turns by {reach[pair]:.2g} radians; over the "
                f"{trained:,} of the training it was {known[pair]:.2g}, and a tenth of that is the "
                "least. A pair that hardly turns cannot tell far from near."
            )
        if (speed[1:] >= speed[:-1]).any():
            pair = int((speed[1:] >= speed[:-1]).nonzero()[0]) + 1
            raise Mistake(
                f"with a window of {n:,} tokens pair {pair} turns by {speed[pair]:.2g} radians a "
                f"token and pair {pair - 1} by {speed[pair - 1]:.2g}: each pair should turn more "
                "slowly than the one before."
            )
    return (
        "At 3, 4 and 8 times the length distance alone counts, each pair is slower than the one "
        "before, and no slow pair goes too far."
    )
