"""Where the recorded runs lie that chapters read."""

import json
from functools import cache
from pathlib import Path

from tinyperceiver.files.download import download

BOOK = Path(__file__).parents[2] / "book"
ADDRESS = "https://raw.githubusercontent.com/tinyperceiver/tinyperceiver/main/book/"


def recorded_file(path: str) -> Path:
    """A recorded file of the book, named from its folder, such as runs/tiny/log.jsonl.

    It is fetched from the repository where the notebook stands alone, as on Colab.

    Raises:
        DownloadError: it is not here, and cannot be fetched.
    """
    for folder in (Path(), BOOK):
        if (folder / path).exists():
            return folder / path
    local = Path(path)
    local.parent.mkdir(parents=True, exist_ok=True)
    return download(ADDRESS + path, local)


@cache
def recorded_numbers(path: str) -> dict:
    """What a recorded file of JSON holds, see `recorded_file`; to be read, not changed."""
    return json.loads(recorded_file(path).read_text(encoding="utf-8"))
