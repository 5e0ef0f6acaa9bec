"""Chapter 4: a head of four pairs, to turn by hand."""

import cmath
from functools import cache
from typing import TYPE_CHECKING

from tinyperceiver.teaching.slider import Slider, slider_figure
from tinyperceiver.teaching.style import BLUE, GREEN, GREY

if TYPE_CHECKING:
    from IPython.display import HTML

SPEEDS = (1.0, 0.1, 0.01, 0.001)  # of a head with 8 channels, base 10,000
QUERY = (0.8, 0.5, -0.4, 0.8, 0.7, -0.6, 0.3, 0.9)
KEY = (0.9, -0.3, 0.5, 0.7, 0.9, 0.2, -0.3, 0.8)
TOP = sum(  # no score is higher
    abs(complex(*QUERY[p : p + 2]) * complex(*KEY[p : p + 2])) for p in range(0, 8, 2)
)
FARTHEST = 60  # the greatest distance, in tokens
KEYS = range(0, FARTHEST + 1, 5)  # few: the page carries all combinations
SHIFTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
LEFT, STEP, MIDDLE, HEIGHT = 40, 3, 116, 98  # of the graph, in its own units

CAPTION = (
    "Move the query, then the key: arrows turn, and the dot runs along the curve. "
    "Now shift both: all eight arrows turn, and neither the numbers nor the dot move."
)


def rotary_dial() -> "HTML":
    """Three sliders turn a query and a key; only their distance moves the score."""
    sliders = (
        Slider("query", "query at i", range(FARTHEST + 1), at=10),
        Slider("key", "key at j", KEYS, at=1),
        Slider("shift", "shift both", SHIFTS, texts=[f"{shift:,}" for shift in SHIFTS]),
    )
    return slider_figure("rotary-dial", dial_state, sliders, CAPTION)


def dial_state(query: int, key: int, shift: int) -> str:
    """The arrows of a query and a key at two positions, both shifted, and their score."""
    parts = products(query + shift, key + shift)
    clocks = "".join(_clock(p, query + shift, key + shift, part) for p, part in enumerate(parts))
    i, j, distance, score = (
        f"<span>{text}</span>"
        for text in (
            f"{query + shift:,}",
            f"{key + shift:,}",
            f"{query - key}".replace("-", "−"),
            _signed(sum(parts)),
        )
    )
    return (
        '<p style="margin:.2em 0">Arrows: query, solid with a round tip; key, dashed with a '
        "square tip. The numbers below are the products of the pairs. They add up to the "
        f'score.</p><div style="display:flex;gap:.4em;max-width:36em">{clocks}</div>'
        f"{_graph(query - key, sum(parts))}"
        '<p aria-live="polite" style="margin:.2em 0;font-weight:600">'
        f"Query at {i}, key at {j}: distance {distance}, score {score}.</p>"
    )


@cache
def _turned(x: tuple[float, ...], position: int) -> list[complex]:
    """The pairs of eight channels, turned: (4), each as one complex number."""
    pairs = [complex(*x[p : p + 2]) for p in range(0, 8, 2)]
    # In double precision, so that a shift changes none of the digits that are shown.
    return [
        pair * cmath.exp(1j * speed * position) for pair, speed in zip(pairs, SPEEDS, strict=True)
    ]


def products(i: int, j: int) -> list[float]:
    """What each pair adds to the score of a query and a key at two positions: (4)."""
    turned = zip(_turned(QUERY, i), _turned(KEY, j), strict=True)
    return [(q * k.conjugate()).real for q, k in turned]


def _signed(x: float) -> str:
    return f"{'−' if x < 0 else '+'}{abs(x):.2f}"


def _clock(p: int, i: int, j: int, product: float) -> str:
    """One pair: a circle with two arrows, its speed, and its part of the score."""
    arrows = ""
    for x, position, color, dash, tip in (
        (QUERY, i, BLUE, "none", '<circle r="6"/>'),
        (KEY, j, GREEN, "7 4", '<rect x="-5" y="-5" width="10" height="10"/>'),
    ):
        end = f"{50 * _turned(x, position)[p].real:.1f} {-50 * _turned(x, position)[p].imag:.1f}"
        arrows += (
            f'<path d="M0 0L{end}" stroke="{color}" stroke-width="4" stroke-dasharray="{dash}"/>'
            f'<g fill="{color}" transform="translate({end})">{tip}</g>'
        )
    text = 'text-anchor="middle" font-size="14.5" fill="currentColor"'
    return (
        f'<svg role="img" aria-label="Pair {p}, which turns by {SPEEDS[p]:g} rad '
        'a token: an arrow for the query and one for the key." viewBox="-62 -62 124 168" '
        'style="flex:1 1 0;min-width:0;height:auto">'
        f'<circle r="50" fill="none" stroke="{GREY}"/>{arrows}'
        f'<text y="79" {text}>{SPEEDS[p]:g} rad/token</text>'
        f'<text y="100" {text} font-weight="600">{_signed(product)}</text></svg>'
    )


def _height(score: float) -> str:
    return f"{MIDDLE - HEIGHT * score / TOP:.1f}"


@cache
def _wave() -> str:
    """The score at every distance, with its axes."""
    right, text = LEFT + STEP * 2 * FARTHEST, 'font-size="13" fill="currentColor"'
    distances = range(-FARTHEST, FARTHEST + 1)
    place = {r: LEFT + STEP * (r + FARTHEST) for r in distances}
    points = " ".join(f"{place[r]},{_height(sum(products(r, 0)))}" for r in distances)
    ticks = "".join(
        f'<text x="{place[r]}" y="166" text-anchor="middle" {text}>'
        f"{str(r).replace('-', '−')}</text>"
        for r in distances[::30]
    )
    return (
        f'<line x1="{LEFT}" y1="{MIDDLE}" x2="{right}" y2="{MIDDLE}" stroke="{GREY}"/>'
        f'<text x="{LEFT - 8}" y="{MIDDLE + 4}" text-anchor="end" {text}>0</text>'
        f'<text x="{LEFT}" y="12" {text}>score</text>{ticks}'
        f'<text x="{(LEFT + right) / 2}" y="185" text-anchor="middle" {text}>'
        f'distance i − j, in tokens</text><polyline points="{points}" fill="none" '
        'stroke="currentColor" stroke-width="1.8"/>'
    )


def _graph(distance: int, score: float) -> str:
    """The score at every distance, and a dot at this distance and this score."""
    return (
        '<svg role="img" aria-label="The score against the distance of query and key, from −60 to '
        '60 tokens: a wave, and a dot at the present distance." '
        f'viewBox="0 0 {LEFT + STEP * 2 * FARTHEST + 20} 190" '
        'style="display:block;width:100%;max-width:36em;height:auto">'
        f'{_wave()}<circle cx="{LEFT + STEP * (distance + FARTHEST)}" cy="{_height(score)}" r="6" '
        f'fill="{BLUE}"/></svg>'
    )
