"""GiantMIDI-Piano, or another folder of MIDI files, as tokens to train on.

The files are read and tokenized in units of a few, by several processes or machines at
once. Each unit's result is a file of its own, so that a run that is killed can be gone
on with. At the end the units are joined in order: the result depends on the input
alone.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tinyperceiver.dataset.hold_out import RULE_FOR_MANY, RULE_FOR_OWN, Rule
from tinyperceiver.dataset.result import (
    HALF_WRITTEN,
    SPLITS,
    describe,
    find_result,
    name_of,
    refuse_to_replace,
    write_result,
)
from tinyperceiver.dataset.sources import (
    ArchiveError,
    Piece,
    PrepareError,
    list_pieces,
    open_source,
)
from tinyperceiver.dataset.workers import (
    Cluster,
    Processes,
    tokenize_units,
    unit_is_whole,
)
from tinyperceiver.files.download import download
from tinyperceiver.files.whole import alone_in, make_folder, sha256_of, whole_file
from tinyperceiver.music.fast_midi import read_performance
from tinyperceiver.music.tokenizer import encode_midi

__all__ = ["GIANTMIDI_URL", "encode_file", "prepare_folder", "prepare_giantmidi"]

GIANTMIDI_URL = "https://martin-krasser.com/perceiver/data/midi/giantmidi-piano.zip"
NOTICE = """\
GiantMIDI-Piano: piano music transcribed from recordings.
Q. Kong, B. Li, J. Chen, Y. Wang: GiantMIDI-Piano: A large-scale MIDI dataset for
classical piano music. Transactions of the International Society for Music Information
Retrieval, 2022.

Licence: Creative Commons Attribution 4.0 (CC BY 4.0), as stated by its authors:
https://creativecommons.org/licenses/by/4.0/

Disclaimer: a program transcribed these files from recordings that a search had found.
Some are named wrongly. Nobody warrants that they are correct, or free from rights of
others, such as composers, performers and makers of recordings. You use them at your own
risk.
"""
UNIT_FILES, UNIT_BYTES = 32, 2_000_000
# What a run that was killed may leave.
WORK = re.compile("work-[0-9a-f]{16}")


def encode_file(data: bytes) -> list[int]:
    """Tokens of a MIDI file, given as bytes: those of `encode_midi`, quickly."""
    return encode_midi(read_performance(data))


def prepare_giantmidi(
    source: str | os.PathLike[str] = GIANTMIDI_URL,
    out: str | os.PathLike[str] = "data/giantmidi",
    *,
    workers: int | None = None,
    accept: bool = False,
    dask: str | None = None,
    sha256: str | None = None,
    encode: Callable[[bytes], list[int]] = encode_file,
    seconds_per_file: float = 120.0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Turn a dataset of MIDI files into train.bin and valid.bin, tokens to train on.

    Both are little-endian int16: the tokens of a piece, then -1, and so on by name.
    pieces.tsv lists what is in them. manifest.json, written last, has hashes, counts
    and versions, what was left out and why, and which files are copies of others.

    With train/ and valid/ in it, a zip or folder is split as it stands. Otherwise 2 %
    of the recordings become `valid`, chosen by a hash. Files are of one recording if
    they share all bytes, or the YouTube id in names as GiantMIDI-Piano gives them:
    `Surname, First name, Title, YouTube-id.mid`.

    The next run goes on from where one was killed, and ends in the same bytes, as does
    any number of workers. A file on which a process dies twice, or that takes too long,
    is left out. Workers import the main module: in a script, call this under
    `if __name__ == "__main__":`.

    Args:
        source: a zip, a folder, or the http(s) address of a zip.
        out: the folder to write, made if need be.
        workers: processes; by default one for each core.
        accept: agree to the licence without being asked, as where no terminal is.
        dask: address of a Dask scheduler, to work on its cluster. The files travel to
            the workers, which need not see `source`. Give each worker one thread: a
            file that takes too long ends its process.
        sha256: the hash that the zip must have, in hexadecimal.
        encode: bytes of a file to tokens; a function that other processes can import.
        seconds_per_file: a file that takes longer is left out.
        progress: show a bar; by default where there is a terminal.

    Returns:
        The manifest.

    Raises:
        PrepareError: no consent; a source that is missing, damaged or hostile, or without
            a piece that can be read; `out` holds another dataset; no Dask.
        FolderError: another run is at work in `out`, or it is a file.
        WorkerError: no worker is at work.
    """
    _check_workers(workers)
    out = Path(out).expanduser()
    make_folder(out)
    _ask_consent(out, accept)
    return _prepare(
        source,
        out,
        RULE_FOR_MANY,
        workers=workers,
        dask=dask,
        sha256=sha256,
        encode=encode,
        seconds_per_file=seconds_per_file,
        progress=progress,
    )


def prepare_folder(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    encode: Callable[[bytes], list[int]] = encode_file,
    seconds_per_file: float = 120.0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Turn your own MIDI files into train.bin and valid.bin, tokens to train on.

    The files are those of `prepare_giantmidi`, and a killed run is resumed in the same
    way. What is held out in valid.bin depends on the music alone, so that it is the
    same on every run:

    - If there are folders named train and valid, they are the split.
    - Of ten recordings or more, a tenth is held out, and at least two. A hash of the
      tokens chooses them among those that are not short. Files with the same tokens
      count as one recording, whatever their names are.
    - Of fewer than ten recordings, the last fifth of each is held out. A held-out loss
      is then somewhat too low, because an end resembles its beginning.

    Args:
        source: a folder with MIDI files, in it or in its sub-folders; or a zip of one.
        out: the folder to write, made if need be.
        workers, encode, seconds_per_file, progress: as in `prepare_giantmidi`.

    Returns:
        The manifest. Its `skipped` lists the files that are left out, and why.

    Raises:
        PrepareError: `source` is missing, damaged, or without a file that can be used;
            `out` holds other tokens.
        FolderError: another run is at work in `out`, or it is a file.
        WorkerError: processes do not start.
    """
    _check_workers(workers)
    path = Path(source).expanduser()
    if not path.exists():
        raise PrepareError(
            f"{source} does not exist: name the folder of your MIDI files"
        )
    if not path.is_dir() and not zipfile.is_zipfile(path):
        raise PrepareError(
            f"{source} is neither a folder nor a zip: name the folder of your MIDI files"
        )
    out = Path(out).expanduser()
    make_folder(out)
    return _prepare(
        path,
        out,
        RULE_FOR_OWN,
        workers=workers,
        encode=encode,
        seconds_per_file=seconds_per_file,
        progress=progress,
    )


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise PrepareError(f"workers must be 1 or more, not {workers}")


def _prepare(
    source: str | os.PathLike[str],
    out: Path,
    rule: Rule,
    *,
    workers: int | None,
    encode: Callable[[bytes], list[int]],
    seconds_per_file: float,
    progress: bool | None,
    dask: str | None = None,
    sha256: str | None = None,
) -> dict:
    """The work of both; `out` exists."""
    with alone_in(out), ExitStack() as stack:
        for rest in out.iterdir():  # of a run that was killed
            if HALF_WRITTEN.fullmatch(rest.name):
                rest.unlink()
        is_url = re.match("https?://", str(source))
        # Once all is done, the downloaded zip may be deleted: it is not fetched again.
        is_here = not is_url or _zip_of(source, out).exists()
        wanted = {"url": source, "encode": name_of(encode)}
        if sha256 is not None:
            wanted["sha256"] = sha256.lower()
        if not is_here and (finished := find_result(out, **wanted)):
            return finished
        path, origin = _find_source(source, out, sha256)
        try:
            opened = open_source(path)
        except ArchiveError as error:
            if not is_url:
                raise
            path.unlink()
            raise ArchiveError(f"{error}; what {source} sent is deleted") from error
        if isinstance(opened, zipfile.ZipFile):
            stack.enter_context(opened)
        pieces = list_pieces(opened)
        if not pieces:
            raise PrepareError(f"{source} holds no MIDI files (.mid)")
        refuse_to_replace(out, origin, pieces)
        split_of = _split_by_folder(pieces, source)
        head = describe(origin, rule.options if split_of is None else None, encode)
        listed = json.dumps([head, pieces, UNIT_FILES, UNIT_BYTES]).encode()
        head["key"] = hashlib.sha256(listed).hexdigest()
        finished = find_result(out, key=head["key"])
        work = out / f"work-{head['key'][:16]}"
        for rest in out.iterdir():  # of another source or other options, if not done
            if WORK.fullmatch(rest.name) and (finished or rest != work):
                shutil.rmtree(rest)
        if finished:
            return finished

        work.mkdir(exist_ok=True)
        units = list(_units(pieces))
        paths = [work / f"{i:06d}" for i in range(len(units))]
        todo = [
            job for job in zip(paths, units, strict=True) if not unit_is_whole(job[0])
        ]
        if todo and dask:
            pool = Cluster(dask, opened, encode, seconds_per_file)
            stack.callback(pool.client.close)
            tokenize_units(todo, pool, progress)
        elif todo:
            workers = workers or _count_cores()
            pool = Processes(path, workers, encode, seconds_per_file)
            tokenize_units(todo, pool, progress)
        manifest = write_result(paths, split_of, rule, out, head)
        shutil.rmtree(work)
        return manifest


def _count_cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ask_consent(out: Path, accept: bool) -> None:
    path = out / "CONSENT.txt"
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == NOTICE:
            return
    print(NOTICE, flush=True)
    if not accept:
        if sys.stdin is None or not sys.stdin.isatty():
            raise PrepareError(
                "the dataset needs your consent, and there is no terminal to ask: read the "
                "notice above, and agree with --accept (in Python, accept=True)"
            )
        with suppress(EOFError):
            accept = input("Do you agree? [y/N] ").strip().lower() in ("y", "yes")
        if not accept:
            raise PrepareError("without your consent nothing is fetched or read")
    with whole_file(path) as file:
        file.write(NOTICE.encode())


def _zip_of(url: str, out: Path) -> Path:
    return out / f"source-{hashlib.sha256(url.encode()).hexdigest()[:8]}.zip"


def _find_source(
    source: str | os.PathLike[str], out: Path, sha256: str | None
) -> tuple[Path, dict]:
    """The folder or zip, fetched if need be, and what the manifest says of it."""
    if re.match("https?://", str(source)):
        path, origin = _zip_of(source, out), {"url": source}
        name = source.split("?")[0].split("/")[-1]
        if not path.exists():
            download(source, path, sha256)
    else:
        path, origin = Path(source).expanduser().resolve(), {}
        name = path.name
        if path.is_dir():
            if sha256 is not None:
                raise PrepareError(f"{source} is a folder: a SHA-256 is for a zip")
            return path, {"name": name}
        if not path.exists():
            raise PrepareError(f"{source} does not exist")
        if not path.is_file():
            raise PrepareError(
                f"{source} is neither a zip nor a folder nor an http(s) address"
            )
    found = sha256_of(path)
    if sha256 is not None and found != sha256.lower():
        raise PrepareError(
            f"{path} has the SHA-256 {found}, not {sha256}: damaged, or another file"
        )
    origin |= {"name": name, "bytes": path.stat().st_size, "sha256": found}
    return path, origin


def _split_by_folder(
    pieces: list[Piece], source: str | os.PathLike[str]
) -> dict[str, str] | None:
    """Split of each name, from the folders at the top or below one; None if it is flat."""
    split_of = {}
    for piece in pieces:
        folders = piece.name.split("/")[:-1][:2]
        split_of[piece.name] = next((name for name in folders if name in SPLITS), None)
    found = set(split_of.values())
    if found == {None}:
        return None
    if None in found:
        stray = next(name for name, split in split_of.items() if split is None)
        raise PrepareError(
            f"{source} has train/ or valid/ in it, but {stray!r} lies in neither"
        )
    if len(found) == 1:
        raise PrepareError(
            f"{source} has MIDI files in {found.pop()}/ only, not in both"
        )
    return split_of


def _units(pieces: list[Piece]) -> Iterator[list[Piece]]:
    unit, size = [], 0
    for piece in pieces:
        if unit and (len(unit) == UNIT_FILES or size + piece.size > UNIT_BYTES):
            yield unit
            unit, size = [], 0
        unit.append(piece)
        size += 0 if piece.fault else piece.size
    yield unit
