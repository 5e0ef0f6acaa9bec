"""The files of a prepared dataset: tokens, table and manifest."""

import hashlib
import json
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tinyperceiver.dataset.hold_out import Row, Rule
from tinyperceiver.dataset.sources import Piece, PrepareError
from tinyperceiver.dataset.token_file import END, TOKEN_TYPE
from tinyperceiver.dataset.workers import count_events, read_unit
from tinyperceiver.files.whole import sha256_of, whole_file
from tinyperceiver.music.vocabulary import STEPS_PER_SECOND

__all__ = [
    "HALF_WRITTEN",
    "SPLITS",
    "describe",
    "find_result",
    "name_of",
    "refuse_to_replace",
    "write_result",
]

FORMAT = 1
SPLITS = ("train", "valid")
HALF_WRITTEN = re.compile(
    r"(manifest\.json|pieces\.tsv|train\.bin|valid\.bin|CONSENT\.txt)\.\d+\.tmp"
)


def describe(origin: dict, shares: dict | None, encode: Callable) -> dict:
    """What is known of a result beforehand: if it differs, the work starts afresh."""
    from importlib.metadata import version

    names = ("tinyperceiver", "numpy", "mido", "pretty_midi")
    options = {"encode": name_of(encode)}
    options |= {"split": "by folder"} if shares is None else shares
    return {
        "format": FORMAT,
        "source": origin,
        "options": options,
        "tokens": {"dtype": TOKEN_TYPE.str, "separator": END},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in names},
        },
    }


def refuse_to_replace(out: Path, origin: dict, pieces: list[Piece]) -> None:
    """Refuse to lose hours of work for an `out` that someone forgot to name.

    The manifest has the last part of the source's path, which two sources may share. But
    then they hardly ever share the name of a piece.
    """
    try:
        before = json.loads((out / "manifest.json").read_bytes())["source"]["name"]
        table = (out / "pieces.tsv").read_bytes().splitlines()[1:]
        names = {line.split(b"\t")[1] for line in table}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return
    now = {_in_table(piece.name) for piece in pieces}
    if before != origin["name"] or (names and names.isdisjoint(now)):
        other = "" if before != origin["name"] else "another "
        other += repr(before)
        raise PrepareError(
            f"{out} holds the tokens of {other}, not of {origin['name']!r}: name another "
            f"folder with --out, or remove this one"
        )


def name_of(function: Callable) -> str:
    """Return the name by which the manifest records an encoding function."""
    name = f"{function.__module__}.{function.__qualname__}"
    # `encode_file` keeps the name that it has in datasets which are prepared already.
    return name.replace("tinyperceiver.dataset.prepare.", "tinyperceiver.prepare.")


def find_result(out: Path, **wanted: str) -> dict | None:
    """The manifest, if it has what is wanted, and the files are what it says."""
    try:
        manifest = json.loads((out / "manifest.json").read_bytes())
        known = manifest["source"] | manifest["options"] | {"key": manifest["key"]}
        files = [manifest["table"], *manifest["splits"].values()]
        is_wanted = manifest["format"] == FORMAT and wanted.items() <= known.items()
        if is_wanted and all(
            sha256_of(out / file["file"]) == file["sha256"] for file in files
        ):
            print(f"{out} is complete: nothing to do")
            return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def write_result(
    paths: list[Path],
    split_of: dict[str, str] | None,
    rule: Rule,
    out: Path,
    head: dict,
) -> dict:
    """Write the result, the manifest last: while that is missing, nothing is finished.

    Args:
        paths: of the units' results, in order.
        split_of: the split of each name; None if `rule` is to hold pieces out.
        rule: what is held out, and which files are copies of each other.
        out: the folder to write in.
        head: what `describe` says.

    Returns:
        The manifest.

    Raises:
        PrepareError: no file can be used.
    """
    rows, skipped = _rows_of(paths)
    copies = defaultdict(list)
    for row in rows:
        copies[row[rule.same]].append(row["name"])
    if split_of is None:
        held_out = rule.hold_out(rows)
    else:
        held_out = {
            row["name"]: row["tokens"] * (split_of[row["name"]] == "valid")
            for row in rows
        }
    manifest_path = out / "manifest.json"
    manifest_path.unlink(missing_ok=True)
    splits = _write_tokens(paths, held_out, out)
    manifest = head | {
        "splits": splits,
        "table": {"file": "pieces.tsv", "sha256": sha256_of(out / "pieces.tsv")},
        "cut": sum(0 < held_out[row["name"]] < row["tokens"] for row in rows),
        "copies": [same for same in copies.values() if len(same) > 1],
        "skipped": skipped,
    }
    with whole_file(manifest_path) as file:
        file.write(json.dumps(manifest, indent=1).encode() + b"\n")
    return manifest


def _rows_of(paths: list[Path]) -> tuple[list[Row], list[dict[str, str]]]:
    """Rows of the good pieces, with a hash of their tokens, and what is left out."""
    rows, skipped = [], []
    for path in paths:
        skipped += [
            {"name": row["name"], "reason": row["fault"]}
            for row in read_unit(path)[0]
            if "fault" in row
        ]
        rows += [
            row | {"music": hashlib.sha256(tokens).hexdigest()}
            for row, tokens in _pieces_of(path)
        ]
    if not rows:
        raise PrepareError(
            f"none of {len(skipped)} MIDI files can be used; the first, {skipped[0]['name']!r}: "
            f"{skipped[0]['reason']}"
        )
    return rows, skipped


def _write_tokens(paths: list[Path], held_out: dict[str, int], out: Path) -> dict:
    """Write the tokens of both splits and the table; return what the manifest says of them.

    held_out: how many tokens at the end of each piece are for the validation split.
    """
    totals = {split: Counter() for split in SPLITS}
    with ExitStack() as stack:
        table, *files = (
            stack.enter_context(whole_file(out / name))
            for name in ("pieces.tsv", "train.bin", "valid.bin")
        )
        table.write(b"split\tname\ttokens\tnotes\tseconds\tsha256\n")
        for path in paths:
            for row, tokens in _pieces_of(path):
                cut = row["tokens"] - held_out[row["name"]]
                parts = tokens[:cut], tokens[cut:]
                for split, file, part in zip(SPLITS, files, parts, strict=True):
                    if len(part):
                        file.write(np.append(part, TOKEN_TYPE.type(END)))
                        counts = count_events(part)
                        table.write(_line(split, row | counts))
                        totals[split].update(counts, pieces=1)
    return {
        split: {
            "file": f"{split}.bin",
            "pieces": total["pieces"],
            "tokens": total["tokens"],
            "notes": total["notes"],
            "seconds": total["steps"] / STEPS_PER_SECOND,
            "sha256": sha256_of(out / f"{split}.bin"),
        }
        for split, total in totals.items()
    }


def _pieces_of(path: Path) -> Iterator[tuple[Row, np.ndarray]]:
    """Row and tokens of each good piece of a unit, without the separator."""
    rows, data = read_unit(path)
    tokens, begin = np.frombuffer(data, TOKEN_TYPE), 0
    for row in rows:
        if "fault" not in row:
            yield row, tokens[begin : begin + row["tokens"]]
            begin += row["tokens"] + 1


def _line(split: str, row: dict) -> bytes:
    seconds = f"{row['steps'] / STEPS_PER_SECOND:.2f}"
    fields = (split, row["name"], row["tokens"], row["notes"], seconds, row["sha256"])
    return b"\t".join(_in_table(str(field)) for field in fields) + b"\n"


def _in_table(field: str) -> bytes:
    # A name in a folder may be any bytes.
    return re.sub(r"[\t\r\n]", " ", field).encode("utf-8", "backslashreplace")
