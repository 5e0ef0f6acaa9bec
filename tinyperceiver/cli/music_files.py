"""The music that a command reads and writes, checked before the work begins."""

import io
import os
from pathlib import Path

from tinyperceiver.cli.refusals import CommandError
from tinyperceiver.files.whole import whole_file


def read_music(name: str):
    """Return a shipped piece of this name, or read a MIDI file."""
    from tinyperceiver import PIECES, load_piece, read_midi

    return load_piece(name) if name in PIECES else read_midi(name)


def check_sound(soundfont: Path | None) -> None:
    """Before the work, not after it: is there a synthesizer, and can it read the sound font?"""
    from pretty_midi import PrettyMIDI

    from tinyperceiver import render, synthesizer

    synthesizer()
    render(PrettyMIDI(), soundfont=soundfont)


def check_writable(path: Path, endings: set[str]) -> None:
    """Before the work, too."""
    if path.suffix.lower() not in endings:
        raise CommandError(f"{path} must end in {' or '.join(sorted(endings))}")
    if path.is_dir() or not path.parent.is_dir():
        raise CommandError(
            f"{path} cannot be written: its folder must exist, and not be a file's"
        )
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise CommandError(f"{path} cannot be written: no permission for {place}")


def write_midi(path: Path, music) -> None:
    """Write a performance as a MIDI file, whole or not at all."""
    buffer = io.BytesIO()
    music.write(buffer)
    with whole_file(path) as file:
        file.write(buffer.getvalue())


def write_sound(path: Path, music, soundfont: Path | None) -> None:
    """Render a performance into a WAV or MP3 file, whole or not at all."""
    from tinyperceiver import mp3_bytes, render, wav_bytes

    if path.suffix.lower() == ".mp3":
        data = mp3_bytes(render(music, 22_050, soundfont))
    else:
        data = wav_bytes(render(music, soundfont=soundfont))
    with whole_file(path) as file:
        file.write(data)
