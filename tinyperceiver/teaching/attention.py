"""Chapter 5: attention heard and drawn, and its exercises checked."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.music import performance
from tinyperceiver.teaching.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    interactive,
    shades,
)

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from pretty_midi import PrettyMIDI

__all__ = [
    "check_attend_once",
    "check_hears_the_future",
    "check_slot",
    "check_split_heads",
    "check_window_mask",
    "draw_answers",
    "draw_cost",
    "draw_expectations",
    "draw_heads",
    "draw_masks",
    "draw_ring",
    "draw_saturation",
    "draw_weights",
    "look_back",
    "melody",
    "pitch_name",
]


# Notes


def melody(pitches: Tensor, seconds: float = 0.24) -> "PrettyMIDI":
    """One note after the other, `seconds` each; pitches (n,)."""
    return performance(
        (80, pitch, i * seconds, (i + 1) * seconds)
        for i, pitch in enumerate(pitches.tolist())
    )


def pitch_name(pitch: int) -> str:
    """C4 for 60."""
    from pretty_midi import note_number_to_name

    return note_number_to_name(int(pitch))


# Figures


def draw_expectations(notes: Tensor, panels: dict[str, Tensor]) -> "Figure":
    """What was played, and what a head expected there: a panel for each head.

    notes (n,); panels: title -> expected pitches, (n - 1,), of notes 1, 2, ...
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        len(panels), 1, figsize=(6.4, 1.75 * len(panels)), sharex=True, sharey=True
    )
    place = torch.arange(len(notes))
    for ax, (title, expected) in zip(axes, panels.items(), strict=True):
        right = expected == notes[1:]
        ax.scatter(place, notes, marker="_", s=34, color=GREY, lw=1.2)
        ax.scatter(place[1:][right], expected[right], s=15, color=BLUE)
        wrong = place[1:][~right], expected[~right]
        ax.scatter(*wrong, s=22, marker="x", lw=1.2, color=PINK)
        ax.set_title(f"{title}: {right.sum()} of {len(right)} right", loc="left")
        for bar in range(0, len(notes), 16):
            ax.axvline(bar - 0.5, color=INK, alpha=0.6, lw=0.8)
            ax.axvline(bar + 7.5, color=INK, alpha=0.35, lw=0.8, ls=":")
        ax.set(yticks=[60, 72], yticklabels=["C4", "C5"], xlim=(-0.6, len(notes) - 0.4))
        ax.set(xticks=range(0, len(notes), 8))
    axes[-1].set_xlabel("note")
    return fig


def draw_weights(panels: dict[str, Tensor], notes: Tensor) -> "Figure":
    """Attention weights, (n, n) each, side by side: a row for each query."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(6.4, 3.5), sharey=True)
    size = len(notes)
    for ax, (title, weights) in zip(axes, panels.items(), strict=True):
        ax.imshow(
            weights[:size, :size], cmap=shades(BLUE), vmin=0, vmax=1, aspect="equal"
        )
        ax.plot([-0.5, size - 0.5], [-0.5, size - 0.5], color=INK, lw=0.7, ls=":")
        ticks = range(0, size, 8)
        ax.set(xticks=ticks, yticks=ticks, title=title, xlabel="key $j$")
        for bar in range(16, size, 16):
            ax.axhline(bar - 0.5, color=INK, alpha=0.3, lw=0.6)
            ax.axvline(bar - 0.5, color=INK, alpha=0.3, lw=0.6)
    axes[0].set_ylabel("query $i$, the last note played")
    return fig


def draw_saturation(
    raw: Tensor, scaled: Tensor, entropies: dict[int, list[float]]
) -> "Figure":
    """Two softmaxes of the same scores, and how flat they are by number of channels.

    raw, scaled (n,): weights of one query; entropies: by d, raw and scaled.
    """
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.6))
    for weights, color, marker, label in (
        (raw, ORANGE, "s", "not divided"),
        (scaled, BLUE, "o", "divided by √d"),
    ):
        ordered = weights.sort(descending=True).values[:16]
        left.plot(range(1, 17), ordered, color=color, marker=marker, ms=4, label=label)
        row = [pair[marker == "o"] for pair in entropies.values()]
        right.plot(list(entropies), row, color=color, marker=marker, ms=4)
    left.set(xlabel="key, by weight", ylabel="weight", title="one query, $d$ = 96")
    left.set(xticks=[1, 4, 8, 12, 16], ylim=(0, 1.02))
    left.legend(loc="upper right")
    right.axhline(math.log(len(raw)), color=GREY, lw=1, ls=":")
    right.text(4, math.log(len(raw)) + 0.08, "all 64 alike", va="bottom", fontsize=9)
    right.set(xscale="log", xlabel="channels $d$", title="spread of the weights")
    right.set(ylabel="entropy (nats)", ylim=(0, 4.9), xticks=list(entropies))
    right.set_xticklabels([f"{d:,}" for d in entropies])
    right.minorticks_off()
    return fig


def draw_masks(panels: dict[str, Tensor]) -> "Figure":
    """Masks, (l, n) each, side by side: filled where query i may look at key j.

    The last row of each is framed: it is the query of the newest position.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    fig, axes = plt.subplots(1, len(panels), figsize=(6.4, 2.7))
    tallest = max(mask.size(0) for mask in panels.values())
    for ax, (title, mask) in zip(axes, panels.items(), strict=True):
        l, n = mask.shape
        for i in range(l):
            for j in range(n):
                seen = bool(mask[i, j])
                face = BLUE if seen else "none"
                ax.add_patch(
                    Rectangle((j, i), 0.9, 0.9, facecolor=face, edgecolor=GREY, lw=0.6)
                )
        ax.add_patch(
            Rectangle(
                (-0.12, l - 1.12), n + 0.14, 1.14, fill=False, edgecolor=INK, lw=1.4
            )
        )
        ax.set(xlim=(-0.3, n + 0.2), ylim=(tallest + 0.3, -0.3), aspect="equal")
        places, rows = [x + 0.45 for x in range(n)], [y + 0.45 for y in range(l)]
        ax.set_xticks(places, [str(j) for j in range(n)])
        ax.set_yticks(rows, [str(i + n - l) for i in range(l)])
        ax.set_title(title)
        ax.set_xlabel("key at position")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel("query at position")
    return fig


def draw_heads(*, n: int = 6, H: int = 3, d: int = 4) -> "Figure":
    """(B, n, D) cut into heads, each attended to, and put together again."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    fig, ax = plt.subplots(figsize=(6.4, 2.9))
    colors, cell = [BLUE, GREEN, PINK], 0.16

    def sheet(x: float, y: float, columns: list[str], rows: int = n) -> None:
        for column, color in enumerate(columns):
            for row in range(rows):
                place = (x + column * cell, y - (row + 1) * cell)
                ax.add_patch(
                    Rectangle(
                        place, 0.9 * cell, 0.9 * cell, facecolor=color, alpha=0.75
                    )
                )

    def label(x: float, y: float, text: str, va: str = "center") -> None:
        ax.text(x, y, text, ha="center", va=va)

    def arrow(x: float, y: float, to_x: float, to_y: float) -> None:
        style = {"arrowstyle": "->", "color": INK, "lw": 1}
        ax.annotate("", (to_x, to_y), (x, y), arrowprops=style)

    all_columns = [colors[h] for h in range(H) for _ in range(d)]
    wide, tall = H * d * cell, n * cell
    sheet(0, 2.45, all_columns)
    label(wide / 2, 2.65, "$Q$, $K$, $V$: $(B, n, D)$")
    label(wide / 2, 1.4, "one row a position,\n$H$ times $d$ channels", "top")
    sheet(7.9, 2.45, all_columns)
    label(7.9 + wide / 2, 2.65, "$(B, n, D)$")
    label(
        7.9 + wide / 2, 1.4, "side by side again,\nthen mixed by the\noutput map", "top"
    )
    names = ["head 0", "head 1", "head 2"]
    for h in range(H):
        y = 3.25 - 1.22 * h
        sheet(3.1, y, [colors[h]] * d)
        ax.text(2.98, y - tall / 2, names[h], ha="right", va="center", fontsize=9)
        for row in range(n):
            for column in range(row + 1):
                place = (4.6 + column * cell, y - (row + 1) * cell)
                box = Rectangle(
                    place, 0.9 * cell, 0.9 * cell, fill=False, edgecolor=colors[h]
                )
                ax.add_patch(box)
        sheet(6.55, y, [colors[h]] * d)
        arrow(3.1 + d * cell + 0.08, y - tall / 2, 4.52, y - tall / 2)
        arrow(4.6 + n * cell + 0.08, y - tall / 2, 6.47, y - tall / 2)
    label(3.1 + d * cell / 2, 3.45, "$(B, H, n, d)$")
    label(4.6 + n * cell / 2, 3.45, "its own weights")
    label(6.55 + d * cell / 2, 3.45, "$(B, H, n, d)$")
    arrow(wide + 0.08, 2.45 - tall / 2, 2.3, 2.45 - tall / 2)
    arrow(6.55 + d * cell + 0.1, 2.45 - tall / 2, 7.8, 2.45 - tall / 2)
    ax.set(xlim=(-0.1, 9.95), ylim=(-0.25, 3.6))
    ax.axis("off")
    return fig


def draw_answers(notes: Tensor, panels: dict[str, Tensor]) -> "Figure":
    """The weights of one query over the notes: a panel for each head, (n,) each."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        len(panels), 1, figsize=(6.4, 1.25 * len(panels) + 0.3), sharex=True
    )
    size = len(notes)
    for ax, (title, weights) in zip(axes, panels.items(), strict=True):
        ax.bar(range(size), weights, width=0.7, color=BLUE)
        for j in range(size):
            if weights[j] > 0.04:
                ax.text(j, weights[j] + 0.04, f"{weights[j]:.2f}", ha="center", size=9)
        ax.set(ylim=(0, 1.3), yticks=[0, 1], xlim=(-0.6, size - 0.4))
        ax.set_title(title, loc="left")
    axes[-1].set_xticks(
        range(size), [f"{pitch_name(p)}\n{j}" for j, p in enumerate(notes)]
    )
    axes[-1].set_xlabel("key: a note and its place")
    return fig


def draw_cost(lengths: list[int], times: dict[str, list[float]]) -> "Figure":
    """Seconds against tokens, both logarithmic, with the slope of n squared.

    times: label -> seconds for each of `lengths`.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.0))
    for (label, seconds), marker in zip(times.items(), "os", strict=False):
        ax.plot(lengths, [1000 * s for s in seconds], marker=marker, ms=5, label=label)
    last = 1000 * max(seconds[-1] for seconds in times.values())
    square = [2 * last * (n / lengths[-1]) ** 2 for n in lengths]
    ax.plot(lengths, square, color=GREY, ls=":", lw=1.2, label="slope of $n^2$")
    ax.set(xscale="log", yscale="log", xlabel="tokens $n$", ylabel="milliseconds")
    ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
    ax.minorticks_off()
    ax.legend()
    return fig


def draw_ring(capacity: int, steps: list[int]) -> "Figure":
    """What each slot of a ring holds after so many positions: a row for each step."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    fig, ax = plt.subplots(figsize=(6.4, 0.42 * len(steps) + 0.7))
    for row, seen in enumerate(steps):
        for slot in range(capacity):
            held = [p for p in range(seen) if p % capacity == slot]
            newest = bool(held) and held[-1] == seen - 1
            ax.add_patch(
                Rectangle(
                    (slot, row),
                    0.92,
                    0.8,
                    facecolor=BLUE if newest else "none",
                    alpha=0.6 if newest else 1,
                    edgecolor=INK if newest else GREY,
                    lw=1.8 if newest else 0.8,
                )
            )
            text = str(held[-1]) if held else "–"
            weight = "bold" if newest else "normal"
            ax.text(
                slot + 0.46, row + 0.42, text, ha="center", va="center", weight=weight
            )
        ax.text(
            -0.2,
            row + 0.42,
            f"after {seen} position{'s' * (seen > 1)}",
            ha="right",
            va="center",
        )
        if seen > capacity:
            note = f"{seen - 1 - capacity} overwritten"
            ax.text(capacity + 0.15, row + 0.42, note, va="center")
    for slot in range(capacity):
        ax.text(slot + 0.46, -0.3, f"slot {slot}", ha="center", va="center", fontsize=9)
    ax.set(xlim=(-3.2, capacity + 2.8), ylim=(len(steps), -0.7))
    ax.axis("off")
    return fig


# A head that moves

SHARPNESS = 4.0  # of the hand-made head: what one note that agrees adds to a score


def weights_of(notes: list[int], i: int, memory: int) -> list[float]:
    """Weights of query i over keys 0 ... i, by the chapter's hand-made head."""
    scores = [
        SHARPNESS * sum(_agree(notes, i, j, back) for back in range(memory))
        for j in range(i + 1)
    ]
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def _agree(notes: list[int], i: int, j: int, back: int) -> bool:
    return j - 1 - back >= 0 and notes[i - back] == notes[j - 1 - back]


def look_back(notes: Tensor, i: int = 15, memory: int = 4) -> "HTML":
    """A piano roll in which the reader moves the query and sees what it looks at."""
    pitches = notes.tolist()
    size, high = len(pitches), max(pitches) + 1
    step = 576 / size
    left, top, row, base = 70, 14, 8.6, 262

    def x(j: float) -> float:
        return round(left + step * j, 1)

    def y(pitch: float) -> float:
        return round(top + row * (high - pitch), 1)

    weights = weights_of(pitches, i, memory)
    chances = {}
    for j, weight in enumerate(weights):
        chances[pitches[j]] = chances.get(pitches[j], 0) + weight
    best = sorted(chances.items(), key=lambda item: (-item[1], item[0]))[:3]
    parts = []
    for pitch in sorted(set(pitches) & {60, 67, 72, 76}):
        parts.append(
            f'<path d="M{left} {y(pitch - 0.5)}h576" stroke="currentColor" '
            f'stroke-opacity=".15"/><text x="{left - 6}" y="{y(pitch - 0.5) + 6}" '
            f'text-anchor="end">{pitch_name(pitch)}</text>'
        )
    for bar in range(0, size, 16):
        parts.append(
            f'<path d="M{x(bar)} {top - 6}V{base}" stroke="currentColor" '
            f'stroke-opacity=".5"/><text x="{x(bar) + 3}" y="{base + 20}">'
            f"bar {bar // 16 + 1}</text>"
        )
    for j, pitch in enumerate(pitches):
        opacity = 0.3 + 0.7 * weights[j] if j <= i else 0.16
        height = round(50 * weights[j], 2) if j <= i else 0
        parts.append(
            f'<rect class="note" x="{x(j)}" y="{y(pitch)}" width="{step - 1.5:.1f}" '
            f'height="{row - 1}" fill="{BLUE}" fill-opacity="{opacity:.2f}"/>'
            f'<rect class="weight" x="{x(j)}" y="{base - height}" '
            f'width="{step - 1.5:.1f}" height="{height}" fill="{BLUE}"/>'
        )
    parts.append(
        f'<path d="M{left} {base}h576" stroke="currentColor"/>'
        f'<text x="{left - 6}" y="{base - 2}" text-anchor="end">weight</text>'
        f'<rect class="query" x="{x(i - memory + 1) - 1.5}" y="{top - 6}" '
        f'width="{step * memory + 1.5:.1f}" height="{y(min(pitches) - 1) - top + 10}" '
        'fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="5 3"/>'
    )
    for pitch, chance in best:
        parts.append(
            f'<rect class="expected" x="{x(i + 1) - 1}" y="{y(pitch) - 1.5}" '
            f'width="{step + 0.5:.1f}" height="{row + 2}" fill="none" '
            f'stroke="{GREEN}" stroke-width="2.5" '
            f'stroke-opacity="{max(chance, 0.12):.2f}"/>'
        )
    parts += ['<rect class="expected"/>'] * (3 - len(best))
    says = _sentence(pitches, i, memory, weights, best)
    style = "display:block;width:100%;max-width:640px"
    picture = (
        f'<svg role="img" aria-label="{says}" viewBox="0 0 655 290" '
        f'style="{style}" font-size="17" fill="currentColor">{"".join(parts)}</svg>'
        f'<p class="says" aria-live="polite" style="margin:.3em 0">{says}</p>'
    )
    slider = (
        '<label style="display:inline-block;margin-right:1.5em">{}<br>'
        '<input type="range" class="{}" min="{}" max="{}" value="{}" '
        'style="width:13em"> <output>{}</output></label>'
    )
    controls = slider.format("last note played", "i", 0, size - 2, i, i)
    controls += slider.format("notes that it compares", "memory", 1, 8, memory, memory)
    values = {
        "notes": pitches,
        "names": {str(p): pitch_name(p) for p in pitches},
        "sharpness": SHARPNESS,
        "left": left,
        "step": step,
        "top": top,
        "row": row,
        "high": high,
        "base": base,
    }
    script = f"const c = {json.dumps(values)};\n{LOOK_BACK}"
    caption = (
        "Dashed: the notes it has played last, the query. Blue columns: the weight of "
        "each note as an answer. Green: what it expects next, at its place on the "
        "roll. Move to the end of bar 1, let it compare one note only, then two, "
        "three, four."
    )
    return interactive("look-back", picture, controls, script, caption)


def _sentence(
    notes: list[int], i: int, memory: int, weights: list[float], best: list
) -> str:
    likely = [(p, chance) for p, chance in best if chance >= 0.005]
    chances = ", ".join(f"{pitch_name(p)} {100 * chance:.0f} %" for p, chance in likely)
    seen = sum(weight > 0.02 for weight in weights)
    places = f"{seen} note{'' if seen == 1 else 's'}"
    return (
        f"Last note {i} ({pitch_name(notes[i])}), {memory} compared: {places} with a weight "
        f"above 2 %. Expected: {chances}. Played: {pitch_name(notes[i + 1])}."
    )


LOOK_BACK = """
const find = (name) => [...picture.querySelectorAll("." + name)];
const [bars, rects, boxes] = [find("weight"), find("note"), find("expected")];
const sliders = ["i", "memory"].map((name) => controls.querySelector("." + name));
const x = (j) => c.left + c.step * j;
const y = (pitch) => c.top + c.row * (c.high - pitch);
const set = (element, values) => {
  for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
};
function weightsOf(i, memory) {
  const scores = [];
  for (let j = 0; j <= i; j++) {
    let agree = 0;
    for (let back = 0; back < memory; back++)
      if (j - 1 - back >= 0 && c.notes[i - back] === c.notes[j - 1 - back]) agree++;
    scores.push(c.sharpness * agree);
  }
  const top = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - top));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}
function draw() {
  const [i, memory] = sliders.map((slider) => Number(slider.value));
  sliders.forEach((slider) => (slider.nextElementSibling.textContent = slider.value));
  const weights = weightsOf(i, memory), chances = {};
  weights.forEach((w, j) => (chances[c.notes[j]] = (chances[c.notes[j]] || 0) + w));
  rects.forEach((rect, j) =>
    set(rect, { "fill-opacity": j <= i ? 0.3 + 0.7 * weights[j] : 0.16 }));
  bars.forEach((bar, j) => {
    const height = j <= i ? 50 * weights[j] : 0;
    set(bar, { y: c.base - height, height });
  });
  const first = Math.max(0, i - memory + 1);
  set(find("query")[0], { x: x(first) - 1.5, width: c.step * (i - first + 1) + 1.5 });
  const best = Object.entries(chances).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  boxes.forEach((box, rank) => {
    const [pitch, chance] = best[rank] || [0, 0];
    set(box, {
      x: x(i + 1) - 1, y: y(pitch) - 1.5, width: c.step + 0.5, height: c.row + 2,
      fill: "none", stroke: "GREEN", "stroke-width": 2.5,
      "stroke-opacity": rank < best.length ? Math.max(chance, 0.12) : 0,
    });
  });
  const seen = weights.filter((w) => w > 0.02).length;
  const says = `Last note ${i} (${c.names[c.notes[i]]}), ${memory} compared: ` +
    `${seen} note${seen === 1 ? "" : "s"} with a weight above 2 %. Expected: ` +
    best.slice(0, 3).filter(([p, w]) => w >= 0.005)
      .map(([p, w]) => `${c.names[p]} ${(100 * w).toFixed(0)} %`).join(", ") +
    `. Played: ${c.names[c.notes[i + 1]]}.`;
  find("says")[0].textContent = says;
  set(picture.querySelector("svg"), { "aria-label": says });
}
sliders.forEach((slider) => slider.addEventListener("input", draw));
draw();
""".replace("GREEN", GREEN)


# Exercises


def _shape_of(answer: object) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor of shape {tuple(answer.shape)}"
    return f"an object of type {type(answer).__name__}"


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), atol=1e-4, rtol=1e-4)


@checker
def check_attend_once(answer) -> str:
    random = torch.Generator().manual_seed(5)
    for n, d, e, size in ((1, 4, 3, 1), (5, 4, 3, 1), (6, 16, 2, 1), (4, 2, 4, 6)):
        query = size * torch.randn(d, generator=random)
        keys = torch.randn(n, d, generator=random)
        values = torch.randn(n, e, generator=random)
        found = answer(query, keys, values)
        if not isinstance(found, Tensor) or found.shape != (e,):
            raise Mistake(
                f"for {n} key{'s' * (n > 1)} and values of {e} numbers it returns "
                f"{_shape_of(found)}, "
                f"but an answer is a mixture of the values: shape ({e},)."
            )
        products = keys @ query
        expected = (products / d**0.5).softmax(0) @ values
        if _close(found, expected):
            continue
        spread = torch.softmax(keys * query / d**0.5, dim=0).sum(-1)
        typical = {
            "the scale is missing: the scores are not divided by the square root of d, "
            "so that the softmax is too sharp.": products.softmax(0) @ values,
            "the scores are divided by d, not by its square root, so that the softmax "
            "is too flat.": (products / d).softmax(0) @ values,
            "the scores are used without a softmax: they may be negative, and do not "
            "sum to 1.": products / d**0.5 @ values,
            "the scores are divided by their sum. That is no softmax: take their "
            "exponentials first.": (products / products.sum()) @ values,
            "the softmax runs over the channels of each key; it must run over the n "
            "scores.": spread @ values,
            f"the scores are divided by the square root of the number of keys, {n}. The "
            "scale is about d, the length of the query.": (
                (products / n**0.5).softmax(0) @ values
            ),
            f"the scores are divided by the square root of the values' length, {e}. The "
            "scale is about d, the length of the query.": (
                (products / e**0.5).softmax(0) @ values
            ),
            "it returns the value of the best key alone: the others count too, each by "
            "its weight.": values[products.argmax()],
        }
        for message, wrong in typical.items():
            if wrong.isfinite().all() and _close(found, wrong):
                raise Mistake(message)
        if n == 1:
            raise Mistake(
                "with a single key the weight is 1 and the answer is its value, "
                f"{values[0].tolist()}. Yours is {found.tolist()}: do the weights sum to 1, "
                "and is all in float32?"
            )
        raise Mistake(
            f"for d = {d} and n = {n} it returns {found.tolist()} where "
            f"{expected.tolist()} is right. Print the weights: are there n of them, do "
            "they sum to 1, and which scale did their scores have?"
        )
    return "With one key you return its value, and the weights of any query sum to 1."


@checker
def check_window_mask(answer) -> str:
    for l, n, reach in ((6, 6, 3), (3, 7, 3), (1, 5, 2), (4, 9, 1), (3, 5, 50)):
        found = answer(l, n, reach)
        if not isinstance(found, Tensor) or found.shape != (l, n):
            raise Mistake(
                f"window_mask({l}, {n}, {reach}) must be ({l}, {n}), one row a query, "
                f"but is {_shape_of(found)}."
            )
        if found.dtype != torch.bool:
            raise Mistake(f"the mask holds {found.dtype}: make it of True and False.")
        key = torch.arange(n)
        query = key[n - l :, None]
        near, past = key > query - reach, key <= query
        where = f"window_mask({l}, {n}, {reach})"
        left = torch.arange(l)[:, None]
        if l < n and torch.equal(found, (key <= left) & (key > left - reach)):
            raise Mistake(
                f"{where} is aligned at the left: its last row must end at the last key, "
                f"{n - 1}. The queries are the last {l} of {n} positions."
            )
        if torch.equal(found, ~(past & near)):
            raise Mistake(
                f"{where} is turned round: True means that the query may look at the key, "
                "False that it may not."
            )
        if l == n and torch.equal(found, (past & near).mT):
            raise Mistake(
                f"{where} has rows and columns exchanged: a row is a query, a column a key."
            )
        if (found & ~past).any():
            i, j = (found & ~past).nonzero()[0].tolist()
            raise Mistake(
                f"in {where} the query at position {i + n - l} looks at key {j}, which "
                "lies in the future."
            )
        if torch.equal(found, past) and not torch.equal(past, past & near):
            raise Mistake(
                f"{where} lets every query see the whole past: the limit to the last "
                f"{reach} keys is missing."
            )
        counts = found.sum(-1).tolist()
        if counts[-1] != min(reach, n):
            raise Mistake(
                f"off by one? The number of keys that the last query sees in {where} is "
                f"{counts[-1]}; with itself it should be {min(reach, n)}."
            )
        if not torch.equal(found, past & near):
            raise Mistake(
                f"{where} is\n{found.int()}\nbut should be\n{(past & near).int()}"
            )
    return "A row has at most `reach` keys, the last of which is the query itself."


ROUNDS = "an honest layer whose outputs differ by less than 0.000001 from call to call"


def _leaky_layers() -> dict[str, tuple]:
    """Name -> (layer, whether the future leaks): (n, D) -> (n, D) each."""
    random = torch.Generator().manual_seed(1)
    w = torch.randn(4, 4, generator=random)

    def layer(
        shift: int = 0, leak: tuple[int, int] | None = None, zero_after: bool = False
    ) -> Callable:
        def attention(x: Tensor) -> Tensor:
            n = len(x)
            scores = (x @ w) @ x.T / 4
            mask = torch.ones(n, n).tril(diagonal=shift).bool()
            if leak and max(leak) < n:
                mask[leak] = True
            if zero_after:
                return (scores.softmax(-1) * mask) @ x
            return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ x

        return attention

    honest = layer()

    def plus_next(strength: list[float]) -> Callable:
        """Each position also gets the next one's channels, times `strength`."""
        return lambda x: (
            honest(x) + torch.tensor(strength) * torch.cat((x[1:], 0 * x[:1]))
        )

    def rounds(x: Tensor) -> Tensor:
        return honest(x) + 3e-7 * (2 * torch.rand(x.shape, generator=random) - 1)

    leaky = {
        "a layer without any mask": layer(99),
        "a layer whose mask is shifted by one, so that each query sees one key too "
        "many": layer(1),
        "a layer that multiplies by the mask after the softmax": layer(zero_after=True),
        "a layer with a small leak, of about 0.0001": plus_next([1e-4] * 4),
        "a layer that leaks by the last channel alone": plus_next([0, 0, 0, 0.3]),
        "a layer whose leak adds to one channel what it takes from the next, so that "
        "their sum stays": plus_next([0.3, -0.3, 0.3, -0.3]),
    }
    for place in ((3, 4), (0, 1), (5, 6), (2, 5)):
        name = "a layer in which position {} alone sees position {}".format(*place)
        leaky[name] = layer(leak=place)
    fair = {
        "an honest layer": honest,
        "a layer that looks back two positions only": (
            lambda x: x + x.roll(2, 0) * (torch.arange(len(x)) >= 2)[:, None]
        ),
        ROUNDS: rounds,
    }
    return {name: (leaky[name], True) for name in leaky} | {
        name: (fair[name], False) for name in fair
    }


@checker
def check_hears_the_future(answer) -> str:
    random = torch.Generator().manual_seed(2)
    x = torch.randn(7, 4, generator=random)
    layers = _leaky_layers()
    found, asked = {}, {}  # asked: each tensor that a layer was given, and a copy of it

    def watched(layer: Callable, given: Tensor) -> Tensor:
        asked.setdefault(id(given), (given, given.clone()))
        return layer(given)

    for name, (layer, leaks) in layers.items():
        asked.clear()
        said = answer(partial(watched, layer), x)
        scalar = getattr(said, "ndim", None) == 0  # of PyTorch or NumPy
        found[name] = said.item() if scalar else said
        if not isinstance(found[name], bool):
            raise Mistake(f"return True or False, not {_shape_of(said)}.")
        if found[name] == leaks:
            continue
        if not all(then.isfinite().all() for _, then in asked.values()):
            raise Mistake(
                "it tries NaN or infinity. But 0 times NaN is NaN, so that a masked key is "
                "heard, too: change by finite numbers."
            )
        in_place = not all(torch.allclose(*pair) for pair in asked.values())
        if in_place and leaks:
            raise Mistake(
                "it changes a tensor that a layer has already been given, so that both "
                "outputs are of the changed one: clone x."
            )
        if in_place:
            raise Mistake(
                "it changes a tensor that a layer has already been given, so that "
                "its changes add up and an early one is taken for a later one: clone x "
                "for each."
            )
    if not any(found[name] for name, (_, leaks) in layers.items() if leaks):
        raise Mistake(
            "it finds no leak anywhere, not even in a layer without any mask. Are both "
            "outputs of the same x?"
        )
    for name, (_, leaks) in layers.items():
        if found[name] and not leaks and name == ROUNDS:
            raise Mistake(
                f"it accuses {name}, as rounding does. Call only larger differences a "
                "leak, and look at the largest: in a sum, rounding adds up."
            )
        if found[name] and not leaks:
            raise Mistake(
                f"it accuses {name}. The output at the changed position and after it "
                "may change: compare only those before."
            )
    for name, (_, leaks) in layers.items():
        if leaks and not found[name]:
            raise Mistake(
                f"it misses {name}. Change every position in turn, in all channels, look "
                "at the size of each difference in all outputs before it, and do not call a "
                "small one none."
            )
    return f"{len(found)} layers judged rightly, also those with a single leak."


@checker
def check_split_heads(answer) -> str:
    for B, n, H, d in ((1, 3, 2, 4), (2, 5, 3, 2), (2, 4, 4, 4)):
        x = torch.arange(B * n * H * d).view(B, n, H * d).float()
        found = answer(x, H)
        shape = (B, H, n, d)
        if not isinstance(found, Tensor) or found.dim() != 4:
            raise Mistake(f"it returns {_shape_of(found)}, not (B, H, n, d) = {shape}.")
        if found.shape == (B, n, H, d) and (n != H):
            raise Mistake(
                f"its shape is (B, n, H, d) = {tuple(found.shape)}: the heads must stand "
                "before the positions, so that each head's matrix is (n, d)."
            )
        if found.shape != shape:
            raise Mistake(f"it returns {_shape_of(found)}, not (B, H, n, d) = {shape}.")
        expected = torch.stack(x.split(d, dim=-1), dim=1)
        if torch.equal(found, expected):
            continue
        if torch.equal(found, x.reshape(B, H, n, d)):
            raise Mistake(
                "the shape is right but it mixes positions: a reshape reads the numbers "
                f"row by row, and head 0 gets position 0 {H} times over. Split the "
                "channels first, then exchange two axes."
            )
        if torch.equal(found, torch.stack([x[..., h::H] for h in range(H)], dim=1)):
            raise Mistake(
                f"head 0 gets one channel in every {H}: a head's {d} channels stand next to "
                "each other."
            )
        raise Mistake(
            f"head 1 of position 0 must be channels {d} to {2 * d - 1}, "
            f"{x[0, 0, d : 2 * d].tolist()}, but is {found[0, 1, 0].tolist()}."
        )
    return "Head h has channels h d to h d + d - 1 of every position."


@checker
def check_slot(answer) -> str:
    for capacity, keep in ((6, 2), (5, 1), (8, 0), (4, 3)):
        held = {}
        for position in range(50 * capacity):
            slot = answer(position, capacity, keep)
            where = f"slot({position}, {capacity}, {keep})"
            if isinstance(slot, bool) or not isinstance(slot, int):
                raise Mistake(f"{where} is {slot!r}: a slot is a whole number.")
            if not 0 <= slot < capacity:
                raise Mistake(f"{where} is {slot}: slots are 0 to {capacity - 1}.")
            gone = held.get(slot)
            if gone is not None and gone < keep:
                raise Mistake(
                    f"{where} overwrites position {gone}, which is among the first {keep} "
                    "and must be kept."
                )
            if gone is not None and len(held) < capacity:
                raise Mistake(
                    f"{where} overwrites position {gone} while slots are still empty: "
                    f"{capacity - len(held)} of {capacity}."
                )
            oldest = min((p for p in held.values() if p >= keep), default=None)
            if gone is not None and gone != oldest:
                raise Mistake(
                    f"{where} overwrites position {gone}, which is not the oldest: "
                    f"{oldest} is older and stays."
                )
            held[slot] = position
    return "The first `keep` positions stay, and of the others the newest."
