"""Fetch a large file over HTTP, so that what arrived is never fetched twice."""

import json
import os
import re
import time
from contextlib import ExitStack
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.files.whole import alone_with, put_in_place, sha256_of

__all__ = ["DownloadError", "download"]

MAX_BYTES = 100_000_000_000
# Answers of a server that may come out otherwise a little later.
PASSING = {408, 416, 425, 429}


class DownloadError(TinyperceiverError, ValueError):
    """A file could not be fetched whole; says which, why, and what to do."""


def download(
    url: str,
    path: str | os.PathLike[str],
    sha256: str | None = None,
    *,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 60.0,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Fetch `url` to `path`, which appears whole or not at all.

    Until then the bytes lie in `path` + ".part". A broken transfer goes on from there,
    in this call or a later one, if the server says that the file is still the same. Of
    several calls at once, one fetches the file, and the others wait and take it.

    Args:
        sha256: the hash that the file must have, in hexadecimal.
        attempts: how often to try.
        pause: seconds before the second attempt; doubled before each one after it.
        timeout: seconds without a byte after which an attempt has failed.
        max_bytes: more is refused.

    Raises:
        DownloadError: no such file, a transfer that broke off again and again, another
            hash, more than `max_bytes`, or no room.
    """
    if not re.match("https?://.", url):
        raise DownloadError(
            f"{url} could not be downloaded: it is not an http(s) address"
        )
    path, sha256 = Path(path), sha256 and sha256.lower()
    part = path.with_name(path.name + ".part")
    with ExitStack() as stack:
        try:
            has_waited = stack.enter_context(alone_with(path))
        except OSError as error:
            raise DownloadError(f"{path} cannot be written: {error}") from error
        if has_waited and path.exists() and sha256 in (None, sha256_of(path)):
            return path  # the other one fetched it
        _fetch_patiently(url, part, attempts, pause, timeout, max_bytes)
        if sha256 is not None and (found := sha256_of(part)) != sha256:
            _forget(part)
            raise DownloadError(
                f"{url} has the SHA-256 {found}, not {sha256}: damaged, or another file. "
                f"What arrived is deleted"
            )
        put_in_place((part, path))
        _forget(part)
    return path


def _fetch_patiently(
    url: str, part: Path, attempts: int, pause: float, timeout: float, max_bytes: int
) -> None:
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _fetch(url, part, timeout, max_bytes)
            break
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, HTTPError):
                error.close()
                if 400 <= error.code < 500 and error.code not in PASSING:
                    raise DownloadError(
                        f"{url} could not be downloaded: {reason}"
                    ) from error
    else:
        kept = f"{_size(part):,} bytes are kept: try again, to go on from there"
        raise DownloadError(
            f"{url} could not be downloaded: {reason} ({attempts} attempts; {kept})"
        )


def _fetch(url: str, part: Path, timeout: float, max_bytes: int) -> None:
    """Fetch what is missing from `part`, in one attempt."""
    have, note = _size(part), _read_note(part)
    if note.get("url") != url or not note.get("version"):
        have = 0
    if have and have == note.get("total"):
        return
    with _open_url(url, part, have, note, timeout) as response:
        begin, total = _span_of(response)
        if begin != (have if response.status == 206 else 0):
            _forget(part)
            raise OSError(
                f"the server sent bytes from {begin:,} on instead of {have:,}"
            )
        if total is not None and total > max_bytes:
            raise DownloadError(f"{url} has {total:,} bytes, more than {max_bytes:,}")
        if begin and total != note.get("total"):
            _forget(part)
            raise OSError(
                f"the file changed its size from {note.get('total')} to {total}"
            )
        if not begin:
            _begin(url, part, _version_of(response), total)
        end = _append(response, url, part, begin, total, max_bytes)
    if total is not None and end < total:
        raise OSError(f"the transfer broke off after {end:,} of {total:,} bytes")


def _open_url(
    url: str, part: Path, have: int, note: dict, timeout: float
) -> HTTPResponse:
    """Ask for the bytes of the file from `have` on."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "tinyperceiver"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note["version"]}
    try:
        return urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        if error.code == 416:  # there is less than we have: it was another file
            _forget(part)
        raise
    except ValueError as error:
        raise DownloadError(f"{url} could not be downloaded: {error}") from error


def _begin(url: str, part: Path, version: str | None, total: int | None) -> None:
    """Note beside `part` what the bytes to come are of."""
    try:
        _forget(part)
        note = {"url": url, "version": version, "total": total}
        _note_of(part).write_text(json.dumps(note), encoding="utf-8")
    except OSError as error:
        raise DownloadError(f"{part} cannot be written: {error}") from error


def _append(
    response: HTTPResponse,
    url: str,
    part: Path,
    begin: int,
    total: int | None,
    max_bytes: int,
) -> int:
    """Write what comes to the end of `part`, and return how long that is now."""
    from tqdm.auto import tqdm

    try:
        file = open(part, "ab")  # noqa: SIM115
    except OSError as error:
        raise DownloadError(f"{part} cannot be written: {error}") from error
    shown = {"desc": url.split("/")[-1], "unit": "B", "unit_scale": True}
    end = begin
    # With disable=None a bar shows in terminals and notebooks, not in logs.
    with file, tqdm(initial=begin, total=total, **shown, disable=None) as bar:
        while chunk := response.read(1 << 18):
            end += len(chunk)
            if end > (max_bytes if total is None else total):
                _forget(part)
                raise DownloadError(f"{url} sends more bytes than announced")
            try:
                bar.update(file.write(chunk))
            except OSError as error:
                raise DownloadError(
                    f"{part} cannot be written: {error}. Make room, then try again"
                ) from error
    return end


def _version_of(response: HTTPResponse) -> str | None:
    """What the server calls this state of the file, to ask for the rest of the same."""
    version = response.headers["ETag"] or ""
    if not version or version.startswith("W/"):  # weak: not for parts of a file
        version = response.headers["Last-Modified"]
    return version


def _span_of(response: HTTPResponse) -> tuple[int, int | None]:
    """First byte of what comes, and the size of the whole file if it is announced."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError("the server packs what was asked for as it is")
    try:
        if response.status == 206:
            unit, _, span = response.headers["Content-Range"].partition(" ")
            span, _, total = span.partition("/")
            if unit != "bytes":
                raise ValueError(unit)
            return int(span.split("-")[0]), None if total == "*" else int(total)
        if (announced := response.headers["Content-Length"]) is None:
            return 0, None
        if not announced.isdecimal():
            raise ValueError(f"Content-Length: {announced}")
        return 0, int(announced)
    except (AttributeError, ValueError) as error:
        raise OSError(f"the server's answer makes no sense: {error}") from error


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict:
    try:
        note = json.loads(_note_of(part).read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _forget(part: Path) -> None:
    """Delete the part before the note, which without a part does no harm."""
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
