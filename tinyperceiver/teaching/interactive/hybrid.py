"""Chapter 6: the mask to play with, and the pairs that it costs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tinyperceiver.teaching.slider import Slider, slider_figure
from tinyperceiver.teaching.style import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from IPython.display import HTML

MOST_PREFIX, MOST_LATENTS, LAYERS, WINDOW = 16, 8, 18, 6144
WIDTH, HEIGHT, LEFT, TOP = 360, 120, 50, 84  # of the mask, in the drawing's own units

LABEL = (
    "A mask with a row for each latent and a column for each position. A row sees the whole "
    "prefix and the latents up to itself. Above, two bars compare the pairs of all 19 "
    "layers with those of full attention."
)
CAPTION = (
    "Make the prefix empty: the triangle of plain causal attention is left. "
    "Make one latent: a row without a hidden key. Then keep the window at 20 and go from 4 "
    "latents to 8: which line of the table less than doubles, which more than triples, "
    "and why?"
)


def hybrid_explorer() -> "HTML":
    """Drag prefix and latents, and watch the mask and the pairs that it costs."""
    sliders = (
        Slider("m", "prefix m", range(MOST_PREFIX + 1), at=8),
        Slider("l", "latents l", range(1, MOST_LATENTS + 1), at=3),
        Slider("query", "query row i", range(MOST_LATENTS), at=1),
    )
    return slider_figure("hybrid-explorer", explorer_state, sliders, CAPTION)


def explorer_state(m: int, l: int, query: int) -> str | None:
    """The picture of one window and one of its queries; None if it has no such query."""
    if query >= l:
        return None
    return (
        f'<svg role="img" aria-label="{LABEL}" '
        f'viewBox="0 0 {LEFT + WIDTH + 6} {TOP + HEIGHT + 4}" '
        'font-size="12.5" fill="currentColor" '
        'style="display:block;width:100%;max-width:620px;height:auto">'
        f"{_legend()}{_bars(m, l)}{_mask(m, l, query)}</svg>"
        f'<p aria-live="polite" style="margin:.4em 0">{_seen(m, l, query)}</p>'
        f"{_table(m, l)}"
    )


def pairs(m: int, l: int) -> tuple[int, int, int]:
    """Pairs of layer 1, of the self-attention layers above it, and of full attention."""
    n = m + l
    above, full = LAYERS * l * (l + 1) // 2, (LAYERS + 1) * n * (n + 1) // 2
    return l * m + l * (l + 1) // 2, above, full


def _legend() -> str:
    return (
        f'<circle cx="{LEFT + 6}" cy="10" r="6" fill="{ORANGE}"/>'
        f'<text x="{LEFT + 16}" y="14">key of the prefix</text>'
        f'<rect x="{LEFT + 134}" y="4" width="12" height="12" fill="{BLUE}"/>'
        f'<text x="{LEFT + 150}" y="14">key of a latent</text>'
        f'<circle cx="{LEFT + 258}" cy="10" r="1.3" opacity=".6"/>'
        f'<text x="{LEFT + 266}" y="14">hidden</text>'
        f'<text x="{LEFT - 8}" y="42" text-anchor="end">full</text>'
        f'<text x="{LEFT - 8}" y="60" text-anchor="end">hybrid</text>'
    )


def _bars(m: int, l: int) -> str:
    """Pairs of the two stacks as bars, full attention as wide as the drawing."""
    first, above, full = pairs(m, l)
    a, b = WIDTH * l * m / full, WIDTH * (first + above - l * m) / full
    return (
        f'<rect x="{LEFT}" y="32" width="{WIDTH}" height="12" fill="{GREY}" opacity=".6"/>'
        f'<rect x="{LEFT}" y="50" width="{a:.2f}" height="12" fill="{ORANGE}"/>'
        f'<rect x="{LEFT + a:.2f}" y="50" width="{b:.2f}" height="12" fill="{BLUE}"/>'
    )


def _mask(m: int, l: int, query: int) -> str:
    """The mask, as large as its place allows, with one query's row marked."""
    cell = min(WIDTH / (m + l), HEIGHT / l, 30)
    names = "".join(
        f'<text x="{LEFT - 8}" y="{TOP + cell * (i + 0.5) + 4:.4g}" text-anchor="end" '
        f'font-weight="{700 if i == query else 400}">{f"i = {i}" if i < l else ""}</text>'
        for i in range(MOST_LATENTS)
    )
    speck = 3 / cell
    return (
        f'{names}<g transform="translate({LEFT} {TOP}) scale({cell:.4g})" fill="none">'
        f'<g opacity=".45">{_rows(m, l, range(l), speck)}</g>{_rows(m, l, [query], speck)}'
        f'<rect x="-.1" y="{query}" width="{m + l + 0.2:g}" height="1" stroke="currentColor" '
        'vector-effect="non-scaling-stroke"/></g>'
    )


def _rows(m: int, l: int, rows: Iterable[int], speck: float) -> str:
    """Rows of the mask in cells of size 1, one path for each kind of cell.

    The cells are the dashes of a line: a dash of no length with round ends is a disc.
    """
    prefix = "".join(f"M.5 {i + 0.5}h{m - 0.99:.2f}" for i in rows if m)
    latents = "".join(f"M{m + 0.1:.1f} {i + 0.5}h{i + 0.8}" for i in rows)
    hidden = "".join(f"M{m + i + 1.5} {i + 0.5}h{l - 1.99 - i:.2f}" for i in rows if i + 1 < l)
    discs = 'stroke-dasharray="0 1" stroke-linecap="round"'
    return (
        f'<path d="{prefix}" stroke="{ORANGE}" stroke-width=".8" {discs}/>'
        f'<path d="{latents}" stroke="{BLUE}" stroke-width=".8" stroke-dasharray=".8 .2"/>'
        f'<path d="{hidden}" stroke="currentColor" stroke-width="{speck:.2g}" {discs}/>'
    )


def _seen(m: int, l: int, query: int) -> str:
    """What one query sees, in a sentence; what hangs on other sliders is apart."""
    hidden = l - 1 - query
    later = f"{hidden} later latent{'s are' if hidden != 1 else ' is'} hidden"
    i, place, prefix, latents, later = (
        f"<span>{part}</span>" for part in (query, query + m, m, query + 1, later)
    )
    return (
        f"Query i = {i} stands at position {place}. It sees the keys j ≤ {i} + {prefix} = "
        f"{place}: {prefix} of the prefix and {latents} of the latents, itself the last; {later}."
    )


def _table(m: int, l: int) -> str:
    """Pairs of this window, and of one of the released model's length, in one proportion."""
    large_m = round(WINDOW * m / (m + l))
    windows = ((m, l), (large_m, WINDOW - large_m))
    rows = {
        "pairs": ("this window", f"{WINDOW:,} tokens"),
        "tokens: m + l": [f"{a:,} + {b:,}" for a, b in windows],
    }
    counts = [pairs(*window) for window in windows]
    for name, values in (
        ("layer 1", [first for first, _, _ in counts]),
        (f"{LAYERS} layers above", [above for _, above, _ in counts]),
        ("together", [first + above for first, above, _ in counts]),
        (f"full attention, {LAYERS + 1} layers", [full for *_, full in counts]),
    ):
        rows[name] = [f"{value:,}" for value in values]
    shares = [(first + above) / full for first, above, full in counts]
    rows["hybrid, of full attention"] = [f"{100 * share:.1f} %" for share in shares]
    right, cells = "text-align:right;padding:0 0 0 .6em", ""
    for name, row in rows.items():
        kind = 'th scope="col"' if name == "pairs" else "td"
        cells += (
            '<tr><th scope="row" style="text-align:left;padding:0 .6em 0 0;'
            f'font-weight:{700 if name == "pairs" else 400}">{name}</th>'
            + "".join(f'<{kind} style="{right}">{x}</{kind[:2]}>' for x in row)
            + "</tr>"
        )
    style = "font-size:.9em;font-variant-numeric:tabular-nums;width:auto"
    return f'<table style="{style}"><tbody>{cells}</tbody></table>'
