"""Chapter 2: what the vocabulary of events looks like, and its exercises."""

import base64
import html
import json
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import decode_midi, encode_midi
from tinyperceiver.music.vocabulary import (
    NOTE_OFF,
    NOTE_ON,
    NUM_EVENTS,
    PAD,
    PERFORMANCE,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
)
from tinyperceiver.sound.encoding import mp3_bytes
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.music import (
    kind_of,
    name_of,
    times_of,
)
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
    from matplotlib.figure import Figure
    from pretty_midi import PrettyMIDI

__all__ = [
    "KINDS",
    "check_loose_ends",
    "check_shorten",
    "check_stretch",
    "check_transpose",
    "draw_pedals",
    "draw_places",
    "draw_rounding",
    "draw_tokens",
    "draw_visits",
    "draw_vocabulary",
    "scrub",
]

# Name, first id, colour of each kind of event, in the order of their ids.
KINDS = (
    ("note on", NOTE_ON, BLUE),
    ("note off", NOTE_OFF, GREY),
    ("wait", TIME_SHIFT, GREEN),
    ("velocity", VELOCITY, PINK),
)


# Performances and tokens


# Figures


def draw_vocabulary() -> "Figure":
    """The ids from left to right, with an example of each kind."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.0))
    ends = [first for _, first, _ in KINDS[1:]] + [NUM_EVENTS]
    for (kind, first, color), end in zip(KINDS, ends, strict=True):
        ax.add_patch(_box(first, 0, end - first, 1, color))
        ax.text((first + end) / 2, 1.15, f"{kind}: {end - first}", ha="center")
        ax.text(first + 3, 0.5, f"{first}", va="center", fontsize=9)
    for token, left in ((PAD, 402), (PERFORMANCE, 416)):
        ax.add_patch(_box(left, 0, 11, 1, INK))
        text = {"ha": "center", "va": "center", "rotation": 90, "fontsize": 9}
        ax.text(left + 5.5, 0.5, f"{token}", **text)
    for token, x in ((60, 40), (188, 160), (305, 281), (376, 385)):
        line = {"arrowstyle": "-", "color": INK, "lw": 0.9, "shrinkB": 0}
        ax.annotate(
            f"{token}\n{name_of(token)}",
            (token + 0.5, 0.35),
            (x, -0.8),
            ha="center",
            va="center",
            fontsize=9,
            arrowprops=line,
        )
    ax.set(xlim=(-2, 430), ylim=(-1.25, 1.6))
    ax.axis("off")
    return fig


def _box(x: float, y: float, width: float, height: float, color: str):
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    return Rectangle(
        (x, y), width, height, facecolor=(*to_rgb(color), 0.22), edgecolor=color, lw=1
    )


def draw_tokens(tokens: Sequence[int]) -> "Figure":
    """A short piano roll above its tokens, and which moment each token speaks of.

    Args:
        tokens: up to about 24, with every note ended.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Polygon
    from pretty_midi import note_number_to_name

    notes = decode_midi(tokens).instruments[0].notes
    steps = times_of(tokens)
    slot = steps[-1] / len(tokens)  # as wide as the time that the roll shows
    pitches = [note.pitch for note in notes]
    low, high = min(pitches) - 1.5, max(pitches) + 1
    unit = (high - low) / 10
    fig, ax = plt.subplots(figsize=(6.4, 4.6))
    for note in notes:
        left, right = (STEPS_PER_SECOND * time for time in (note.start, note.end))
        ax.add_patch(_box(left, note.pitch - unit / 2, right - left, unit, BLUE))
        name = note_number_to_name(note.pitch)
        ax.text(left + slot / 6, note.pitch, name, va="center", fontsize=9)
    top, bottom = low - 4 * unit, low - 10.5 * unit  # of the boxes
    for place, token in enumerate(tokens):
        color = KINDS[kind_of(token)][2]
        x, begin, end = place * slot, steps[place], steps[place + 1]
        ax.add_patch(_box(x + 0.08 * slot, bottom, 0.84 * slot, top - bottom, color))
        middle = x + slot / 2
        if end > begin:
            corners = [
                (begin, low),
                (end, low),
                (x + 0.9 * slot, top),
                (x + 0.1 * slot, top),
            ]
            band = Polygon(corners, facecolor=color, alpha=0.3, lw=0)
            ax.add_patch(band)
        else:
            ax.plot([begin, middle], [low, top], color=color, lw=1.1, ls="-")
        label = name_of(token)
        text = {"ha": "center", "rotation": 90, "fontsize": 9}
        ax.text(middle, (top + bottom) / 2, label, va="center", **text)
        ax.text(middle, bottom - 0.4 * unit, f"{token}", va="top", **text)
    for step in np.unique(steps):
        ax.plot([step, step], [low, high], color=INK, lw=0.6, ls=":", alpha=0.6)
    ax.plot([0, steps[-1]], [low, low], color=INK, lw=0.8, ls="-")
    title = "one dotted line for each moment at which something happens"
    ax.text(0, high + 0.3 * unit, title, fontsize=9)
    limits = (bottom - 2.8 * unit, high + 1.4 * unit)
    ax.set(xlim=(-slot / 4, steps[-1] + slot / 4), ylim=limits)
    ax.axis("off")
    return fig


def draw_places(table: dict[str, Sequence[int]], tokens: Sequence[int]) -> "Figure":
    """Where the tokens of each event land.

    Args:
        table: a column for each heading, a row for each event; the last column is the place
            after the event's tokens.
        tokens: of all events.
    """
    import matplotlib.pyplot as plt

    *_, after = table.values()
    fig, (left, right) = plt.subplots(
        1,
        2,
        figsize=(6.4, 0.34 * (len(after) + 2)),
        width_ratios=(1.15, 1.6),
        sharey=True,
    )
    _draw_table(left, table)
    for y, (begin, end) in enumerate(zip([0, *after[:-1]], after, strict=True)):
        right.plot([-0.3, begin], [y, y], color=INK, lw=0.6, ls=":")
        for place in range(begin, end):
            right.add_patch(
                _box(place, y - 0.42, 1, 0.84, KINDS[kind_of(tokens[place])][2])
            )
            right.text(
                place + 0.5, y, f"{tokens[place]}", ha="center", va="center", fontsize=9
            )
    for place in range(after[-1]):
        right.text(place + 0.5, -0.6, f"{place}", ha="center", va="bottom", fontsize=9)
    right.text(0, -1.35, "place among the tokens", va="bottom", fontsize=9)
    left.set(xlim=(-0.5, len(table) + 0.2))
    right.set(xlim=(-0.4, after[-1] + 0.1), ylim=(len(after) - 0.4, -2.6))
    left.axis("off")
    right.axis("off")
    return fig


def _draw_table(ax, table: dict[str, Sequence[int]]) -> None:
    """Columns of numbers with their headings; row i is drawn at y = i."""
    for x, (heading, values) in enumerate(table.items()):
        ax.text(x, -0.6, heading, ha="left", va="bottom", rotation=38, fontsize=9)
        for y, value in enumerate(values):
            ax.text(x, y, f"{value}", ha="center", va="center")


def draw_rounding(played: Sequence[int]) -> "Figure":
    """Strokes as played, with gaps rounded to 10 ms, and with times rounded.

    Args:
        played: when the strokes come, in ms.
    """
    import matplotlib.pyplot as plt

    played = np.asarray(played)
    gaps = np.diff(played, prepend=0)
    rows = {
        "played": (played, INK, "o"),
        "gaps rounded": (np.cumsum(10 * np.rint(gaps / 10)), ORANGE, "s"),
        "times rounded": (10 * np.rint(played / 10), BLUE, "D"),
    }
    fig, ax = plt.subplots(figsize=(6.4, 2.3))
    for y, (moments, color, marker) in enumerate(rows.values()):
        ax.plot([0, moments[-1]], [y, y], color=color, lw=1, ls="-", alpha=0.5)
        ax.plot(moments, np.full(len(moments), y), marker, color=color, ms=7)
        for moment, right in zip(moments, played, strict=True):
            off = moment - right
            text = f"{off:+.0f}".replace("-", "−") if off else f"{moment:.0f} ms"
            ax.text(moment, y - 0.22, text, ha="center", va="bottom", fontsize=9)
    for moment in played:
        ax.plot([moment, moment], [0, 2.3], color=INK, lw=0.8, ls=":", alpha=0.6)
    last = 10 * int(np.ceil(played[-1] / 10))
    for tick in range(0, last + 1, 10):
        ax.plot([tick, tick], [2.35, 2.55], color=INK, lw=1, ls="-")
        ax.text(tick, 2.6, f"{tick}", ha="center", va="top", fontsize=9)
    ax.plot([0, last], [2.45, 2.45], color=INK, lw=1, ls="-")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(-2, last + 2), ylim=(2.95, -0.6), xticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def draw_visits(
    starts: Sequence[float],
    pedals: Sequence[Sequence[float]],
    table: dict[str, Sequence[int]],
) -> "Figure":
    """Which of the listed notes each pedal goes through.

    Args:
        starts: of the notes as listed, in seconds.
        pedals: (p, 2), down and up in seconds.
        table: a number of each pedal for each heading, `stops`, `first` and `visits` among them.
    """
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(
        1,
        2,
        figsize=(6.4, 0.42 * (len(pedals) + 3)),
        width_ratios=(1.1, 1.6),
        sharey=True,
    )
    _draw_table(
        left,
        {"down": [f"{d:g}" for d, _ in pedals], "up": [f"{u:g}" for _, u in pedals]}
        | table,
    )
    for place, start in enumerate(starts):
        right.text(place + 0.5, -1.35, f"{place}", ha="center", va="bottom", fontsize=9)
        right.text(
            place + 0.5, -0.6, f"{start:g} s", ha="center", va="bottom", fontsize=9
        )
    right.text(0, -2.1, "place in the list, and start", va="bottom", fontsize=9)
    rows = zip(pedals, table["stops"], table["first"], table["visits"], strict=True)
    for y, ((down, _), stops, first, visits) in enumerate(rows):
        for place in range(first, first + visits):
            is_held = stops and starts[place] >= down
            right.add_patch(_box(place, y - 0.4, 1, 0.8, BLUE if is_held else GREY))
            text = (
                "held" if is_held else "before" if starts[place] < down else "as it is"
            )
            right.text(place + 0.5, y, text, ha="center", va="center", fontsize=9)
        if stops:
            right.text(first + visits + 0.1, y, "stop", va="center", fontsize=9)
    left.set(xlim=(-0.5, len(table) + 2.2))
    right.set(xlim=(-0.2, len(starts) + 0.1), ylim=(len(pedals) - 0.4, -2.9))
    left.axis("off")
    right.axis("off")
    return fig


def draw_pedals(cases: dict[str, "PrettyMIDI"], holds: dict[str, Callable]) -> "Figure":
    """Notes and pedal of small performances, and below how long each rule lets them sound.

    Args:
        cases: by title, for each a column.
        holds: by title, for each a row: called with an instrument, they return its notes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgb

    fig, axes = plt.subplots(
        len(holds),
        len(cases),
        figsize=(6.4, 1.15 * len(holds) + 0.35),
        sharex=True,
        sharey=True,
    )
    for column, (title, midi) in zip(axes.T, cases.items(), strict=True):
        (piano,) = midi.instruments
        changes = [change.time for change in piano.control_changes]
        for ax, hold in zip(column, holds.values(), strict=True):
            for down, up in zip(changes[::2], changes[1::2], strict=True):
                ax.barh(58, up - down, 1.2, left=down, color=INK, alpha=0.35)
            seen = []
            notes = zip(*(part.tolist() for part in hold(piano)), strict=True)
            for start, end, pitch, _ in notes:
                again = seen.count((start, pitch))  # what comes twice stands above
                seen.append((start, pitch))
                look = {"color": (*to_rgb(BLUE), 0.35), "edgecolor": BLUE}
                ax.barh(pitch + again, end - start, 0.8, left=start, **look)
            ax.set(xlim=(0, 3.2), ylim=(56.8, 64.8), xticks=[0, 1, 2, 3])
            ax.set_yticks([58], ["pedal"])
            ax.tick_params(length=0)
        column[0].set_title(title, fontsize=9.5)
        column[-1].set_xlabel("seconds")
    for ax, rule in zip(axes[:, 0], holds, strict=True):
        ax.set_ylabel(rule)
    return fig


# The piano roll under a playhead

ROWS = 11  # tokens in sight

SCRUB = """
const {tokens, notes, rows, names} = DATA;
const last = tokens.length - 1, end = tokens[last][3];
const slider = controls.querySelector("input"), told = controls.querySelector("output");
const audio = picture.querySelector("audio"), say = picture.querySelector(".say");
const head = picture.querySelector(".head"), items = picture.querySelectorAll("li");
const bars = picture.querySelectorAll(".note"), keys = picture.querySelectorAll(".key");
const isWait = i => tokens[i][3] > tokens[i][2];
let playing = 0;

function draw(step) {
  let to = last;                       // the last token whose moment has come
  while (to > 0 && tokens[to][2] > step) to--;
  let from = to;                       // with the events since the wait before
  while (from > 0 && !isWait(from - 1)) from--;
  const first = Math.max(0, to - rows + 1, Math.min(from - 3, last + 1 - rows));
  items.forEach((item, row) => {
    const i = first + row, now = i >= from && i <= to;
    item.firstChild.textContent = tokens[i][0];
    item.lastChild.textContent = tokens[i][1];
    item.style.borderColor = now ? "currentColor" : "transparent";
    item.style.fontWeight = now ? 700 : 400;
    item.style.opacity = now ? 1 : 0.75;
  });
  const sounding = new Set();
  notes.forEach(([start, stop, pitch], i) => {
    const now = start <= step && step < stop;
    if (now) sounding.add(pitch);
    bars[i].setAttribute("stroke-opacity", now ? 1 : 0);
    bars[i].setAttribute("fill-opacity", now ? 1 : 0.45);
  });
  keys.forEach(key => key.setAttribute("fill-opacity",
    sounding.has(Number(key.dataset.pitch)) ? 1 : 0));
  head.setAttribute("x1", step); head.setAttribute("x2", step);
  const heard = [...sounding].sort((a, b) => a - b).map(pitch => names[pitch]);
  const seconds = (step / 100).toFixed(2) + " s";
  const said = tokens.slice(from, to + 1).map(token => token[1]).join(", ");
  say.textContent = `At ${seconds}: ${said}. Sounding: ${heard.join(", ") || "nothing"}.`;
  told.textContent = seconds;
  slider.value = step;
  slider.setAttribute("aria-valuetext", seconds);
}
function seek(step) {
  audio.currentTime = step / 100;
  draw(step);
}
function follow() {
  draw(Math.min(end, Math.floor(audio.currentTime * 100)));
  if (!audio.paused && !audio.ended) playing = requestAnimationFrame(follow);
}
slider.addEventListener("input", () => seek(Number(slider.value)));
const moments = [...new Set(tokens.map(token => token[2])), end];
controls.querySelector(".back").addEventListener("click", () =>
  seek(moments.filter(moment => moment < slider.value).pop() ?? 0));
controls.querySelector(".on").addEventListener("click", () =>
  seek(moments.find(moment => moment > slider.value) ?? end));
audio.addEventListener("play", () => {
  say.setAttribute("aria-live", "off");  // or it would speak over the music
  cancelAnimationFrame(playing);
  follow();
});
audio.addEventListener("pause", () => say.setAttribute("aria-live", "polite"));
draw(Number(slider.value));
"""


def scrub(
    midi: "PrettyMIDI",
    tokens: Sequence[int],
    name: str,
    at: float = 0.0,
    caption: str = "",
) -> "HTML":
    """A piano roll with a playhead to be moved, and the tokens of that moment.

    Args:
        midi: what is heard, with notes and pedal.
        tokens: what is shown, at least 11, with every note ended.
        name: of the element, once on a page.
        at: where the playhead stands at first, in seconds.
        caption: what to try; HTML.
    """
    from pretty_midi import note_number_to_name

    steps = times_of(tokens).tolist()
    notes = [
        (
            round(STEPS_PER_SECOND * note.start),
            round(STEPS_PER_SECOND * note.end),
            note.pitch,
        )
        for note in decode_midi(tokens).instruments[0].notes
    ]
    low, high = min(note[2] for note in notes) - 2, max(note[2] for note in notes) + 2
    step, end = round(STEPS_PER_SECOND * at), steps[-1]
    to = max(i for i in range(len(tokens)) if steps[i] <= step)
    begin = to
    while begin and steps[begin - 1] == steps[begin]:
        begin -= 1
    first = max(0, to - ROWS + 1, min(begin - 3, len(tokens) - ROWS))
    heard = sorted({pitch for start, stop, pitch in notes if start <= step < stop})
    said = ", ".join(name_of(token) for token in tokens[begin : to + 1])
    names = {pitch: note_number_to_name(pitch) for pitch in range(low, high + 1)}
    sounding = ", ".join(names[pitch] for pitch in heard) or "nothing"
    sentence = f"At {at:.2f} s: {said}. Sounding: {sounding}."

    label = html.escape(
        f"Piano roll of {len(notes)} notes in {end / STEPS_PER_SECOND:.1f} seconds with a "
        "playhead; the keyboard at its left shows the keys that sound.",
        quote=True,
    )
    mp3 = base64.b64encode(mp3_bytes(midi)).decode()
    row = (
        '<li style="border-left:.25em solid {};padding:0 .5em;font-weight:{};opacity:{}">'
        '<span style="display:inline-block;width:2.6em;font-family:monospace">{}</span>'
        "<span>{}</span></li>"
    )
    rows = "".join(
        row.format(
            *(
                ("currentColor", 700, 1)
                if begin <= i <= to
                else ("transparent", 400, 0.75)
            ),
            tokens[i],
            name_of(tokens[i]),
        )
        for i in range(first, first + ROWS)
    )
    picture = (
        '<div style="display:flex;flex-wrap:wrap;gap:.5em 1em">'
        f'<div style="flex:1 1 17em;min-width:0;position:relative;padding-left:2.2em">'
        f"{_scrub_roll(notes, low, high, end, step, heard, label)}</div>"
        '<ol aria-label="Tokens around the playhead" style="flex:0 0 13em;list-style:none;'
        f'margin:0;padding:0;font-size:.9em;line-height:1.6">{rows}</ol></div>'
        f'<p class="say" aria-live="polite" style="min-height:3em;margin:.4em 0">{sentence}</p>'
        f'<audio controls preload="metadata" aria-label="The same passage" '
        f'style="width:100%;max-width:36rem" src="data:audio/mpeg;base64,{mp3}"></audio>'
    )
    controls = (
        '<div style="display:flex;flex-wrap:wrap;gap:.5em;align-items:center">'
        '<button type="button" class="back">◂ event before</button>'
        '<label style="flex:1 1 12em;display:flex;gap:.5em">Time '
        f'<input type="range" min="0" max="{end}" step="1" value="{step}" style="flex:1"></label>'
        f'<output style="min-width:4em">{at:.2f} s</output>'
        '<button type="button" class="on">event after ▸</button></div>'
    )
    data = {
        "tokens": [
            [int(token), name_of(token), steps[i], steps[i + 1]]
            for i, token in enumerate(tokens)
        ],
        "notes": notes,
        "rows": ROWS,
        "names": names,
    }
    script = SCRUB.replace("DATA", json.dumps(data, separators=(",", ":")), 1)
    return interactive(name, picture, controls, script, caption)


def _scrub_roll(notes, low, high, end, step, heard, label) -> str:
    """Keyboard and roll as an SVG that stretches; the octaves' names keep their size."""
    height, wide = 10 * (high - low + 1), end // 16
    keys = bars = names = ""
    for pitch in range(low, high + 1):
        y = 10 * (high - pitch)
        is_black = pitch % 12 in (1, 3, 6, 8, 10)
        keys += (
            f'<rect x="{-wide}" y="{y}" width="{wide * 0.9:g}" height="10" fill="currentColor" '
            f'fill-opacity="{0.5 if is_black else 0.08}" stroke="currentColor" stroke-opacity=".4" '
            f'stroke-width=".6" vector-effect="non-scaling-stroke"/>'
            f'<rect class="key" data-pitch="{pitch}" x="{-wide}" y="{y + 1}" '
            f'width="{wide * 0.9:g}" height="8" fill="{GREEN}" fill-opacity="{pitch in heard:d}"/>'
        )
        if pitch % 12 == 0:
            names += (
                f'<span aria-hidden="true" style="position:absolute;left:0;font-size:.75em;'
                f'line-height:1;margin-top:-.5em;top:{(y + 5) / height:.1%}">'
                f"C{pitch // 12 - 1}</span>"
            )
    for start, stop, pitch in notes:
        now = start <= step < stop
        bars += (
            f'<rect class="note" x="{start}" y="{10 * (high - pitch) + 1}" '
            f'width="{stop - start}" height="8" fill="{BLUE}" fill-opacity="{1 if now else 0.45}" '
            f'stroke="currentColor" stroke-width="1.5" stroke-opacity="{now:d}" '
            f'vector-effect="non-scaling-stroke"/>'
        )
    return (
        f'<svg role="img" aria-label="{label}" viewBox="{-wide} 0 {wide + end} {height}" '
        'preserveAspectRatio="none" style="display:block;width:100%;height:15em">'
        f"{keys}{bars}"
        f'<line class="head" x1="{step}" x2="{step}" y1="0" y2="{height}" stroke="currentColor" '
        f'stroke-width="2" vector-effect="non-scaling-stroke"/></svg>{names}'
    )


# Exercises


def _list_of_events(result, name: str) -> list[int]:
    """The answer as a list of event ids, or what it is instead."""
    if isinstance(result, (np.ndarray, tuple)):
        result = list(result)
    if not isinstance(result, list):
        raise Mistake(
            f"{name} returns a {type(result).__name__}, and should return a list."
        )
    for place, token in enumerate(result):
        if not isinstance(token, (int, np.integer)) or isinstance(token, bool):
            raise Mistake(
                f"at place {place} stands {token!r}, which is not an integer."
            )
        if token == PERFORMANCE:
            raise Mistake(
                f"at place {place} stands {PERFORMANCE}, the mark of `encode_performance`. These "
                "exercises are in the other dialect, that of `encode_midi`, which has no mark."
            )
        if not 0 <= token < NUM_EVENTS:
            raise Mistake(
                f"at place {place} stands {token}, but events have the ids 0 to {NUM_EVENTS - 1}. "
                "Which kind of token did you make larger, and where does that kind end?"
            )
    return [int(token) for token in result]


def _pieces() -> dict[str, list[int]]:
    return {name: encode_midi(load_piece(name)) for name in PIECES}


@checker
def check_transpose(answer: Callable) -> str:
    phrase = [376, 60, 305, 188, 369, 64, 355, 192]
    for semitones in (7, -3, 0):
        found = _list_of_events(answer(phrase, semitones), "transpose")
        if len(found) != len(phrase):
            raise Mistake(
                f"transposed by {semitones}, {len(phrase)} tokens become {len(found)}; no key "
                "leaves the range here, so no token should be lost or added."
            )
        for before, after in zip(phrase, found, strict=True):
            kind, shift = KINDS[kind_of(before)][0], after - before
            right = semitones if kind in ("note on", "note off") else 0
            if shift == right:
                continue
            if right == 0:
                raise Mistake(
                    f"transposed by {semitones}, '{name_of(before)}' ({before}) becomes "
                    f"'{name_of(after)}' ({after}). Only keys move: a {kind} token stays."
                )
            if shift == 0:
                raise Mistake(
                    f"transposed by {semitones}, '{name_of(before)}' stays. Each {kind} has to "
                    "move with its key, or notes start that never end."
                )
            raise Mistake(
                f"transposed by {semitones}, '{name_of(before)}' becomes '{name_of(after)}', "
                f"{shift} ids away."
            )
    edges = (120, 12), (5, -7), (127, 1), (0, -1), (126, 1), (1, -1), (0, 1), (127, -1)
    for old, semitones in edges:
        phrase, key = [376, old, 305, NOTE_OFF + old], old + semitones
        found = np.asarray(answer(phrase, semitones)).tolist()
        where = f"transposed by {semitones}, {phrase} becomes {found}"
        if 0 <= key < NOTE_OFF:
            if found != [376, key, 305, NOTE_OFF + key]:
                raise Mistake(
                    f"{where}: the key should move to {key}, which is a key too. All from 0 to "
                    "127 are, each with a note-on and a note-off."
                )
            continue
        if found == [376, key % 128, 305, NOTE_OFF + key % 128]:
            raise Mistake(
                f"{where}: the key leaves 0 to 127 on one side and comes back on the other. "
                "Both its tokens must go."
            )
        if key in found or NOTE_OFF + key in found:
            raise Mistake(
                f"{where}: the key leaves 0 to 127, and its id spills over into another kind, or "
                "out of the vocabulary. Both its tokens must go, and only they."
            )
        if not {376, 305} <= set(found):
            raise Mistake(
                f"{where}: the key leaves 0 to 127, and its two tokens must go, but only they. "
                "The velocity and the wait also count for what follows."
            )
        if found != [376, 305]:
            raise Mistake(
                f"{where}: the key leaves 0 to 127. Its note-on and its note-off must go, and "
                "only they."
            )
    for name, tokens in _pieces().items():
        there = _list_of_events(answer(tokens, 5), "transpose")
        if _list_of_events(answer(there, -5), "transpose") != tokens:
            raise Mistake(
                f"{name}, up by 5 semitones and down by 5, is not what it was."
            )
    return "All five pieces come back unchanged from 5 semitones up and 5 down."


def _without_waits(tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if KINDS[kind_of(token)][0] != "wait"]


@checker
def check_stretch(answer: Callable) -> str:
    phrase = [376, 60, 305, 188]
    found = _list_of_events(answer(phrase, 2.0), "stretch")
    if found == phrase:
        raise Mistake(
            "at factor 2 nothing changes: the wait of 500 ms should become 1 s."
        )
    worst = 0.0
    for name, tokens in {"four tokens": phrase, **_pieces()}.items():
        for factor in (2.0, 1.04, 0.97, 0.5, 3.0):
            where = f"{name} at factor {factor}"
            found = _list_of_events(answer(tokens, factor), "stretch")
            _check_same_but_waits(tokens, found, where)
            before, after = _moments(tokens), _moments(found)
            errors = np.abs(after - factor * before)
            worst = max(worst, errors.max())
            if errors[-1] > 0.2 * before[-1] * abs(factor - 1) + 1:
                raise Mistake(
                    f"{where}: it lasts {after[-1] / 100:.2f} s in place of "
                    f"{factor * before[-1] / 100:.2f} s."
                )
            if errors.max() > 0.5 + 1e-6:
                raise Mistake(
                    f"{where}: a key is {10 * errors.max():.1f} ms off; up to 5 can't be avoided, "
                    "more is drift. Which do you round, the waits or the moments? And may a wait "
                    "become nothing?"
                )
    return f"Five pieces, five speeds, and no key is more than {10 * worst:.1f} ms off."


def _check_same_but_waits(before: Sequence[int], after: Sequence[int], where: str):
    """Raise a mistake at the first token, waits aside, that is not what it was."""
    before, after = _without_waits(before), _without_waits(after)
    if before == after:
        return
    pairs = zip_longest(before, after)
    place, right, found = next((i, a, b) for i, (a, b) in enumerate(pairs) if a != b)
    should, comes = (
        "nothing" if token is None else f"'{name_of(token)}' ({token})"
        for token in (right, found)
    )
    hint = ""
    if len(after) > len(before) and found >= VELOCITY:
        hint = " Too long a wait spills into the velocities (356 and up)."
    elif len(after) > len(before) and found == TIME_SHIFT - 1:
        hint = " A wait of nothing has no id: 255 is the note-off of key 127."
    raise Mistake(
        f"{where}: other tokens than waits change. Waits not counted, {should} should come at "
        f"place {place}, and {comes} comes.{hint}"
    )


def _moments(tokens: Sequence[int]) -> np.ndarray:
    """When each key goes down or comes up, in steps."""
    tokens = np.asarray(tokens)
    return times_of(tokens)[:-1][tokens < TIME_SHIFT]


@checker
def check_loose_ends(answer: Callable) -> str:
    cases = (
        ([376, 60, 305, 188], (0, 0), "a note with an end has none"),
        ([], (0, 0), "there is nothing in an empty list"),
        (
            [60, 188, 60, 188],
            (0, 0),
            "two notes of one key, one after the other, have none",
        ),
        ([376, 305, 188], (1, 0), "the note-off has no note-on before it"),
        ([376, 60, 305], (0, 1), "the note-on never gets its note-off"),
        ([60, 192], (1, 1), "the note-off belongs to another key than the note-on"),
        (
            [376, 60, 305, 188, 305, 188],
            (1, 0),
            "the first note-off ends the note, so the second note-off is loose",
        ),
        (
            [376, 60, 305, 60, 305, 188],
            (0, 1),
            "the key is struck again before it comes up, so the first note-on gets no end",
        ),
        (
            [376, 60, 305, 60, 305, 188, 305, 188],
            (1, 1),
            "the first note-off lifts the key, so the second finds it up, and of two note-ons "
            "only one gets an end",
        ),
        (
            [60, 60, 188, 188],
            (1, 1),
            "a note-off lifts the key, however often it was struck",
        ),
        ([127, 255, 0, 128], (0, 0), "keys 0 and 127 are keys too"),
    )
    for tokens, right, why in cases:
        found = answer(tokens)
        is_pair = isinstance(found, tuple) and len(found) == 2
        if is_pair and not all(isinstance(n, (int, np.integer)) for n in found):
            raise Mistake(
                f"loose_ends returns {found!r}; counts should be whole numbers, of type int."
            )
        if not is_pair:
            raise Mistake(
                f"loose_ends returns {found!r}, a {type(found).__name__}, and should return a "
                "tuple of two counts."
            )
        if found != right:
            hint = " Did you swap the two?" if found == right[::-1] else ""
            raise Mistake(f"{tokens} gives {found}, but {why}.{hint}")
    loose = [answer(tokens[: len(tokens) // 2]) for tokens in _pieces().values()]
    if any(offs for offs, _ in loose):
        raise Mistake(
            "a piece that is cut off has note-ons without an end, but no loose note-offs."
        )
    return f"Cut in the middle, the five pieces leave {sum(ons for _, ons in loose)} keys down."


@checker
def check_shorten(answer: Callable) -> str:
    written = kept = 0
    for name, tokens in _pieces().items():
        found = _list_of_events(answer(tokens), "shorten")
        before, after = _notes_by_key(tokens), _notes_by_key(found)
        if before[:, 0].tolist() != after[:, 0].tolist():
            raise Mistake(
                f"{name}: {len(before)} notes become {len(after)}, or other keys. Are there "
                "notes that have lost their length, or an end?"
            )
        _, early, ends, loudness = np.abs(before - after).max(axis=0)
        if max(early, ends) > 0.02 + 1e-6:
            raise Mistake(
                f"{name}: a note starts or ends {1000 * max(early, ends):.0f} ms off; 20 are "
                "allowed. A wait that you leave out is missing from all that follows."
            )
        if loudness > 8:
            raise Mistake(
                f"{name}: a velocity is {loudness:.0f} off; 8 are allowed. A note gets the "
                "last velocity that you wrote, not the last that you read."
            )
        written, kept = written + len(tokens), kept + len(found)
    share = kept / written
    if share > 0.8:
        raise Mistake(
            f"your tokens are {share:.1%} of the original; 80% is the goal. What do most of the "
            "tokens say, and how exactly do they have to say it? Loudness alone does not get you "
            "there, and neither do waits."
        )
    return f"{written:,} tokens became {kept:,}, which is {share:.1%}."


def _notes_by_key(tokens: Sequence[int]) -> np.ndarray:
    """(pitch, start, end, velocity) of each note, (n, 4)."""
    notes = decode_midi(tokens).instruments[0].notes
    rows = sorted((note.pitch, note.start, note.end, note.velocity) for note in notes)
    return np.array(rows, dtype=float).reshape(-1, 4)
