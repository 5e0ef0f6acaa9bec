"""Where the recorded runs lie that chapters read."""

import json
from functools import cache
from pathlib import Path

from tinyperceiver.files.download import download

BOOK = Path(__file__).parents[2] / "book"
# Lines that `sha256sum` writes and checks, for all files in book/runs.
HASHES = Path(__file__).parents[1] / "assets" / "recorded.sha256"
ADDRESS = "https://raw.githubusercontent.com/tinyperceiver/tinyperceiver/main/book/"


def recorded_file(path: str) -> Path:
    """A recorded file of the book, named from its folder, such as runs/tiny/log.jsonl.

    It is fetched from the repository where the notebook stands alone, as on Colab.

    Raises:
        DownloadError: it is not here, and cannot be fetched; or what arrived is not the file
            that belongs to this version of the package.
        KeyError: the book has no such file.
    """
    for folder in (Path(), BOOK):
        if (folder / path).exists():
            return folder / path
    local = Path(path)
    local.parent.mkdir(parents=True, exist_ok=True)
    lines = HASHES.read_text(encoding="utf-8").splitlines()
    hashes = {name: sha256 for sha256, name in map(str.split, lines)}
    return download(ADDRESS + path, local, hashes[path])


@cache
def recorded_numbers(path: str) -> dict:
    """What a recorded file of JSON holds, see `recorded_file`; to be read, not changed."""
    return json.loads(recorded_file(path).read_text(encoding="utf-8"))
