"""Chapter 1: a file to step through byte by byte, and a player for samples."""

import base64
import html
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.sound.encoding import mp3_bytes
from tinyperceiver.teaching.figures.events import ROLES, rows_of
from tinyperceiver.teaching.slider import Slider, slider_figure

if TYPE_CHECKING:
    from IPython.display import HTML

PER_ROW, SIZE = 12, 40  # bytes in a row, and a byte in the drawing's own units

CAPTION = (
    "Drag, or use the arrow keys, from byte to byte. Watch the first bit. In a wait it "
    "says that another byte follows; after the wait, it tells a status from a value. "
    "Inside a tempo it is a bit like any other."
)


def step_through(data: bytes) -> "HTML":
    """Each byte of a MIDI file of one track: its bits, its part, and its event."""
    sliders = [Slider("place", "byte", range(len(data)))]
    return slider_figure(
        "step-through-bytes", lambda place: byte_state(data, place), sliders, CAPTION
    )


def byte_state(data: bytes, place: int) -> str:
    """All bytes in rows, the one at `place` framed, and what is known of it."""
    cells, clock, known = "", 0, []
    text = 'text-anchor="middle" fill="currentColor"'
    for parts, wait, said in rows_of(data):
        clock += wait
        event = said if parts[0].role == "frame" else f"tick {clock}: {said}"
        for part in parts:
            color, dashes, _ = ROLES[part.role]
            for byte in part.data:
                x, y = _corner(len(known))
                cells += (
                    f'<rect x="{x + 2}" y="{y + 2}" width="{SIZE - 4}" height="{SIZE - 4}" '
                    f'fill="{color}" fill-opacity=".22" stroke="{color}" stroke-width="1.5" '
                    f'stroke-dasharray="{dashes}"/><text x="{x + SIZE / 2}" y="{y + 26}" '
                    f'font-size="17" {text}>{byte:02x}</text>'
                )
                is_begun = part.role == "wait" and byte >= 0x80
                more = ". The first bit is 1: another byte follows" if is_begun else ""
                known.append((f"{part.text[0].upper()}{part.text[1:]}{more}.", event))
    top = _corner(len(known) - 1)[1] + SIZE + 14
    bits = "".join(
        f'<text x="{80 + 26 * i + (12 if i else 0)}" y="{top + 22}" font-size="20" {text} '
        f'font-weight="{400 if i else 700}">{bit}</text>'
        for i, bit in enumerate(f"{data[place]:08b}")
    )
    (x, y), (part, event) = _corner(place), known[place]
    return (
        f'<svg role="img" aria-label="The {len(known)} bytes of the file in rows of {PER_ROW}, '
        'one of them framed, and its eight bits below" '
        f'viewBox="0 0 {PER_ROW * SIZE} {top + 36}" style="display:block;width:100%;'
        f'max-width:640px" font-family="ui-monospace, monospace">{cells}'
        f'<rect x="{x}" y="{y}" width="{SIZE}" height="{SIZE}" fill="none" '
        'stroke="currentColor" stroke-width="4"/>'
        f'<text x="0" y="{top + 21}" font-size="17" fill="currentColor">bits</text>{bits}</svg>'
        '<p aria-live="polite" style="margin:.3em 0;min-height:4.6em">'
        f"<b>{html.escape(part)}</b><br>{html.escape(event)}</p>"
    )


def _corner(place: int) -> tuple[int, int]:
    return SIZE * (place % PER_ROW), SIZE * (place // PER_ROW)


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
