"""The player: a piano roll with sound, for notebooks and pages."""

import base64
import html
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.sound.encoding import mp3_bytes
from tinyperceiver.sound.roll import BLUE, Roll, octaves, roll_of
from tinyperceiver.sound.synthesis import render, synthesizer

if TYPE_CHECKING:
    from IPython.display import HTML
    from pretty_midi import PrettyMIDI

__all__ = ["play"]


def play(
    midi: "PrettyMIDI",
    *,
    title: str | None = None,
    split: float | None = None,
    sound: bool = True,
    soundfont: str | os.PathLike[str] | None = None,
    playhead: float | None = None,
    downloads: str | None = None,
) -> "HTML":
    """Show a player and a piano roll in a notebook.

    The output needs neither a network nor scripts. The sound is a 22 kHz MP3 inside the
    page: 0.4 MB a minute.

    Args:
        midi: the music.
        title: a line of text above the roll.
        split: when a continuation begins, in seconds: what comes before is orange, as
            prefixes are in the book, and the continuation blue, as latents.
        sound: False for the piano roll alone, which needs no synthesizer.
        soundfont: as in `render`.
        playhead: where the player starts, in seconds; if given, a line in the piano roll
            follows the sound, and starting one player stops the others, where scripts run.
        downloads: links offer the music as MIDI and as MP3, as files of this name without its
            ending; the second of them needs scripts.

    Returns:
        An output to display: the last value of a cell, or what `display` takes.

    Raises:
        ValueError, OSError, SynthesizerNotFoundError: as `render` and `piano_roll`.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise ImportError(
            "play shows a player in a notebook, and IPython is not installed: pip install "
            '"tinyperceiver[notebook]". In a script, write the sound to a file: '
            'Path("music.mp3").write_bytes(mp3_bytes(midi))'
        ) from error

    roll = roll_of(midi, split)
    samples = render(midi, 22_050, soundfont) if sound else np.empty(0)
    name = html.escape(title or "Piano music", quote=True)
    parts = [f'<div style="font-weight:600">{name}</div>'] if title else []
    facts = ["nothing to hear: no notes"]
    if len(samples):
        mp3 = base64.b64encode(mp3_bytes(samples)).decode()
        line, events = ("", "") if playhead is None else _follow(roll, playhead)
        parts.append(_svg_roll(roll, line))
        parts.append(
            f'<audio controls preload="metadata" aria-label="{name}" style="width:100%"{events} '
            f'src="data:audio/mpeg;base64,{mp3}"></audio>'
        )
        font = html.escape(Path(soundfont).name if soundfont else "TimGM6mb.sf2")
        facts = [f"{len(samples) / 22_050:.1f} s", f"{len(roll.bars)} notes"]
        facts.append(f"sound: {synthesizer()}, {font}")
    elif roll.bars and not sound:
        parts.append(_svg_roll(roll))
        facts = [f"{roll.seconds:.1f} s", f"{len(roll.bars)} notes", "without sound"]
    if roll.split is not None:
        style = f"display:inline-block;width:.7em;height:.7em;background:{BLUE}"
        square = f'<span style="{style}"></span>'
        facts.append(f"{square} continuation from {roll.split:.1f} s")
    if downloads is not None:
        facts.append(_links(midi, html.escape(downloads), bool(len(samples))))
    parts.append(f'<div style="font-size:.8em;opacity:.85">{" · ".join(facts)}</div>')
    # A book may style the class; a <figure> would bring its theme's own captions and margins.
    return HTML(
        f'<div class="tinyperceiver-player" style="max-width:54em">{"".join(parts)}</div>'
    )


# Event attributes run where a <script> does not: inside a widget.
_MOVE = (
    "audio.closest('.tinyperceiver-player').querySelector('.playhead').style.left = "
    "Math.min(100 * audio.currentTime / audio.dataset.seconds, 100) + '%'"
)
_EVENTS = {
    "onloadedmetadata": "this.currentTime = this.dataset.start",
    "onseeking": f"const audio = this; {_MOVE}",
    "onplay": "const audio = this; for (const other of document.querySelectorAll('audio')) "
    "{ if (other !== audio) other.pause() } "
    f"(function follow() {{ {_MOVE}; audio.paused || requestAnimationFrame(follow) }})()",
}


def _follow(roll: Roll, start: float) -> tuple[str, str]:
    """A line over the roll, and the attributes by which an <audio> beside it moves the line."""
    left = f"left:{min(start / roll.seconds, 1):.2%}"
    style = f"position:absolute;top:0;bottom:0;border-left:2px solid;{left}"
    line = f'<div class="playhead" aria-hidden="true" style="{style}"></div>'
    data = {"data-seconds": f"{roll.seconds:.3f}", "data-start": f"{start:.3f}"}
    attributes = (f' {k}="{html.escape(v)}"' for k, v in (data | _EVENTS).items())
    return line, "".join(attributes)


def _links(midi: "PrettyMIDI", name: str, has_sound: bool) -> str:
    """Links to a player's music as files. The MP3 is not written into the page twice."""
    buffer = io.BytesIO()
    midi.write(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    link = f'<a style="text-decoration:underline" download="{name}'
    links = f'{link}.mid" href="data:audio/midi;base64,{data}">MIDI</a>'
    if has_sound:
        audio = "this.closest('.tinyperceiver-player').querySelector('audio')"
        click = f'onclick="this.href = {audio}.src"'
        links += f' {link}.mp3" href="#" {click}>MP3</a>'
    return f"download: {links}"


def _svg_roll(roll: Roll, line: str = "") -> str:
    """The piano roll as an inline SVG, in the colour of the text around it.

    `line` is HTML to lie over the drawing.

    The drawing stretches to the width of the page; the labels lie over it and keep their size.
    """
    width, row = 4000, 10  # units of the drawing: integers save bytes
    bottom = roll.low - (5 if roll.pedal else 0)
    height = (roll.high - bottom + 1) * row

    def x(time: float) -> int:
        return round(width * min(time / roll.seconds, 1))

    def y(pitch: int) -> int:
        return round((roll.high - pitch + 0.5) * row)

    lines = {}  # style -> path: what looks alike is drawn as one
    grid = (
        'stroke="currentColor" stroke-opacity=".2" vector-effect="non-scaling-stroke"'
    )
    steps = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
    step = next((step for step in steps if roll.seconds <= 6 * step), roll.seconds / 6)
    times = [i * step for i in range(7) if i * step <= 0.92 * roll.seconds]
    lines[grid] = "".join(f"M0 {y(pitch)}h{width}" for pitch in octaves(roll))
    lines[grid] += "".join(f"M{x(time)} 0v{height}" for time in times)
    for start, end, pitch, color, opacity in roll.bars:
        style = (
            f'stroke="{color}" stroke-opacity="{opacity:.1f}" stroke-width="{row - 1}"'
        )
        lines[style] = lines.get(style, "") + f"M{x(start)} {y(pitch)}H{x(end)}"
    style = f'stroke="currentColor" stroke-opacity=".55" stroke-width="{2 * row}"'
    lines[style] = "".join(
        f"M{x(down)} {y(bottom + 1)}H{x(up)}" for down, up in roll.pedal
    )
    if roll.split is not None:
        style = 'stroke="currentColor" stroke-dasharray="5 4" vector-effect="non-scaling-stroke"'
        lines[style] = f"M{x(roll.split)} 0v{height}"
    paths = "".join(f'<path d="{data}" {style}/>' for style, data in lines.items())

    places = [
        (f"left:{time / roll.seconds:.1%};top:100%", f"{time:g} s") for time in times
    ]
    side = "right:calc(100% + .5em);margin-top:-.7em;top:{:.1%}"
    places += [(side.format(y(c) / height), text) for c, text in octaves(roll).items()]
    if roll.pedal:
        places.append((side.format(y(bottom + 1) / height), "pedal"))
    style = "position:absolute;font-size:.75em;line-height:1.4;white-space:nowrap"
    labels = "".join(
        f'<span aria-hidden="true" style="{style};{place}">{text}</span>'
        for place, text in places
    )
    return (
        f'<div style="position:relative;height:12em;margin:.8em .6em 1.6em 3em">'
        f'<svg role="img" aria-label="{roll.text}" viewBox="0 0 {width} {height}" fill="none" '
        f'preserveAspectRatio="none" style="display:block;width:100%;height:100%">{paths}</svg>'
        f"{labels}{line}</div>"
    )
