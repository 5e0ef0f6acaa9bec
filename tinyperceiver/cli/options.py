"""Options and arguments that several commands share, and how a shell completes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tinyperceiver.music.pieces import PIECES

MUSIC = "A MIDI file, or the name of a shipped piece."
# For the end of a command's help; \b keeps its lines as they are.
SHIPPED_PIECES = "\n  ".join(["\b\nShipped pieces:", *PIECES])


def complete_music(incomplete: str) -> Iterator[str]:
    """Shipped pieces, folders and MIDI files that begin with what is typed so far."""
    yield from (name for name in PIECES if name.startswith(incomplete))
    yield from _paths(incomplete, (".mid", ".midi"))


def complete_model(incomplete: str) -> Iterator[str]:
    """The shipped model, and folders that begin with what is typed so far."""
    yield from (name for name in ("tiny",) if name.startswith(incomplete))
    yield from _paths(incomplete, ())


def _paths(incomplete: str, endings: tuple[str, ...]) -> Iterator[str]:
    folder, _, begin = incomplete.rpartition("/")
    place = Path(folder + "/" if incomplete.startswith("/") else folder or ".")
    for path in sorted(place.glob("*")):
        if path.name.startswith(begin) and not path.name.startswith("."):
            name = f"{folder}/{path.name}" if "/" in incomplete else path.name
            if path.is_dir():
                yield f"{name}/"
            elif path.suffix.lower() in endings:
                yield name


MidiFile = Annotated[
    str,
    typer.Argument(
        help=MUSIC, metavar="MIDI", show_default=False, autocompletion=complete_music
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        help="'tiny', which is shipped; a folder; or a model id on the hub.",
        metavar="MODEL",
        show_default=False,
        autocompletion=complete_model,
    ),
]
SoundFont = Annotated[
    Path | None,
    typer.Option(help="Sound font to play with (.sf2).", show_default="General MIDI"),
]
Checkpoint = Annotated[
    str,
    typer.Option(
        help="'tiny', which is shipped; a folder; or a model id on the hub.",
        metavar="MODEL",
        autocompletion=complete_model,
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
