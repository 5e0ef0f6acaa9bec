"""Chapter 5: a head that looks back over the notes of a piano roll."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from tinyperceiver.teaching.music import pitch_name
from tinyperceiver.teaching.slider import Slider, slider_figure
from tinyperceiver.teaching.style import BLUE, GREEN

if TYPE_CHECKING:
    from IPython.display import HTML

SHARPNESS = 4.0  # of the hand-made head: what one note that agrees adds to a score
WIDTH, ROW = 576, 8.6  # of all notes, and of one pitch, in the drawing's own units
LEFT, TOP, BASE = 70, 14, 262  # where the roll begins, and on what the weights stand

CAPTION = (
    "Dashed: the notes it has played last, the query. Blue columns: the weight of "
    "each note as an answer. Green: what it expects next, at its place on the "
    "roll. Move to the end of bar 1, let it compare one note only, then two, "
    "three, four."
)


def look_back(notes: Tensor) -> "HTML":
    """A piano roll, pitches (n,), in which one moves the query and sees what it looks at."""
    pitches = notes.tolist()
    sliders = (
        Slider("i", "last note played", range(len(pitches) - 1), at=15),
        Slider("memory", "notes that it compares", range(1, 9), at=3),
    )
    return slider_figure("look-back", lambda **at: look_back_state(pitches, **at), sliders, CAPTION)


def weights_of(notes: list[int], i: int, memory: int) -> list[float]:
    """Weights of query i over keys 0 ... i, by the chapter's hand-made head."""
    powers = [
        math.exp(SHARPNESS * sum(_agree(notes, i, j, back) for back in range(memory)))
        for j in range(i + 1)
    ]
    return [power / sum(powers) for power in powers]


def _agree(notes: list[int], i: int, j: int, back: int) -> bool:
    return j - 1 - back >= 0 and notes[i - back] == notes[j - 1 - back]


def look_back_state(notes: list[int], i: int, memory: int) -> str:
    """The roll after note i, with the weights of a query of `memory` notes."""
    weights = weights_of(notes, i, memory)
    chances = {pitch: 0.0 for pitch in notes[: i + 1]}
    for pitch, weight in zip(notes, weights, strict=False):
        chances[pitch] += weight
    best = sorted(chances.items(), key=lambda item: (-item[1], item[0]))[:3]
    says = _sentence(notes, i, memory, weights, best)
    step, high = WIDTH / len(notes), max(notes) + 1
    parts = _grid(notes)
    for j, pitch in enumerate(notes):
        opacity = 0.3 + 0.7 * weights[j] if j <= i else 0.16
        parts += (
            f'<rect x="{LEFT + step * j:.1f}" y="{TOP + ROW * (high - pitch):.1f}" '
            f'width="{step - 1.5:.1f}" height="{ROW - 1}" fill="{BLUE}" '
            f'fill-opacity="{opacity:.2f}"/>'
        )
    columns = "".join(
        f"M{LEFT + step * j:.1f} {BASE}h{step - 1.5:.1f}v{-50 * weight:.1f}h{1.5 - step:.1f}z"
        for j, weight in enumerate(weights)
        if weight > 0.001
    )
    first = max(0, i - memory + 1)
    parts += (
        f'<path d="{columns}" fill="{BLUE}"/>'
        f'<rect x="{LEFT + step * first - 1.5:.1f}" y="{TOP - 6}" '
        f'width="{step * (i - first + 1) + 1.5:.1f}" '
        f'height="{ROW * (high - min(notes) + 1) + 10:.1f}" '
        'fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="5 3"/>'
    )
    for pitch, chance in best + [(high, 0)] * (3 - len(best)):
        parts += (
            f'<rect x="{LEFT + step * (i + 1) - 1:.1f}" '
            f'y="{TOP + ROW * (high - pitch) - 1.5:.1f}" width="{step + 0.5:.1f}" '
            f'height="{ROW + 2}" fill="none" stroke="{GREEN}" stroke-width="2.5" '
            f'stroke-opacity="{max(chance, 0.12) if chance else 0:.2f}"/>'
        )
    return (
        f'<svg role="img" aria-label="{says}" viewBox="0 0 655 290" '
        'style="display:block;width:100%;max-width:640px" font-size="17" '
        f'fill="currentColor">{parts}</svg>'
        f'<p aria-live="polite" style="margin:.3em 0">{says}</p>'
    )


def _grid(notes: list[int]) -> str:
    """Lines at some pitches, at the bars, and below the weights."""
    parts, high = "", max(notes) + 1
    for pitch in sorted(set(notes) & {60, 67, 72, 76}):
        y = TOP + ROW * (high - pitch + 0.5)
        parts += (
            f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="currentColor" '
            f'stroke-opacity=".15"/><text x="{LEFT - 6}" y="{y + 6:.1f}" '
            f'text-anchor="end">{pitch_name(pitch)}</text>'
        )
    for bar in range(0, len(notes), 16):
        x = LEFT + WIDTH / len(notes) * bar
        parts += (
            f'<path d="M{x:g} {TOP - 6}V{BASE}" stroke="currentColor" '
            f'stroke-opacity=".5"/><text x="{x + 3:g}" y="{BASE + 20}">'
            f"bar {bar // 16 + 1}</text>"
        )
    return parts + (
        f'<path d="M{LEFT} {BASE}h{WIDTH}" stroke="currentColor"/>'
        f'<text x="{LEFT - 6}" y="{BASE - 2}" text-anchor="end">weight</text>'
    )


def _sentence(notes: list[int], i: int, memory: int, weights: list[float], best: list) -> str:
    likely = [(pitch, chance) for pitch, chance in best if chance >= 0.005]
    chances = ", ".join(f"{pitch_name(p)} {100 * chance:.0f} %" for p, chance in likely)
    seen = sum(weight > 0.02 for weight in weights)
    return (
        f"Last note {i} ({pitch_name(notes[i])}), {memory} compared: {seen} "
        f"note{'' if seen == 1 else 's'} with a weight above 2 %. Expected: {chances}. "
        f"Played: {pitch_name(notes[i + 1])}."
    )
