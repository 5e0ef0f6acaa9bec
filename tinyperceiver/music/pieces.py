"""Short piano pieces that come with the package, to be listened to and continued.

The scores are in the public domain. They were entered as performances, with tempo, dynamics and
pedal, by `scripts/enter_pieces.py`, and are checked note for note against music21's corpus.
"""

import io
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["PIECES", "Piece", "load_piece"]


class Piece(NamedTuple):
    """A shipped piece: its title, with the bars that are played, and its composer."""

    title: str
    composer: str


# Name -> title and composer of the pieces that `load_piece` reads.
PIECES = {
    "bach-prelude": Piece(
        "Prelude in C major, BWV 846, bars 1-19", "Johann Sebastian Bach (1685-1750)"
    ),
    "mozart-sonata": Piece(
        "Piano Sonata in C major, K. 545, first movement, bars 1-12",
        "Wolfgang Amadeus Mozart (1756-1791)",
    ),
    "schubert-lindenbaum": Piece(
        "Der Lindenbaum, D. 911 no. 5, the piano's introduction",
        "Franz Schubert (1797-1828)",
    ),
    "chopin-mazurka": Piece(
        "Mazurka in C sharp minor, op. 6 no. 2, bars 1-16",
        "Frédéric Chopin (1810-1849)",
    ),
    "joplin-maple-leaf-rag": Piece(
        "Maple Leaf Rag, first strain", "Scott Joplin (1868-1917)"
    ),
}


def load_piece(name: str) -> "PrettyMIDI":
    """Return one of the pieces that come with the package, as a performance.

    Args:
        name: a key of `PIECES`.

    Returns:
        A new object each time, with one piano and its sustain pedal; times are in seconds.

    Raises:
        ValueError: there is no piece of that name; the message lists those there are.
        FileNotFoundError: the installed package lacks the piece's file.
    """
    import pretty_midi

    if name not in PIECES:
        raise ValueError(
            f"no piece is called {name!r}: choose one of {', '.join(PIECES)}"
        )
    file = resources.files("tinyperceiver") / "assets" / "pieces" / f"{name}.mid"
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} is missing: install tinyperceiver again, or write it with "
            "scripts/enter_pieces.py from the repository"
        ) from error
    return pretty_midi.PrettyMIDI(io.BytesIO(content))
