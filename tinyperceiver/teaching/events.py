"""Chapter 1: the bytes of a MIDI file and the pedal in pictures."""

import base64
import html
import json
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyperceiver.sound.encoding import mp3_bytes
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
