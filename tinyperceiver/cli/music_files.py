"""The music that a command reads and writes, checked before the work begins."""

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tinyperceiver.cli.refusals import CommandError
from tinyperceiver.files.errors import did_you_mean
from tinyperceiver.files.whole import whole_file

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI


def read_music(name: str) -> "PrettyMIDI":
    """Return a shipped piece of this name, or read a MIDI file."""
    from tinyperceiver import PIECES, load_piece, read_midi

    if name in PIECES:
        return load_piece(name)
    path = Path(name)
    if not path.exists():
        beside = (path.with_name(file.name) for file in path.parent.glob("*.mid*"))
        near = did_you_mean(name, [*PIECES, *map(str, beside)])
        pieces = f"; the shipped pieces are {', '.join(PIECES)}"
        raise CommandError(f"there is no file {name}{near or pieces}")
    return read_midi(name)


def read_piano(name: str) -> "PrettyMIDI":
    """The same, for a model of piano music: say what it makes of drums."""
    midi = read_music(name)
    drums = sum(len(part.notes) for part in midi.instruments if part.is_drum)
    if drums and drums == sum(len(part.notes) for part in midi.instruments):
        raise CommandError(
            f"{name} has notes for drums only, and the model continues piano music"
        )
    if drums:
        print(
            f"{name}: {drums:,} notes are for drums, and the model reads them as piano "
            f"keys; better take that track out",
            file=sys.stderr,
        )
    return midi


def numbered(path: Path | None, count: int) -> list[Path | None]:
    """The files for so many takes: `path` for one, else out-1.mid, out-2.mid and so on."""
    if path is None or count == 1:
        return [path] * count
    return [path.with_stem(f"{path.stem}-{i}") for i in range(1, count + 1)]


def check_sound(soundfont: Path | None) -> None:
    """Before the work, not after it: is there a synthesizer, and can it read the sound font?"""
    from pretty_midi import PrettyMIDI

    from tinyperceiver import render, synthesizer

    synthesizer()
    render(PrettyMIDI(), soundfont=soundfont)


def check_writable(path: Path, endings: set[str]) -> None:
    """Before the work, too: can the file be written, and is it of the right kind?"""
    if path.suffix.lower() not in endings:
        raise CommandError(f"{path} must end in {' or '.join(sorted(endings))}")
    if path.is_dir():
        raise CommandError(f"{path} cannot be written: there is a folder of this name")
    if not path.parent.is_dir():
        raise CommandError(
            f"{path} cannot be written: there is no folder {path.parent}; make it first"
        )
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise CommandError(f"{path} cannot be written: no permission for {place}")


def write_midi(path: Path, music: "PrettyMIDI") -> None:
    """Write a performance as a MIDI file, whole or not at all."""
    buffer = io.BytesIO()
    music.write(buffer)
    with whole_file(path) as file:
        file.write(buffer.getvalue())


def write_sound(path: Path, music: "PrettyMIDI", soundfont: Path | None) -> None:
    """Render a performance into a WAV or MP3 file, whole or not at all."""
    from tinyperceiver import mp3_bytes, render, wav_bytes

    if path.suffix.lower() == ".mp3":
        data = mp3_bytes(render(music, 22_050, soundfont))
    else:
        data = wav_bytes(render(music, soundfont=soundfont))
    with whole_file(path) as file:
        file.write(data)
