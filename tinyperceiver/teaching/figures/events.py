"""Chapter 1: the bytes of a MIDI file, and what the pedal holds."""

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyperceiver.teaching.drawing import Look, arrow, box, canvas, panels
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What bytes are for: colour, dashes for those who print in grey, and a name.
ROLES = {
    "frame": (GREY, "1 2", "chunks"),
    "wait": (GREEN, "4 2", "wait"),
    "what": (PINK, "", "what happens"),
    "values": (BLUE, "8 2 1 2", "values"),
}


class Part(NamedTuple):
    """Bytes of a MIDI file with one meaning."""

    data: bytes
    role: str  # a key of ROLES
    text: str


class Row(NamedTuple):
    """A header or an event: its parts, its wait in ticks, and what it says."""

    parts: list[Part]
    wait: int
    text: str


def rows_of(data: bytes) -> list[Row]:
    """The headers and events of a MIDI file with one track, notes and tempi."""
    ticks = struct.unpack_from(">H", data, 12)[0]
    header = [
        Part(data[:4], "frame", "the letters MThd: a header follows"),
        Part(data[4:8], "frame", "the header's length, 6 bytes"),
        Part(data[8:10], "values", "format 0: one track with everything"),
        Part(data[10:12], "values", "number of tracks"),
        Part(data[12:14], "values", f"{ticks} ticks per quarter note"),
    ]
    track = [
        Part(data[14:18], "frame", "the letters MTrk: a track follows"),
        Part(data[18:22], "frame", "the track's length in bytes"),
    ]
    rows = [Row(header, 0, f"header: {ticks} ticks a quarter note")]
    rows.append(Row(track, 0, f"a track of {len(data) - 22} bytes"))
    at, status = 22, 0
    while at < len(data):
        begin, wait = at, 0
        while data[at] >= 0x80:
            at += 1
        at += 1
        for byte in data[begin:at]:
            wait = wait * 128 + (byte & 127)
        parts = [Part(data[begin:at], "wait", f"wait {wait} ticks")]
        what = at
        if data[at] >= 0x80:
            status, at = data[at], at + 1
        if status == 0xFF:
            more, text = _meta_event(data[what:])
        else:
            more, text = _note_event(data[what:at], data[at : at + 2], status)
        rows.append(Row(parts + more, wait, text))
        at = what + sum(len(part.data) for part in more)
    return rows


def _meta_event(data: bytes) -> tuple[list[Part], str]:
    """The parts of the meta event at the beginning of `data`, and what it says."""
    kind, size = data[1:3]
    values = data[3 : 3 + size]
    text = "end of the track"
    if kind == 0x51:
        text = f"{int.from_bytes(values, 'big'):,} µs a quarter note"
    about = {0x2F: "end of track", 0x51: "tempo"}.get(kind, "other")
    name = f"meta event {kind:02x} ({about}), with {size} bytes of values"
    return [Part(data[:3], "what", name), Part(values, "values", text)][: 1 + bool(size)], text


def _note_event(written: bytes, values: bytes, status: int) -> tuple[list[Part], str]:
    """The parts of a note's event, whose status may be left out, and what it says."""
    pitch, velocity = values
    parts = [Part(values, "values", f"key {pitch}, velocity {velocity}")]
    text = f"key {pitch} up"
    if status >> 4 == 9 and velocity > 0:
        text = f"key {pitch} down, velocity {velocity}"
    if not written:
        return parts, f"{text} (status as before)"
    name = "a key comes up"
    if status >> 4 == 9:
        name = "a key goes down (or up, if the velocity is 0)"
    return [Part(written, "what", name), *parts], text


def draw_bytes(data: bytes) -> "Figure":
    """Each byte of a MIDI file of one track, one row an event, with its meaning."""
    rows = rows_of(data)
    fig, ax = canvas(0.27 * len(rows) + 0.45, x=(-0.1, 22), y=(len(rows) - 0.5, -1.9))

    def frame(x: float, y: float, num_bytes: int, role: str) -> None:
        color, dashes, _ = ROLES[role]
        dash = (0, [float(part) / 2 for part in dashes.split()]) if dashes else "-"
        size = (num_bytes - 0.12, 0.78)
        box(ax, (x, y - 0.39), size, look=Look(color, dash=dash), fill=0.22, line=1.1)

    for y, (parts, wait, text) in enumerate(rows):
        x = 0
        for part in parts:
            frame(x, y, len(part.data), part.role)
            for byte in part.data:
                ax.text(x + 0.44, y, f"{byte:02x}", ha="center", va="center", fontsize=9)
                x += 1
        said = f"{wait} ticks later: {text}" if wait else text
        ax.text(max(x, 8) + 0.25, y, said, va="center", fontsize=9.5)
    for place, (role, (*_, name)) in enumerate(ROLES.items()):
        frame(5.3 * place, -1.4, 1, role)
        ax.text(5.3 * place + 1.1, -1.4, name, va="center", fontsize=9.5)
    return fig


def draw_number(data: bytes) -> "Figure":
    """A variable-length number of two bytes: their bits, and what is left of them."""
    fig, ax = canvas(1.9, x=(-0.3, 19.2), y=(-0.1, 3.6))
    bit = {"fill": 0.22, "line": 1.1}
    kept = ""
    for place, (byte, said) in enumerate(
        zip(data, ("another byte follows", "the last byte"), strict=True)
    ):
        left, bits = 1 + 9.6 * place, f"{byte:08b}"
        ax.text(left - 0.35, 2.4, f"{byte:02x}", ha="right", va="center", fontsize=11)
        ax.text(left, 3.1, f"{bits[0]}: {said}", fontsize=9.5)
        box(ax, (left, 2), (0.88, 0.8), bits[0], Look(PINK, dash="--"), **bit)
        for i, digit in enumerate(bits[1:]):
            for corner in ((left + 1 + i, 2), (2.8 + 7 * place + i, 0)):
                box(ax, corner, (0.88, 0.8), digit, Look(BLUE), **bit)
        arrow(ax, (left + 4.44, 1.9), (6.24 + 7 * place, 0.9), lw=0.9)
        kept += bits[1:]
    ax.text(17.05, 0.4, f"= {int(kept, 2)}", va="center", fontsize=11)
    return fig


def draw_held(
    start: np.ndarray,
    end: np.ndarray,
    held: np.ndarray,
    pitch: np.ndarray,
    pedal: np.ndarray,
    seconds: float,
) -> "Figure":
    """Keys and what their pedal adds, for the first `seconds`; `pedal` is (p, 2)."""
    fig, ax = panels(3)
    notes = [part[start < seconds] for part in (start, end, held, pitch)]
    low, high = int(notes[3].min()), int(notes[3].max())
    for on, off, until, key in zip(*notes, strict=True):
        place = (key - 0.42, 0.84)
        ax.broken_barh([(off, until - off)], place, facecolors=(BLUE, 0.35), lw=0)
        ax.broken_barh([(on, off - on)], place, facecolors=BLUE, lw=0, zorder=2)
    for down, up in pedal:
        ax.broken_barh([(down, up - down)], (low - 5, 2), facecolors=INK, alpha=0.55)
        if up < seconds:
            ax.axvline(up, color=INK, lw=0.8, ls=":", alpha=0.7)
    octaves = [key for key in range(0, 128, 12) if low <= key <= high]
    ax.set_yticks([low - 4, *octaves], ["pedal", *(f"C{key // 12 - 1}" for key in octaves)])
    ax.set(xlim=(0, seconds), ylim=(low - 6, high + 1), xlabel="time (seconds)")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return fig


def draw_lookups(
    time: np.ndarray, is_down: np.ndarray, goes_up: np.ndarray, key_up: np.ndarray
) -> "Figure":
    """Pedal changes (p,), the up from each on (p,), and what they do to keys (n,)."""
    fig, ax = panels(2.5)
    right, middle = time[-1] + 1.3, {"ha": "center", "va": "center"}
    for moment, down, following in zip(time, is_down, [*time[1:], right - 0.3], strict=True):
        if down:
            ax.broken_barh([(moment, following - moment)], (-0.15, 0.3), color=INK, alpha=0.3)
        ax.plot(moment, 0, marker="v" if down else "^", color=INK, ms=8)
        ax.text(moment, -0.5, "down" if down else "up", **middle)
    ax.text(right - 0.28, 0, "never up", va="center", fontsize=9.5)
    last = np.searchsorted(time, key_up, side="right") - 1
    for i, (moment, change) in enumerate(zip(key_up, last, strict=True)):
        y = 0.75 + 0.7 * (len(key_up) - 1 - i)
        ax.plot(moment, y, marker="o", color=BLUE, ms=6)
        ax.text(moment, y + 0.28, "key up", fontsize=9.5, **middle)
        verdict = "no change yet: ends here"
        if change >= 0:
            arrow(ax, (moment - 0.05, y), (time[change], 0.2), ORANGE, lw=1.4, ls="--")
            verdict = "an up: ends here"
        if change >= 0 and is_down[change]:
            arrow(ax, (moment + 0.05, y), (goes_up[change], y), BLUE, lw=1.8)
            moment, verdict = goes_up[change], f"a down: ends at {goes_up[change]:g}"
        ax.text(moment + 0.1, y, verdict, va="center", fontsize=9.5)
    ax.set(xlim=(0, right + 0.5), ylim=(-0.75, 2.65), xlabel="time (seconds)")
    ax.set(yticks=[0], yticklabels=["pedal"], xticks=[0, *time])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return fig
