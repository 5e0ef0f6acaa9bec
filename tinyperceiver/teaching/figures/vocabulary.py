"""Chapter 2: the vocabulary, and how performances become its words."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import PAD, PERFORMANCE, STEPS_PER_SECOND
from tinyperceiver.teaching.drawing import Look, arrow, bare, box, canvas, panels
from tinyperceiver.teaching.music import EDGES, kind_of, name_of, pitch_name, times_of
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pretty_midi import PrettyMIDI

# The kinds of words in the order of their ids, as this chapter calls them.
COLORS = {"note on": BLUE, "note off": GREY, "wait": GREEN, "velocity": PINK}


def _color(token: int) -> str:
    return list(COLORS.values())[kind_of(token)]


def _cell(ax: "Axes", x: float, y: float, width: float, height: float, color: str, text="") -> None:
    box(ax, (x, y), (width, height), text, Look(color), fill=0.22, line=1)


def draw_vocabulary() -> "Figure":
    """The ids from left to right, with an example of each kind."""
    fig, ax = canvas(2.0, (-2, 430), (-1.25, 1.6))
    for (first, end), (kind, color) in zip(pairwise(EDGES), COLORS.items(), strict=True):
        _cell(ax, first, 0, end - first, 1, color)
        ax.text((first + end) / 2, 1.15, f"{kind}: {end - first}", ha="center")
        ax.text(first + 3, 0.5, f"{first}", va="center", fontsize=9)
    for token, left in ((PAD, 402), (PERFORMANCE, 416)):
        _cell(ax, left, 0, 11, 1, INK)
        text = {"ha": "center", "va": "center", "rotation": 90, "fontsize": 9}
        ax.text(left + 5.5, 0.5, f"{token}", **text)
    for token, x in ((60, 40), (188, 160), (305, 281), (376, 385)):
        arrow(ax, (x, -0.45), (token + 0.5, 0.35), arrowstyle="-", lw=0.9)
        words = f"{token}\n{name_of(token)}"
        ax.text(x, -0.8, words, ha="center", va="center", fontsize=9)
    return fig


def draw_tokens(tokens: Sequence[int]) -> "Figure":
    """A short piano roll above its tokens, and which moment each token speaks of.

    Args:
        tokens: up to about 24, with every note ended.
    """

    notes, steps = decode_midi(tokens).instruments[0].notes, times_of(tokens)
    slot = steps[-1] / len(tokens)  # as wide as the time that the roll shows
    low = min(note.pitch for note in notes) - 1.5
    high = max(note.pitch for note in notes) + 1
    unit = (high - low) / 10
    top, bottom = low - 4 * unit, low - 10.5 * unit  # of the boxes
    limits = (bottom - 2.8 * unit, high + 1.4 * unit)
    fig, ax = canvas(4.6, (-slot / 4, steps[-1] + slot / 4), limits)
    for note in notes:
        left, right = STEPS_PER_SECOND * note.start, STEPS_PER_SECOND * note.end
        _cell(ax, left, note.pitch - unit / 2, right - left, unit, BLUE)
        name = pitch_name(note.pitch)
        ax.text(left + slot / 6, note.pitch, name, va="center", fontsize=9)
    for place, (token, (begin, end)) in enumerate(zip(tokens, pairwise(steps), strict=True)):
        color, x = _color(token), place * slot
        _cell(ax, x + 0.08 * slot, bottom, 0.84 * slot, top - bottom, color)
        middle = x + slot / 2
        if end > begin:
            corners = [begin, end, x + 0.9 * slot, x + 0.1 * slot], [low, low, top, top]
            ax.fill(*corners, color=color, alpha=0.3, lw=0)
        else:
            ax.plot([begin, middle], [low, top], color=color, lw=1.1, ls="-")
        text = {"ha": "center", "rotation": 90, "fontsize": 9}
        ax.text(middle, (top + bottom) / 2, name_of(token), va="center", **text)
        ax.text(middle, bottom - 0.4 * unit, f"{token}", va="top", **text)
    ax.vlines(np.unique(steps), low, high, color=INK, lw=0.6, ls=":", alpha=0.6)
    ax.hlines(low, 0, steps[-1], color=INK, lw=0.8)
    title = "one dotted line for each moment at which something happens"
    ax.text(0, high + 0.3 * unit, title, fontsize=9)
    return fig


def _numbered(table: dict[str, Sequence], end: int, title: str, row: float, head: float) -> tuple:
    """Columns of numbers with their headings, and beside them places 0 to `end`: two panels.

    Row i lies at y = i; it is `row` inches high, and what is above the rows has `head` of them.
    """
    rows = len(next(iter(table.values())))
    widths = {"width_ratios": (1.1, 1.6), "sharey": True}
    fig, (left, right) = panels(row * (rows + head), 1, 2, **widths)
    for x, (heading, values) in enumerate(table.items()):
        left.text(x, -0.6, heading, ha="left", va="bottom", rotation=38, fontsize=9)
        for y, value in enumerate(values):
            left.text(x, y, f"{value}", ha="center", va="center")
    right.text(0, 0.65 - head, title, va="bottom", fontsize=9)
    left.set(xlim=(-0.5, len(table) + 0.2))
    right.set(xlim=(-0.4, end + 0.1), ylim=(rows - 0.4, -0.6 - head))
    left.axis("off")
    right.axis("off")
    return fig, right


def _number_places(ax: "Axes", y: float, texts: Iterable) -> None:
    for place, text in enumerate(texts):
        ax.text(place + 0.5, y, f"{text}", ha="center", va="bottom", fontsize=9)


def draw_places(table: dict[str, Sequence[int]], tokens: Sequence[int]) -> "Figure":
    """Where the tokens of each event land.

    Args:
        table: a column for each heading, a row for each event; the last column is the place
            after the event's tokens.
        tokens: of all events.
    """
    *_, after = table.values()
    fig, ax = _numbered(table, after[-1], "place among the tokens", 0.34, 2)
    for y, (begin, end) in enumerate(pairwise([0, *after])):
        ax.plot([-0.3, begin], [y, y], color=INK, lw=0.6, ls=":")
        for place in range(begin, end):
            _cell(ax, place, y - 0.42, 1, 0.84, _color(tokens[place]), f"{tokens[place]}")
    _number_places(ax, -0.6, range(after[-1]))
    return fig


def draw_rounding(played: Sequence[int]) -> "Figure":
    """Strokes as played, with gaps rounded to 10 ms, and with times rounded.

    Args:
        played: when the strokes come, in ms.
    """
    played = np.asarray(played)
    rows = {
        "played": (played, INK, "o"),
        "gaps rounded": (np.cumsum(10 * np.rint(np.diff(played, prepend=0) / 10)), ORANGE, "s"),
        "times rounded": (10 * np.rint(played / 10), BLUE, "D"),
    }
    fig, ax = panels(2.3)
    for y, (moments, color, marker) in enumerate(rows.values()):
        ax.hlines(y, 0, moments[-1], color=color, lw=1, alpha=0.5)
        ax.plot(moments, [y] * len(moments), marker, color=color, ms=7)
        for moment, off in zip(moments, moments - played, strict=True):
            text = f"{off:+.0f}".replace("-", "−") if off else f"{moment:.0f} ms"
            ax.text(moment, y - 0.22, text, ha="center", va="bottom", fontsize=9)
    last = 10 * int(np.ceil(played[-1] / 10))
    grid = range(0, last + 1, 10)
    ax.vlines(played, 0, 2.3, color=INK, lw=0.8, ls=":", alpha=0.6)
    ax.vlines(grid, 2.35, 2.55, color=INK, lw=1)
    ax.hlines(2.45, 0, last, color=INK, lw=1)
    for tick in grid:
        ax.text(tick, 2.6, f"{tick}", ha="center", va="top", fontsize=9)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(-2, last + 2), ylim=(2.95, -0.6), xticks=[])
    bare(ax)
    return fig


def draw_visits(
    starts: Sequence[float], pedals: Sequence[Sequence[float]], table: dict[str, Sequence[int]]
) -> "Figure":
    """Which of the listed notes each pedal goes through.

    Args:
        starts: of the notes as listed, in seconds.
        pedals: (p, 2), down and up in seconds.
        table: a number of each pedal for each heading, `stops`, `first` and `visits` among them.
    """
    ends = {"down": [f"{d:g}" for d, _ in pedals], "up": [f"{u:g}" for _, u in pedals]}
    fig, ax = _numbered(ends | table, len(starts), "place in the list, and start", 0.42, 2.5)
    _number_places(ax, -1.35, range(len(starts)))
    _number_places(ax, -0.6, [f"{start:g} s" for start in starts])
    rows = zip(pedals, table["stops"], table["first"], table["visits"], strict=True)
    for y, ((down, _), stops, first, visits) in enumerate(rows):
        for place in range(first, first + visits):
            is_before = starts[place] < down
            color = BLUE if stops and not is_before else GREY
            text = "before" if is_before else "held" if stops else "as it is"
            _cell(ax, place, y - 0.4, 1, 0.8, color, text)
        if stops:
            ax.text(first + visits + 0.1, y, "stop", va="center", fontsize=9)
    return fig


def draw_pedals(cases: dict[str, "PrettyMIDI"], holds: dict[str, Callable]) -> "Figure":
    """Notes and pedal of small performances, and below how long each rule lets them sound.

    Args:
        cases: by title, for each a column.
        holds: by title, for each a row: called with an instrument, they return its notes.
    """
    height = 1.15 * len(holds) + 0.35
    fig, axes = panels(height, len(holds), len(cases), sharex=True, sharey=True)
    for column, (title, midi) in zip(axes.T, cases.items(), strict=True):
        (piano,) = midi.instruments
        changes = [change.time for change in piano.control_changes]
        for ax, hold in zip(column, holds.values(), strict=True):
            for down, up in zip(changes[::2], changes[1::2], strict=True):
                ax.barh(58, up - down, 1.2, left=down, color=INK, alpha=0.35)
            seen = []
            for start, end, pitch, _ in zip(*(c.tolist() for c in hold(piano)), strict=True):
                y = pitch + seen.count((start, pitch))  # what comes twice stands above
                seen.append((start, pitch))
                ax.barh(y, end - start, 0.8, left=start, fc=(BLUE, 0.35), ec=BLUE)
            ax.set(xlim=(0, 3.2), ylim=(56.8, 64.8), xticks=[0, 1, 2, 3])
            ax.set_yticks([58], ["pedal"])
            ax.tick_params(length=0)
        column[0].set_title(title, fontsize=9.5)
        column[-1].set_xlabel("seconds")
    for ax, rule in zip(axes[:, 0], holds, strict=True):
        ax.set_ylabel(rule)
    return fig
