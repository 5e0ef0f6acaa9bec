"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

MidiFile = Annotated[
    str,
    typer.Argument(
        help="A MIDI file, or the name of a shipped piece: bach-prelude, mozart-sonata, "
        "schubert-lindenbaum, chopin-mazurka or joplin-maple-leaf-rag.",
        metavar="MIDI",
        show_default=False,
    ),
]


SoundFont = Annotated[
    Path | None,
    typer.Option(help="Sound font to play with (.sf2).", show_default="General MIDI"),
]
Checkpoint = Annotated[
    str,
    typer.Option(help="'tiny', which is shipped; a folder; or a model id on the hub."),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
