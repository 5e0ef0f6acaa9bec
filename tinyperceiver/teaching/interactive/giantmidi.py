"""Chapter 8: where the windows of each step fall in the pieces."""

import html
from typing import TYPE_CHECKING

from tinyperceiver.dataset.windows import IGNORED, Batch, Windows
from tinyperceiver.teaching.slider import Slider, slider_figure
from tinyperceiver.teaching.style import BLUE, ORANGE

if TYPE_CHECKING:
    from IPython.display import HTML

WIDTH, ROW, NAME = 500, 12, 20  # of the longest piece, of a row of a batch, of a piece's name

LABEL = "Five pieces as bars, and in them the windows of a step: prefix and latents of each row"
CAPTION = (
    "Move through the steps, forwards and backwards: each is what it is, whatever came before. "
    "Outlined: prefix. Filled: latents. The rows of a step share a prefix length."
)


def explore_windows(windows: Windows, names: list[str], num_steps: int, num_rows: int) -> "HTML":
    """Where the rows of each step fall in the pieces: a slider over the steps.

    Args:
        windows: of few and short pieces, without augmentation.
        names: of the pieces, in order.
    """
    pieces = [windows.data[i].tolist() for i in range(len(windows.data))]

    def state(step: int) -> str:
        return step_state(step, windows[step, range(num_rows)], pieces, names)

    sliders = [Slider("step", "step", range(num_steps))]
    return slider_figure("windows-of-a-step", state, sliders, CAPTION)


def step_state(step: int, batch: Batch, pieces: list[list[int]], names: list[str]) -> str:
    """The picture of a step: the pieces as bars, and where the rows of its batch lie."""
    scale = WIDTH / max(map(len, pieces))
    high = ROW * len(batch.tokens) + 8
    bars = prefix = latents = ""
    for i, (name, piece) in enumerate(zip(names, pieces, strict=True)):
        y = i * (high + NAME)
        bars += (
            f'<text x="0" y="{y + 14}">{html.escape(name)}, {len(piece):,} tokens</text>'
            f'<rect x="0" y="{y + NAME}" width="{len(piece) * scale:.1f}" height="{high}" '
            'fill="none" stroke="currentColor" stroke-opacity=".5"/>'
        )
    places = places_of(batch, pieces)
    for row, (piece, start, m, known) in enumerate(places):
        y = piece * (high + NAME) + NAME + 5 + ROW * row
        if m:
            prefix += f"M{start * scale:.1f} {y + 1}h{m * scale:.1f}v7h{-m * scale:.1f}z"
        width = known * scale
        latents += f"M{(start + m) * scale:.1f} {y}h{width:.1f}v9h{-width:.1f}z"
    rows = "; ".join(
        f"row {row}: {names[piece]} from token {start}"
        for row, (piece, start, *_) in enumerate(places)
    )
    says = f"Step {step}: a prefix of {max(m for _, _, m, _ in places)} tokens; {rows}."
    return (
        f'<svg role="img" aria-label="{LABEL}" viewBox="0 0 {WIDTH + 10} '
        f'{len(pieces) * (high + NAME) + 4}" style="display:block;width:100%;max-width:640px" '
        f'fill="currentColor" font-size="13">{bars}'
        f'<path fill="none" stroke="{ORANGE}" stroke-width="2" d="{prefix}"/>'
        f'<path fill="{BLUE}" d="{latents}"/></svg>'
        '<p aria-live="polite" style="margin:.3em 0;min-height:3.2em">'
        f"{html.escape(says)}</p>"
    )


def places_of(batch: Batch, pieces: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """Piece, start, prefix and latents of each row, found again by their tokens."""
    texts = ["".join(map(chr, piece)) for piece in pieces]
    found = []
    for row, tokens in enumerate(batch.tokens.tolist()):
        pads = 0 if batch.pad_mask is None else int(batch.pad_mask[row].sum())
        known = int((batch.targets[row] != IGNORED).sum())
        text = "".join(map(chr, tokens[pads : batch.prefix_len + known]))
        piece = next(i for i, whole in enumerate(texts) if text in whole)
        found.append((piece, texts[piece].index(text), batch.prefix_len - pads, known))
    return found
