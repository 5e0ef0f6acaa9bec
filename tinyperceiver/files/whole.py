"""Files that appear whole or not at all, their hashes, and folders with one writer."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from tinyperceiver.files.errors import TinyperceiverError

__all__ = [
    "FolderError",
    "alone_in",
    "alone_with",
    "make_folder",
    "put_in_place",
    "sha256_of",
    "staged",
    "whole_file",
]


class FolderError(TinyperceiverError, RuntimeError):
    """A folder cannot be written to: it is a file, or another run is at work in it."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when it is complete, or never.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the
            error names `path`.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(part, "wb") as file:
            yield file
        put_in_place((part, path))
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # what fails in writing does not name its file
        raise


def staged(path: Path) -> Path:
    """Return where a file with one writer waits for its name.

    Its name does not depend on the process: what a killed run left is found again.
    """
    return path.with_name(path.name + ".new")


def put_in_place(*moves: tuple[Path, Path]) -> None:
    """Give files that are written their names, each in the place of what has it.

    Args:
        moves: from which path to which. They are made in this order, when the contents
            of all files are on the disk.
    """
    for part, _ in moves:
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
    for part, path in moves:
        os.replace(part, path)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Two runs at once would overwrite each other's files.

    Raises:
        FolderError: another one is at work in `folder`.
    """
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise FolderError(
            f"another run is at work in {folder}: wait for its end, or name another folder"
        ) from error
    with lock:
        yield


@contextmanager
def alone_with(path: Path) -> Iterator[bool]:
    """Wait until no other process or thread is at work on `path`, then keep them waiting.

    The lock is a file beside `path`, which is deleted at the end. It also ends with its
    process, however that ends.

    Yields:
        Whether another one was at work before.
    """
    name = path.with_name(path.name + ".lock")
    try:
        lock, has_waited = FileLock(name).acquire(timeout=0), False
    except Timeout:
        print(f"waiting for another process that is at work on {path}", flush=True)
        lock, has_waited = FileLock(name).acquire(), True
    with lock:
        try:
            yield has_waited
        finally:
            with suppress(OSError):  # Windows deletes no file that is open
                name.unlink()


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        FolderError: there is a file of this name, or in place of a folder above it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FolderError(
            f"{path} cannot be made: a file is in its place; name another folder"
        ) from error


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
