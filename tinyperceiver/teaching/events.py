"""Chapter 1: the bytes of a MIDI file and the pedal in pictures, and its exercises."""

import base64
import html
import io
import json
import re
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyperceiver.sound.encoding import mp3_bytes
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
    from matplotlib.figure import Figure

__all__ = [
    "check_compose",
    "check_cut_at_restrike",
    "check_most_at_once",
    "check_write_number",
    "draw_bytes",
    "draw_held",
    "draw_lookups",
    "draw_number",
    "listen",
    "step_through",
]


# Figures and sound


class Part(NamedTuple):
    """Bytes of a MIDI file with one meaning."""

    data: bytes
    kind: str  # a key of KINDS
    text: str


# What bytes are for: colour, dashes for those who print in grey, and a name.
KINDS = {
    "frame": (GREY, "1 2", "chunks"),
    "wait": (GREEN, "4 2", "wait"),
    "what": (PINK, "", "what happens"),
    "values": (BLUE, "8 2 1 2", "values"),
}


class Row(NamedTuple):
    """A header or an event: its parts, its wait in ticks, and what it says."""

    parts: list[Part]
    wait: int
    text: str


def rows_of(data: bytes) -> list[Row]:
    """The headers and events of a MIDI file with one track, notes and tempi."""
    ticks = struct.unpack_from(">H", data, 12)[0]
    rows = [
        Row(
            [
                Part(data[:4], "frame", "the letters MThd: a header follows"),
                Part(data[4:8], "frame", "the header's length, 6 bytes"),
                Part(data[8:10], "values", "format 0: one track with everything"),
                Part(data[10:12], "values", "number of tracks"),
                Part(data[12:14], "values", f"{ticks} ticks per quarter note"),
            ],
            0,
            f"header: {ticks} ticks a quarter note",
        ),
        Row(
            [
                Part(data[14:18], "frame", "the letters MTrk: a track follows"),
                Part(data[18:22], "frame", "the track's length in bytes"),
            ],
            0,
            f"a track of {len(data) - 22} bytes",
        ),
    ]
    at, status = 22, 0
    while at < len(data):
        delta = at
        while data[at] >= 0x80:
            at += 1
        at += 1
        wait = 0
        for byte in data[delta:at]:
            wait = wait * 128 + (byte & 127)
        parts = [Part(data[delta:at], "wait", f"wait {wait} ticks")]
        what = at
        if data[at] >= 0x80:
            status, at = data[at], at + 1
        if status == 0xFF:
            kind, size = data[at : at + 2]
            values = data[at + 2 : at + 2 + size]
            text = "end of the track"
            if kind == 0x51:
                text = f"{int.from_bytes(values, 'big'):,} µs a quarter note"
            about = {0x2F: "end of track", 0x51: "tempo"}.get(kind, "other")
            name = f"meta event {kind:02x} ({about}), with {size} bytes of values"
            parts += [Part(data[what : at + 2], "what", name)]
            parts += [Part(values, "values", text)] if size else []
            at += 2 + size
        else:
            pitch, velocity = values = data[at : at + 2]
            is_down = status >> 4 == 9 and velocity > 0
            text = f"key {pitch} {'down' if is_down else 'up'}"
            text += f", velocity {velocity}" if is_down else ""
            if what < at:
                name = "a key goes down (or up, if the velocity is 0)"
                name = name if status >> 4 == 9 else "a key comes up"
                parts.append(Part(data[what:at], "what", name))
            else:
                text += " (status as before)"
            parts.append(Part(values, "values", f"key {pitch}, velocity {velocity}"))
            at += 2
        rows.append(Row(parts, wait, text))
    return rows


def draw_bytes(data: bytes) -> "Figure":
    """Each byte of a MIDI file of one track, one row an event, with its meaning."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    rows = rows_of(data)
    fig, ax = plt.subplots(figsize=(6.4, 0.27 * len(rows) + 0.45))

    def frame(x: float, y: float, num_bytes: int, kind: str) -> None:
        color, dashes, _ = KINDS[kind]
        style = (0, [float(dash) / 2 for dash in dashes.split()]) if dashes else "-"
        look = {"facecolor": (color, 0.22), "edgecolor": color, "linestyle": style}
        size = (num_bytes - 0.12, 0.78)
        ax.add_patch(Rectangle((x, y - 0.39), *size, linewidth=1.1, **look))

    for y, (parts, wait, text) in enumerate(rows):
        x = 0
        for part in parts:
            frame(x, y, len(part.data), part.kind)
            for byte in part.data:
                center = {"ha": "center", "va": "center", "fontsize": 9}
                ax.text(x + 0.44, y, f"{byte:02x}", **center)
                x += 1
        said = f"{wait} ticks later: {text}" if wait else text
        ax.text(max(x, 8) + 0.25, y, said, va="center", fontsize=9.5)
    for place, (kind, (*_, name)) in enumerate(KINDS.items()):
        frame(5.3 * place, -1.4, 1, kind)
        ax.text(5.3 * place + 1.1, -1.4, name, va="center", fontsize=9.5)
    ax.set(xlim=(-0.1, 22), ylim=(len(rows) - 0.5, -1.9))
    ax.axis("off")
    return fig


def draw_number(data: bytes) -> "Figure":
    """A variable-length number of two bytes: their bits, and what is left of them."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    fig, ax = plt.subplots(figsize=(6.4, 1.9))
    center = {"ha": "center", "va": "center"}

    def bit(x: float, y: float, text: str, color: str, dashes: str = "-") -> None:
        look = {"facecolor": (color, 0.22), "edgecolor": color, "linestyle": dashes}
        ax.add_patch(Rectangle((x, y), 0.88, 0.8, linewidth=1.1, **look))
        ax.text(x + 0.44, y + 0.4, text, fontsize=11, **center)

    kept = ""
    for place, (byte, said) in enumerate(
        zip(data, ("another byte follows", "the last byte"), strict=True)
    ):
        left, bits = 1 + 9.6 * place, f"{byte:08b}"
        ax.text(left - 0.35, 2.4, f"{byte:02x}", ha="right", va="center", fontsize=11)
        bit(left, 2, bits[0], PINK, "--")
        ax.text(left, 3.1, f"{bits[0]}: {said}", fontsize=9.5)
        for i, digit in enumerate(bits[1:]):
            bit(left + 1 + i, 2, digit, BLUE)
            bit(2.8 + 7 * place + i, 0, digit, BLUE)
        arrow = {"arrowstyle": "->", "color": INK, "lw": 0.9}
        middle = 6.24 + 7 * place
        ax.annotate("", (middle, 0.9), (left + 4.44, 1.9), arrowprops=arrow)
        kept += bits[1:]
    ax.text(17.05, 0.4, f"= {int(kept, 2)}", va="center", fontsize=11)
    ax.set(xlim=(-0.3, 19.2), ylim=(-0.1, 3.6))
    ax.axis("off")
    return fig


def step_through(data: bytes) -> "HTML":
    """Each byte of a MIDI file of one track: its bits, its part, and its event."""
    cells, per_row, size, clock = [], 12, 40, 0
    for parts, wait, text in rows_of(data):
        clock += wait
        event = text if parts[0].kind == "frame" else f"tick {clock}: {text}"
        for part in parts:
            for byte in part.data:
                is_begun = part.kind == "wait" and byte >= 0x80
                more = ". The first bit is 1: another byte follows" if is_begun else ""
                said = f"{part.text[0].upper()}{part.text[1:]}{more}."
                cells.append([byte, part.kind, said, event])
    rows = -(-len(cells) // per_row)
    svg, text_style = "", 'text-anchor="middle" fill="currentColor"'
    for place, (byte, kind, *_) in enumerate(cells):
        x, y = size * (place % per_row), size * (place // per_row)
        color, dashes, _ = KINDS[kind]
        svg += (
            f'<rect x="{x + 2}" y="{y + 2}" width="{size - 4}" height="{size - 4}" '
            f'fill="{color}" fill-opacity=".22" stroke="{color}" stroke-width="1.5" '
            f'stroke-dasharray="{dashes}"/>'
            f'<text x="{x + size / 2}" y="{y + 26}" font-size="17" {text_style}>'
            f"{byte:02x}</text>"
        )
    first, top = cells[0], size * rows + 14
    bits = "".join(
        f'<text class="bit" x="{80 + 26 * i + (12 if i else 0)}" y="{top + 22}" '
        f'font-size="20" {text_style} font-weight="{400 if i else 700}">{bit}</text>'
        for i, bit in enumerate(f"{first[0]:08b}")
    )
    height = top + 36
    picture = (
        f'<svg role="img" aria-label="The {len(cells)} bytes of the file in rows of '
        f'{per_row}, one of them framed, and its eight bits below" '
        f'viewBox="0 0 {per_row * size} {height}" '
        f'style="display:block;width:100%;max-width:640px" '
        f'font-family="ui-monospace, monospace">{svg}'
        f'<rect class="cursor" width="{size}" height="{size}" fill="none" '
        f'stroke="currentColor" stroke-width="4"/>'
        f'<text x="0" y="{top + 21}" font-size="17" fill="currentColor">bits</text>{bits}'
        f"</svg>"
        f'<p class="says" aria-live="polite" style="margin:.3em 0;min-height:4.6em">'
        f"<b>{html.escape(first[2])}</b><br>{html.escape(first[3])}</p>"
    )
    controls = (
        '<label style="display:flex;gap:.6em;align-items:center;max-width:30em">byte '
        f'<input type="range" min="0" max="{len(cells) - 1}" value="0" '
        'style="flex:1;min-width:0"> <output style="flex:0 0 1.6em">0</output></label>'
    )
    script = f"""
const cells = {json.dumps(cells, ensure_ascii=False)};
const slider = controls.querySelector("input");
const cursor = picture.querySelector(".cursor");
slider.addEventListener("input", () => {{
  const place = Number(slider.value);
  const [byte, kind, part, event] = cells[place];
  cursor.setAttribute("x", {size} * (place % {per_row}));
  cursor.setAttribute("y", {size} * Math.floor(place / {per_row}));
  picture.querySelectorAll(".bit").forEach((bit, i) => {{
    bit.textContent = (byte >> (7 - i)) & 1;
  }});
  const says = picture.querySelector(".says");
  says.querySelector("b").textContent = part;
  says.lastChild.textContent = event;
  controls.querySelector("output").textContent = place;
}});
"""
    caption = (
        "Drag, or use the arrow keys, from byte to byte. Watch the first bit. In a wait it "
        "says that another byte follows; after the wait, it tells a status from a value. "
        "Inside a tempo it is a bit like any other."
    )
    return interactive("step-through-bytes", picture, controls, script, caption)


def draw_held(
    start: np.ndarray,
    end: np.ndarray,
    held: np.ndarray,
    pitch: np.ndarray,
    pedal: np.ndarray,
    seconds: float,
) -> "Figure":
    """Keys and what their pedal adds, for the first `seconds`; `pedal` is (p, 2)."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3))
    early = start < seconds
    low, high = int(pitch[early].min()), int(pitch[early].max())
    notes = [part[early] for part in (start, end, held, pitch)]
    for on, off, until, key in zip(*notes, strict=True):
        place = (key - 0.42, 0.84)
        ax.broken_barh([(off, until - off)], place, facecolors=(BLUE, 0.35), lw=0)
        ax.broken_barh([(on, off - on)], place, facecolors=BLUE, lw=0, zorder=2)
    for down, up in pedal:
        ax.broken_barh([(down, up - down)], (low - 5, 2), facecolors=INK, alpha=0.55)
        if up < seconds:
            ax.axvline(up, color=INK, lw=0.8, ls=":", alpha=0.7)
    octaves = {key: f"C{key // 12 - 1}" for key in range(0, 128, 12)}
    shown = {k: n for k, n in octaves.items() if low <= k <= high}
    ticks = {low - 4: "pedal", **shown}
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set(xlim=(0, seconds), ylim=(low - 6, high + 1), xlabel="time (seconds)")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return fig


def draw_lookups(
    time: np.ndarray, is_down: np.ndarray, goes_up: np.ndarray, key_up: np.ndarray
) -> "Figure":
    """Pedal changes (p,), the up from each on (p,), and what they do to keys (n,)."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.5))
    right = time[-1] + 1.3
    for moment, down, following in zip(
        time, is_down, [*time[1:], right - 0.3], strict=True
    ):
        if down:
            ax.broken_barh(
                [(moment, following - moment)], (-0.15, 0.3), color=INK, alpha=0.3
            )
        ax.plot(moment, 0, marker="v" if down else "^", color=INK, ms=8)
        ax.text(moment, -0.5, "down" if down else "up", ha="center", va="center")
    ax.text(right - 0.28, 0, "never up", va="center", fontsize=9.5)
    last = np.searchsorted(time, key_up, side="right") - 1
    for i, (moment, change) in enumerate(zip(key_up, last, strict=True)):
        y = 0.75 + 0.7 * (len(key_up) - 1 - i)
        ax.plot(moment, y, marker="o", color=BLUE, ms=6)
        ax.text(moment, y + 0.28, "key up", ha="center", va="center", fontsize=9.5)
        verdict = "no change yet: ends here"
        if change >= 0:
            back = {"arrowstyle": "->", "color": ORANGE, "lw": 1.4, "ls": "--"}
            ax.annotate("", (time[change], 0.2), (moment - 0.05, y), arrowprops=back)
            verdict = "an up: ends here"
        if change >= 0 and is_down[change]:
            on = {"arrowstyle": "->", "color": BLUE, "lw": 1.8}
            ax.annotate("", (goes_up[change], y), (moment + 0.05, y), arrowprops=on)
            moment, verdict = goes_up[change], f"a down: ends at {goes_up[change]:g}"
        ax.text(moment + 0.1, y, verdict, va="center", fontsize=9.5)
    ax.set(xlim=(0, right + 0.5), ylim=(-0.75, 2.65), xlabel="time (seconds)")
    ax.set(yticks=[0], yticklabels=["pedal"], xticks=[0, *time])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return fig


def listen(samples: np.ndarray, sample_rate: int, title: str) -> "HTML":
    """A player for samples, (N,), as an MP3 inside the page."""
    from IPython.display import HTML

    name = html.escape(title, quote=True)
    mp3 = base64.b64encode(mp3_bytes(samples, sample_rate)).decode()
    return HTML(
        '<div class="tinyperceiver-player" style="max-width:54em">'
        f'<div style="font-weight:600">{name}</div>'
        f'<audio controls preload="metadata" aria-label="{name}" style="width:100%" '
        f'src="data:audio/mpeg;base64,{mp3}"></audio></div>'
    )


# Checkers of the exercises


@checker
def check_write_number(answer: Callable[[int], bytes]) -> str:
    known = {0: "00", 96: "60", 127: "7f", 128: "8100", 240: "8170", 16_383: "ff7f"}
    known |= {16_384: "818000", 2_097_151: "ffff7f", 268_435_455: "ffffff7f"}
    for number, digits in known.items():
        right, given = bytes.fromhex(digits), answer(number)
        if not isinstance(given, bytes):
            raise Mistake(
                f"write_number({number}) gives a {type(given).__name__}; return bytes. "
                "bytes([129, 112]) makes two of them."
            )
        if given == right:
            continue
        said = f"write_number({number}) gives {given.hex(' ') or 'no bytes'}."
        if not given:
            raise Mistake(f"{said} Even 0 takes one byte: the reader waits for it.")
        digits, right_digits = ([byte & 127 for byte in b] for b in (given, right))
        if digits == right_digits:
            raise Mistake(
                f"{said} The seven low bits are right. Look at the first bit of each "
                "byte: it is 1 where another byte follows, and 0 in the last byte alone."
            )
        if digits == right_digits[::-1]:
            raise Mistake(
                f"{said} That is the wrong way round: the most significant digit comes "
                "first."
            )
        zeros = [0] * (len(given) - len(right))
        if zeros and digits == zeros + right_digits:
            raise Mistake(
                f"{said} That is {len(given)} bytes for what needs {len(right)}: leave "
                "out the zeros in front."
            )
        if int.from_bytes(given, "big") == number:
            raise Mistake(
                f"{said} Those are digits of eight bits; a byte has room for seven "
                "here, since its first bit says whether another follows."
            )
        raise Mistake(f"{said} It should be {right.hex(' ')}: digits to base 128.")
    return "From 0 to 268,435,455 ticks, in one to four bytes."


@checker
def check_most_at_once(answer: Callable[[np.ndarray, np.ndarray], int]) -> str:
    def ask(notes: list[tuple[float, float]]) -> int:
        start, end = np.array(notes, dtype=float).reshape(-1, 2).T
        given = answer(start, end)
        if isinstance(given, bool) or not isinstance(given, (int, np.integer)):
            kind = type(given).__name__
            raise Mistake(f"return one integer, not {given!r}, which is a {kind}.")
        return int(given)

    apart, together = [(0, 1), (2, 3), (4, 5)], [(0, 4), (1, 3), (2, 5)]
    if (given := ask(apart)) != 1:
        hint = "Are you counting notes that have ended?"
        if given < 1:
            hint = "That is too few: at its start, a note sounds already."
        raise Mistake(
            f"three notes, one after the other with gaps, give {given}, not 1. {hint}"
        )
    if (given := ask(together)) != 3:
        raise Mistake(
            f"from second 2 to 3 three notes sound; you say {given}. Notes that "
            "start later count too, not only pairs that start together."
        )
    if (given := ask([(0, 5), (1, 5), (2, 5), (3, 5)])) != 4:
        pairs = " Those are the pairs that sound together." if given == 6 else ""
        raise Mistake(
            f"from second 3 to 5 four notes sound; you say {given}.{pairs} Count the "
            "notes."
        )
    if (given := ask([(0, 1), (1, 2), (2, 3)])) != 1:
        raise Mistake(
            f"three notes, each starting at the very time when the one before it ends, "
            f"give {given}. A note that ends leaves before the next one comes."
        )
    if (given := ask([(9, 10), together[2], *together[:2]])) != 3:
        raise Mistake(
            f"the same three notes in another order give {given}. Files list notes "
            "by their ends: sort the times, or do not depend on the order."
        )
    for end, right in ((1.0437, 2), (1.0435, 1)):
        if (given := ask([(0, end), (1.0436, 1.5)])) != right:
            raise Mistake(
                f"notes from 0 to {end} and from 1.0436 to 1.5 s: {given} at once, but "
                f"{right} sound{'s' * (right == 1)}. Compare the times themselves, not "
                "frames or samples of time."
            )
    random = np.random.default_rng(0)
    for piece in range(20):
        start = random.integers(0, 40, 30) / 4
        end = start + random.integers(1, 12, 30) / 4
        if piece % 2:  # off the grid
            start, end = start + random.random(30), end + 1 + random.random(30)
        right = max(int(((start <= time) & (time < end)).sum()) for time in start)
        if (given := ask(list(zip(start, end, strict=True)))) != right:
            raise Mistake(f"30 random notes: {given} at once, but {right} sound.")
    return "It agrees with a count at each start, on 20 random pieces of 30 notes."


@checker
def check_cut_at_restrike(
    answer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> str:
    def ask(start: list, end: list, pitch: list) -> np.ndarray:
        given = answer(
            np.array(start, float), np.array(end, float), np.array(pitch, np.uint8)
        )
        if not isinstance(given, np.ndarray):
            raise Mistake(f"return an array, not a {type(given).__name__}.")
        if np.shape(given) != (len(start),):
            raise Mistake(
                f"{len(start)} notes give {np.shape(given)}: return the new ends, (n,), "
                "one for each note, in the order of the notes."
            )
        return given

    ends = ask([0, 1], [3, 4], [60, 64])
    if ends.tolist() != [3, 4]:
        hint = "Here no key is struck again, so the ends stay as they are."
        if ends.tolist() == [0, 1]:
            hint = "Those are their starts: no note is its own next stroke."
        elif ends.tolist() == [1, 4]:
            hint = "Only the same key cuts a note: mind the pitch."
        raise Mistake(
            f"keys 60 and 64 sound together, 0 to 3 s and 1 to 4 s; you end them at "
            f"{ends.tolist()}. {hint}"
        )
    ends = ask([0, 1], [3, 4], [60, 72])
    if ends.tolist() != [3, 4]:
        raise Mistake(
            f"keys 60 and 72 sound together, 0 to 3 s and 1 to 4 s; you end them at "
            f"{ends.tolist()}. They are an octave apart, and two keys."
        )
    ends = ask([0, 2], [1, 3], [60, 60])
    if ends.tolist() != [1, 3]:
        raise Mistake(
            f"key 60 sounds 0 to 1 s, and again 2 to 3 s; you end the notes at "
            f"{ends.tolist()}. A note that has ended is not to be lengthened."
        )
    ends = ask([0, 1, 2], [9, 9, 9], [60, 60, 60])
    if ends.tolist() != [1, 2, 9]:
        raise Mistake(
            f"key 60 is struck at 0, 1 and 2 s and held to 9 s: the ends are 1, 2, 9, "
            f"not {ends.tolist()}. Each stroke is cut by the next one alone."
        )
    ends = ask([2, 0, 1], [9, 9, 9], [60, 60, 60])
    if ends.tolist() == [1, 2, 9]:
        raise Mistake(
            "strokes listed as 2, 0, 1 s end at 9, 1, 2 s; you give 1, 2, 9, the right "
            "ends in another order. Put each back where its note stands in the list."
        )
    if ends.tolist() != [9, 1, 2]:
        raise Mistake(
            f"the same strokes listed as 2, 0, 1 s end at 9, 1, 2 s, not "
            f"{ends.tolist()}. The next stroke is next in time, not in the list."
        )
    random = np.random.default_rng(0)
    for _ in range(20):
        start = random.permutation(40) / 8
        pitch = random.choice([48, 60, 61, 62, 64, 72], 40)
        end = start + random.integers(1, 30, 40) / 8
        later = [
            start[(pitch == p) & (start > s)] for s, p in zip(start, pitch, strict=True)
        ]
        right = [min(e, *s) if len(s) else e for e, s in zip(end, later, strict=True)]
        if not np.array_equal(ask(start, end, pitch), right):
            raise Mistake("40 random notes on six keys: some end at the wrong time.")
    return "No key of 20 random pieces sounds twice at once, and nothing got longer."


def _status_left_out(track: bytes) -> int | None:
    """Where a status is missing after a meta event; else None."""
    at, status = 0, 0xFF
    while at < len(track):
        while track[at] >= 0x80:  # the wait
            at += 1
        at += 1
        if track[at] >= 0x80:
            status, at = track[at], at + 1
        elif status == 0xFF:
            return at
        if status == 0xFF:
            at += 2 + track[at + 1]
        else:
            at += 1 if status >> 4 == 0xC else 2
    return None


@checker
def check_compose(answer: Callable[[], bytes]) -> str:
    import mido
    import pretty_midi

    data = answer()
    if not isinstance(data, bytes):
        raise Mistake(f"return bytes, not a {type(data).__name__}.")
    if len(data) > 200:
        raise Mistake(f"{len(data)} bytes; the file must not be longer than 200.")
    if data[:4] != b"MThd":
        raise Mistake("it does not begin with the letters MThd.")
    if data[4:8] != bytes([0, 0, 0, 6]):
        raise Mistake("bytes 4 to 7 are the length of the header's body: 00 00 00 06.")
    if (num_tracks := int.from_bytes(data[10:12], "big")) != 1:
        raise Mistake(
            f"the header (bytes 10 and 11) promises {num_tracks} tracks; write one."
        )
    if not 0 < int.from_bytes(data[12:14], "big") < 0x8000:
        raise Mistake("bytes 12 and 13 are ticks per quarter note, from 1 to 32,767.")
    if data[14:18] != b"MTrk":
        raise Mistake("byte 14 is where the track begins, with the letters MTrk.")
    if (size := int.from_bytes(data[18:22], "big")) != len(data) - 22:
        raise Mistake(
            f"the track says that its length is {size} bytes, but {len(data) - 22} follow. "
            "Count them with len()."
        )
    if not data.endswith(b"\xff\x2f\x00"):
        raise Mistake("a track ends with the event ff 2f 00.")
    try:
        parsed = mido.MidiFile(file=io.BytesIO(data))
        # Not from `parsed`, whose times it would change.
        midi = pretty_midi.PrettyMIDI(io.BytesIO(data))
    except Exception as error:
        hint = (
            "Is there a wait before each event, 0 included, and does each wait from 128 "
            "ticks on take two bytes or more, as from write_number?"
        )
        if "0..127" in str(error):
            hint = "Pitches and velocities are below 80 (hexadecimal), 128. " + hint
        elif re.search(rb"\xff\x51[^\x03]", data):
            hint = "After ff 51 comes 03: a tempo has three bytes. " + hint
        raise Mistake(
            f"pretty_midi cannot read it ({type(error).__name__}: {error}). {hint}"
        ) from error
    [messages] = parsed.tracks
    strokes, tick, is_down, is_set_again = 0, 0, {}, False
    for message in messages:
        tick += message.time
        is_set_again |= message.type == "set_tempo" and strokes > 0
        if message.type not in ("note_on", "note_off"):
            if not message.is_meta and message.type not in (
                "control_change",
                "program_change",
            ):
                raise Mistake(
                    f"at tick {tick} stands an event of kind {message.type}, which is "
                    "no key. Is it the second byte of a wait? Waits from 128 ticks on "
                    "take two bytes or more, as from write_number."
                )
            continue
        key = message.channel, message.note
        if message.type == "note_on" and message.velocity > 0:
            strokes += 1
            is_down[key] = tick
        elif key in is_down:
            if is_down.pop(key) == tick:
                raise Mistake(
                    f"key {message.note} comes up at the very tick at which it goes "
                    f"down, {tick}: a note of no length is not heard."
                )
        else:
            raise Mistake(
                f"at tick {tick} key {message.note} comes up, but it is not down. An "
                "event without a status has the one before it: after an 80, the key "
                "comes up."
            )
    if place := _status_left_out(data[22:]):
        raise Mistake(
            f"byte {22 + place} of the file is {data[22 + place]:#04x}, where a status "
            "should stand: a meta event, such as a tempo, cancels running status. "
            "pretty_midi lets it pass; the chapter's reader would not."
        )
    notes = [note for part in midi.instruments for note in part.notes]
    if strokes > len(notes):
        raise Mistake(
            f"{strokes} keys go down, but only {len(notes)} notes have an end: a key "
            "that never comes up is no note."
        )
    if len(notes) < 8:
        raise Mistake(f"{len(notes)} note{'s' * (len(notes) != 1)}; write 8 at least.")
    for message in messages:
        if message.type == "set_tempo" and not 100_000 <= message.tempo <= 2_000_000:
            raise Mistake(
                f"a tempo makes a quarter note {message.tempo / 1e6:.3g} seconds long; "
                "stay within 0.1 and 2. Is its most significant byte first?"
            )
    start, end = np.array([(note.start, note.end) for note in notes]).T
    times, tempi = midi.get_tempo_changes()
    changes = times[1:][np.diff(tempi) != 0]
    if is_set_again and not len(changes):
        raise Mistake(
            "the tempo does not change: a tempo event sets what held already. Without "
            "one, a file begins at 500,000 µs."
        )
    if not (changes > start.min()).any():
        raise Mistake("the tempo does not change after the first note has begun.")
    if not ((start.min() < changes) & (changes < end.max())).any():
        raise Mistake("the tempo changes when the last note is over: nobody hears it.")
    if len({note.velocity for note in notes}) < 2:
        raise Mistake("all notes have the same velocity: let one of them be louder.")
    sounding = ((start <= time) & (time < end) for time in start)
    if max(together.sum() for together in sounding) < 2:
        raise Mistake("no two notes sound at the same time.")
    return f"{len(notes)} notes, {midi.get_end_time():.1f} seconds, {len(data)} bytes."
