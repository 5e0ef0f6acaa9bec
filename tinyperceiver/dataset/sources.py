"""MIDI files in a folder or a zip, which is looked through before anything is read.

A zip is never unpacked: its members are read one by one, where they lie.
"""

import os
import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.music.midi import MAX_BYTES

__all__ = [
    "ArchiveError",
    "Piece",
    "PrepareError",
    "Source",
    "list_pieces",
    "open_source",
    "read_piece",
]

MAX_MEMBERS = 5_000_000
MAX_TOTAL = 200_000_000_000  # bytes, unpacked
# MIDI shrinks to a half or a third; only what is made for it shrinks to a hundredth.
MAX_RATIO, SMALL = 100, 1_000_000
LOCAL_HEADER = 30  # bytes before a member's name and data, at least
ENCRYPTED = 0x1
PACKED = re.compile(r"\.(zip|gz|tgz|bz2|xz|zst|7z|rar|tar)$", re.IGNORECASE)
MIDI = re.compile(r"\.midi?$", re.IGNORECASE)


class PrepareError(TinyperceiverError, ValueError):
    """A dataset cannot be prepared; says why, and what to do."""


class ArchiveError(PrepareError):
    """A zip or folder that is not to be read; names it, the member and the reason."""


class Piece(NamedTuple):
    """A MIDI file: its name in the zip or folder, bytes, CRC-32, why it is left out."""

    name: str
    size: int
    crc: int
    fault: str | None = None


Source = Path | zipfile.ZipFile  # a folder or a zip


def open_source(path: Path) -> Source:
    """A folder, as it is, or a zip, opened.

    Raises:
        ArchiveError: it is neither.
    """
    if path.is_dir():
        return path
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ArchiveError(
            f"{path} is neither a folder nor a zip, or is cut off ({error})"
        ) from error


def list_pieces(source: Source) -> list[Piece]:
    """MIDI files of a folder or zip, by name. Those that cannot be music have a fault.

    Raises:
        ArchiveError: a zip that is hostile or damaged. None of it has been unpacked.
    """
    if isinstance(source, zipfile.ZipFile):
        _check_zip(source)
        found = [(i.filename, i.file_size, i.CRC, None) for i in source.infolist()]
    else:
        found = list(_walk(source))
    pieces = []
    for name, size, crc, fault in sorted(found):
        path = PurePosixPath(name)
        # What macOS adds to a zip beside each file.
        is_shadow = path.name.startswith("._") or "__MACOSX" in path.parts
        if MIDI.search(name) and not is_shadow:
            if size > MAX_BYTES:
                fault = f"more than {MAX_BYTES:,} bytes"
            pieces.append(Piece(name, size, crc, fault))
    return pieces


def read_piece(source: Source, piece: Piece) -> bytes:
    """Its bytes.

    Raises:
        ArchiveError: it is damaged, or not what was listed.
        OSError: the disk's fault, by which no piece is judged.
    """
    try:
        if isinstance(source, Path):
            data = _read_file(source / piece.name)
        else:
            with source.open(piece.name) as member:
                data = member.read(piece.size + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"damaged in the zip: {error}") from error
    if len(data) != piece.size or zlib.crc32(data) != piece.crc:
        raise ArchiveError("not the bytes that were listed")
    return data


def _walk(folder: Path):
    """Name, size, CRC-32 and fault of the files of a folder. Links are not followed."""

    def fail(error: OSError) -> None:
        raise ArchiveError(f"{error.filename} cannot be listed: {error.strerror}")

    for place, _, names in os.walk(folder, onerror=fail):
        for name in filter(MIDI.search, names):
            path = Path(place) / name
            size = crc = 0
            fault = None
            try:
                status = path.lstat()
                size = status.st_size
                if not stat.S_ISREG(status.st_mode):
                    fault = "a link, or something else than a file"
                elif size <= MAX_BYTES:
                    crc = zlib.crc32(_read_file(path))
            except OSError as error:
                fault = f"cannot be read: {error.strerror}"
            yield path.relative_to(folder).as_posix(), size, crc, fault


def _read_file(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _check_zip(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_TOTAL:
        raise ArchiveError(
            f"{archive.filename} holds {len(members):,} files of {total:,} bytes; at most "
            f"{MAX_MEMBERS:,} and {MAX_TOTAL:,} are read"
        )
    seen, end = set(), 0
    for member in sorted(members, key=lambda member: member.header_offset):
        fault = _fault_of_name(member) or _fault_of_data(member)
        if member.filename.casefold() in seen:
            fault = "another has this name, or it differs only in capitals"
        seen.add(member.filename.casefold())
        if member.header_offset < end:
            fault = "it lies over another in the file"
        end = member.header_offset + LOCAL_HEADER + member.compress_size
        if end > archive.start_dir:
            fault = "it is longer than the zip"
        if fault:
            raise ArchiveError(
                f"{archive.filename} is not to be trusted, and nothing of it was read: "
                f"{member.orig_filename!r}: {fault}"
            )


def _fault_of_name(member: zipfile.ZipInfo) -> str | None:
    # As written: zipfile cuts names at a zero byte, and on Windows turns backslashes.
    name = member.orig_filename
    if re.search(r"[\\\x00-\x1f\x7f]", name):
        return "its name has a backslash or a control character"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "its name starts at the root of a disk"
    if ".." in name.split("/"):
        return "its name leads out of the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link, or something else than a file"
    return None


def _fault_of_data(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & ENCRYPTED:
        return "it is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed by another method than deflate"
    packed, size = member.compress_size, member.file_size
    if size > max(SMALL, packed * MAX_RATIO):
        return f"{packed:,} bytes claim to hold {size:,}: a bomb"
    if member.compress_type == zipfile.ZIP_STORED and packed != size:
        return f"it has {packed:,} bytes and claims {size:,}"
    if PACKED.search(member.filename):
        return "an archive in the archive; unpack that, and give what it holds"
    return None
