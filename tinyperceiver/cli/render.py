"""`tinyperceiver render`: turn a MIDI file into sound."""

from pathlib import Path
from typing import Annotated

import typer

from tinyperceiver.cli.music_files import (
    check_sound,
    check_writable,
    read_music,
    write_sound,
)
from tinyperceiver.cli.options import MidiFile, SoundFont


def render(
    midi: MidiFile,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Sound file to write, .wav or .mp3.",
            show_default=False,
        ),
    ],
    soundfont: SoundFont = None,
) -> None:
    """Turn a MIDI file into sound.

    \b
    tinyperceiver render piece.mid -o piece.mp3
    """
    from tinyperceiver import synthesizer

    check_writable(output, {".wav", ".mp3"})
    check_sound(soundfont)
    music = read_music(midi)
    write_sound(output, music, soundfont)
    print(f"{output}: {music.get_end_time():.1f} s of music, played by {synthesizer()}")
