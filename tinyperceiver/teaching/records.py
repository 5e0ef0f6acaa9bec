"""The recorded runs that chapters read: where they lie, and what they say."""

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyperceiver.files.download import download
from tinyperceiver.training.config import TrainingConfig

BOOK = Path(__file__).parents[2] / "book"
# Of all files in book/runs, as `sha256sum` writes it; scripts/fill_chapters.py renews it.
HASHES = Path(__file__).parents[1] / "assets" / "recorded.sha256"
MEASURED = "runs/tiny/measured.json"  # see `measured`
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


def measured() -> dict:
    """What `scripts/measure_checkpoint.py` measured of the model that ships."""
    return recorded_numbers(MEASURED)


@cache
def recorded_numbers(path: str) -> dict:
    """What a recorded file of JSON holds, see `recorded_file`; to be read, not changed."""
    return json.loads(recorded_file(path).read_text(encoding="utf-8"))


class Run(NamedTuple):
    """What the log of a run says; steps count from 1."""

    config: TrainingConfig
    steps: np.ndarray  # (S,)
    loss: np.ndarray  # nats per token of each step, (S,)
    norm: np.ndarray  # length of each step's gradient, (S,)
    rate: np.ndarray  # learning rate of each step, (S,)
    held_out: np.ndarray  # step, tokens in the window, nats per token: (validations, 3)
    speed: np.ndarray  # step, tokens per second since the record before: (., 2)
    sessions: int  # the first, and each time that it went on
    seconds: float  # all sessions together
    tokens: int  # predicted


def read_run(folder: str) -> Run:
    """The record of a run, named from the book's folder; see `recorded_file`."""
    config, log, speed = (
        recorded_file(f"{folder}/{name}") for name in ("config.json", "log.jsonl", "speed.jsonl")
    )
    settings = json.loads(config.read_text(encoding="utf-8"))["config"]
    records = _lines(log)
    steps = [r for r in records if "loss" in r]
    held_out = [(r["step"], r["window"], r["held_out"]) for r in records if "held_out" in r]
    # A session that went on begins its clock anew.
    spans, sessions, seconds, before = [], 1, 0.0, (0.0, 0)
    for record in _lines(speed):
        now = record["seconds"], record["tokens"]
        if now[0] < before[0]:
            before = (0.0, 0)
            sessions += 1
        seconds += now[0] - before[0]
        if now[0] > before[0]:
            pace = (now[1] - before[1]) / (now[0] - before[0])
            spans.append((record["step"], pace))
        before = now
    return Run(
        TrainingConfig.from_json(settings),
        *(
            np.array([r[name] for r in steps])
            for name in ("step", "loss", "gradient_norm", "learning_rate")
        ),
        np.array(held_out).reshape(-1, 3),
        np.array(spans).reshape(-1, 2),
        sessions,
        seconds,
        sum(r["tokens"] for r in steps),
    )


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# What was counted on GiantMIDI-Piano, in the package's assets


def recorded_run() -> dict:
    """What `scripts/count_ngrams.py` measured on GiantMIDI-Piano."""
    file = resources.files("tinyperceiver") / "assets" / "ngrams" / "results.json"
    return json.loads(file.read_text(encoding="utf-8"))


def bigram_counts() -> np.ndarray:
    """How often token b follows token a in its training part: (388, 388), [a, b]."""
    path = resources.files("tinyperceiver") / "assets" / "ngrams" / "bigrams.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        return arrays["counts"].astype(np.int64)
