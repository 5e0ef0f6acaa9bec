"""The file of tokens that training reads, without loading it into memory."""

import os
from pathlib import Path

import numpy as np

from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.music.vocabulary import PERFORMANCE

__all__ = ["END", "TOKEN_TYPE", "DataError", "TokenFile"]

TOKEN_TYPE, END = np.dtype("<i2"), -1  # END stands after each piece
CHUNK = 1 << 20  # tokens looked through at a time


class DataError(TinyperceiverError, ValueError):
    """Raised if a token file cannot be used; names the file and the reason."""


class TokenFile:
    """The pieces of a file of little-endian int16 token ids, -1 after each piece.

    The file is checked once and then mapped into memory: a piece is read from disk when
    it is used.

    Args:
        path: e.g. the `train.bin` that `tinyperceiver prepare` wrote.

    Raises:
        DataError: the file is missing, empty, cut off, or does not hold token ids.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            if not self.path.stat().st_size:
                raise ValueError("it is empty, as if too few pieces were prepared")
            self.tokens = np.memmap(self.path, dtype=TOKEN_TYPE, mode="r")
        except FileNotFoundError as error:
            raise DataError(
                f"{self.path} does not exist; tinyperceiver prepare makes it"
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} cannot be read as a token file: {error} "
                f"(tinyperceiver prepare makes one)"
            ) from error
        lowest, highest = self.tokens.min(), self.tokens.max()
        if lowest < END or highest > PERFORMANCE:
            raise DataError(
                f"{self.path} holds {lowest if lowest < END else highest}, which is "
                f"neither a token id, 0 ... {PERFORMANCE}, nor the {END} after a piece"
            )
        if self.tokens[-1] != END:
            raise DataError(
                f"{self.path} does not end with {END}: it is cut off; prepare it again"
            )
        parts = range(0, len(self.tokens), CHUNK)
        ends = [np.flatnonzero(self.tokens[i : i + CHUNK] == END) + i for i in parts]
        ends = np.concatenate(ends)
        self.starts = np.concatenate(([0], ends[:-1] + 1))  # of each piece
        self.lengths = ends - self.starts  # in tokens

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.starts)

    def __getitem__(self, piece: int) -> np.ndarray:
        """Return the token ids of a piece, (length,), a view of the file."""
        start = self.starts[piece]
        return self.tokens[start : start + self.lengths[piece]]

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path]]:
        # Another process maps the file itself, instead of being sent all of it.
        return TokenFile, (self.path,)
