"""Downloads from servers that break off, lie, ignore what they are asked, or change the file."""

import hashlib
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import PATIENCE, Terminal, wait_until

from tinyperceiver.dataset.prepare import prepare_giantmidi
from tinyperceiver.dataset.sources import ArchiveError
from tinyperceiver.files import download as downloads
from tinyperceiver.files.download import DownloadError, download
from tinyperceiver.files.whole import alone_with

BODY = random.Random(0).randbytes(1_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body`; its faults are set by the tests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/data.zip"
        self.body, self.etag, self.modified = BODY, '"one"', None
        self.requests = []  # the Range of each
        self.break_after = []  # bytes sent in the first answers
        self.knows_ranges, self.status = True, []
        self.extra_headers, self.announce = {}, True
        self.may_end = threading.Event()  # the second half of each answer waits for it
        self.may_end.set()


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        sent = server.break_after.pop(0) if server.break_after else len(server.body)
        if server.status:
            self.send_error(server.status.pop(0))
            return
        begin, body = 0, server.body
        same = self.headers["If-Range"] in (server.etag, server.modified)
        if wanted and server.knows_ranges and same:
            begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if begin >= len(body):
                self.send_error(416)
                return
        headers = {}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        if server.announce:
            headers["Content-Length"] = str(len(body) - begin)
        headers |= {"ETag": server.etag} if server.etag else {}
        headers |= {"Last-Modified": server.modified} if server.modified else {}
        headers |= server.extra_headers
        self.send_response(206 if begin else 200)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        half = begin + sent // 2
        self.wfile.write(body[begin:half])
        server.may_end.wait(PATIENCE)
        self.wfile.write(body[half : begin + sent])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(server: Server, path: Path, *args, **options) -> Path:
    return download(server.url, path, *args, **{"pause": 0.01, "timeout": PATIENCE} | options)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "data.zip"


def only(path: Path, data: bytes = BODY) -> bool:
    """Whether the file is there, right, and alone."""
    return path.read_bytes() == data and list(path.parent.iterdir()) == [path]


def test_a_server_as_it_should_be(server, path, capfd):
    assert fetch(server, path, SHA256.upper()) == path
    assert only(path) and server.requests == [None]
    assert capfd.readouterr().err == ""  # a bar is for terminals, and this may be a log


def test_a_terminal_shows_a_bar(server, path, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    fetch(server, path)
    assert "data.zip: 100%" in terminal.getvalue()


@pytest.mark.parametrize("marks", [('"one"', None), (None, "Sat, 21 Nov 2026 10:00:00 GMT")])
def test_a_broken_transfer_goes_on_from_there(marks, server, path):
    server.etag, server.modified = marks
    server.break_after = [300_000, 200_000, 0]
    fetch(server, path)
    assert only(path)
    assert server.requests == [None, "bytes=300000-", *["bytes=500000-"] * 2]


def test_the_next_call_goes_on_too(server, path):
    server.break_after = [300_000, 0]
    with pytest.raises(DownloadError, match=r"broke off after 300,000 of 1,000,000 bytes \(2 att"):
        fetch(server, path, attempts=2)
    assert not path.exists()
    fetch(server, path)
    assert only(path) and server.requests[2] == "bytes=300000-"


def wait_for_the_second(server: Server, capfd) -> None:
    """Until it waits, or asks the server as well."""
    heard = []
    wait_until(
        lambda: (
            heard.append(capfd.readouterr().out)
            or "waiting for another process" in "".join(heard)
            or len(server.requests) > 1
        ),
        "the second download to begin",
    )


@pytest.mark.parametrize("sha256", [None, SHA256.upper()])
def test_of_two_at_once_one_fetches_and_the_other_waits(server, path, capfd, sha256):
    """They would write into one part file, or take it from each other."""
    server.may_end.clear()
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(fetch, server, path, sha256)]
        wait_until(lambda: server.requests, "the first request")
        both.append(pool.submit(fetch, server, path, sha256))
        wait_for_the_second(server, capfd)
        server.may_end.set()
        assert [one.result() for one in both] == [path, path]
    assert only(path) and server.requests == [None]


def test_who_has_waited_in_vain_fetches_the_file(server, path, capfd):
    with ThreadPoolExecutor() as pool:
        with alone_with(path):
            second = pool.submit(fetch, server, path)
            wait_for_the_second(server, capfd)
            assert not server.requests
        assert second.result() == path
    assert only(path)


def test_a_kill_before_the_last_step_costs_nothing(server, path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            downloads.os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        fetch(server, path)
    fetch(server, path, SHA256)
    assert only(path) and server.requests == [None]


@pytest.mark.parametrize("case", ["no ranges", "no marks", "weak mark", "changed", "shrunk"])
def test_what_cannot_be_gone_on_with_starts_afresh(case, server, path):
    server.break_after = [300_000]
    server.knows_ranges = case != "no ranges"
    if case in ("no marks", "weak mark"):
        server.etag = None if case == "no marks" else 'W/"one"'
    with pytest.raises(DownloadError):
        fetch(server, path, attempts=1)
    if case in ("changed", "shrunk"):
        server.etag = '"two"'
        server.body = BODY[::-1] if case == "changed" else BODY[:1000]
    fetch(server, path)
    assert only(path, server.body)


def test_a_server_that_forgets_to_change_its_mark(server, path):
    server.break_after = [300_000]
    with pytest.raises(DownloadError):
        fetch(server, path, attempts=1)
    server.body = BODY[:1000]  # less than what came: the range is refused
    fetch(server, path)
    assert only(path, BODY[:1000])
    path.unlink()
    server.body, server.break_after = BODY, [300_000]
    with pytest.raises(DownloadError):
        fetch(server, path, attempts=1)
    server.body = BODY[::-1] + b"more"  # another size
    fetch(server, path)
    assert only(path, BODY[::-1] + b"more")


def test_another_part_than_was_asked_for(server, path):
    server.break_after = [300_000]
    server.extra_headers = {"Content-Range": "bytes 7-999999/1000000"}
    with pytest.raises(DownloadError, match="bytes from 7 on instead of 300,000"):
        fetch(server, path, attempts=2)
    server.extra_headers = {"Content-Range": "nonsense"}
    server.break_after = [300_000]
    with pytest.raises(DownloadError, match="makes no sense"):
        fetch(server, path, attempts=2)
    server.extra_headers = {}
    fetch(server, path)
    assert only(path)


def test_a_length_that_is_too_large(server, path):
    server.extra_headers = {"Content-Length": "1000007", "Content-Range": None}
    with pytest.raises(DownloadError, match=r"HTTP Error 416|1,000,000 of 1,000,007"):
        fetch(server, path, attempts=3)
    assert not path.exists()


def test_a_length_that_is_too_small(server, path):
    server.extra_headers = {"Content-Length": "400000"}
    with pytest.raises(DownloadError, match=f"not {SHA256}: damaged, or another file"):
        fetch(server, path, SHA256)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("length", ["-5", "many"])
def test_a_length_that_makes_no_sense(length, server, path):
    server.extra_headers = {"Content-Length": length}
    with pytest.raises(DownloadError, match="makes no sense"):
        fetch(server, path, attempts=2)
    assert not path.exists()


def test_no_length(server, path):
    server.announce = False
    fetch(server, path)
    assert only(path)


def test_more_than_is_allowed_with_and_without_announcement(server, path):
    with pytest.raises(DownloadError, match="has 1,000,000 bytes, more than 999"):
        fetch(server, path, max_bytes=999)
    server.announce = False
    with pytest.raises(DownloadError, match="sends more bytes than"):
        fetch(server, path, max_bytes=999)
    assert list(path.parent.iterdir()) == []


def test_a_wrong_hash_leaves_nothing(server, path):
    with pytest.raises(DownloadError, match=f"has the SHA-256 {SHA256}, not 00: damaged"):
        fetch(server, path, "00")
    assert list(path.parent.iterdir()) == []


def test_packed_though_it_was_not_asked_for(server, path):
    server.extra_headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="packs what was asked for as it is"):
        fetch(server, path, attempts=1)


def test_errors_that_pass_and_errors_that_stay(server, path):
    server.status = [503, 429, 500]
    fetch(server, path)
    assert only(path) and len(server.requests) == 4
    server.status = [404] * 9
    with pytest.raises(DownloadError, match="could not be downloaded: HTTP Error 404"):
        fetch(server, path)
    assert len(server.status) == 8, "asked once"


def test_a_server_that_says_nothing(server, path):
    held = []
    server.process_request = lambda *request: held.append(request)
    with pytest.raises(DownloadError, match=r"timed out \(2 attempts"):
        fetch(server, path, attempts=2, timeout=0.2)
    assert len(held) == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.zip", "http://", "file:///etc/passwd", "a"])
def test_no_server(url, path):
    with pytest.raises(DownloadError, match=re.escape(url)):
        download(url, path, pause=0, attempts=2)
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written(server, path):
    path.write_bytes(b"a file")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(server, path / "data.zip")
    assert not server.requests, "fetched what cannot be kept"


# As part of the preparation


def test_a_dataset_from_a_server(server, tmp_path, monkeypatch):
    from test_prepare import FILES, bytes_of, write_zip

    server.body = write_zip(tmp_path / "source.zip", FILES).read_bytes()
    server.break_after = [10_000]
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    out, again = tmp_path / "out", tmp_path / "again"
    manifest = prepare_giantmidi(server.url, out, accept=True, workers=1)
    digest = hashlib.sha256(server.body).hexdigest()
    assert manifest["source"] == {
        "url": server.url,
        "name": "data.zip",
        "bytes": len(server.body),
        "sha256": digest,
    }
    assert len(server.requests) == 2
    # The zip is needed no more.
    (zipped,) = out.glob("source-*.zip")
    zipped.unlink()
    assert prepare_giantmidi(server.url, out, accept=True) == manifest
    assert len(server.requests) == 2
    # Unless something else is asked for.
    with pytest.raises(DownloadError, match="has the SHA-256"):
        prepare_giantmidi(server.url, out, accept=True, sha256="0" * 64)
    assert len(server.requests) == 3
    prepare_giantmidi(server.url, again, accept=True, workers=1, sha256=digest)
    for name in ("train.bin", "valid.bin", "manifest.json", "pieces.tsv"):
        assert bytes_of(again)[name] == bytes_of(out)[name]


def test_what_is_no_zip_is_deleted(server, tmp_path):
    server.body = b"<html>please log in</html>"
    with pytest.raises(ArchiveError, match=r"is cut off .*what http://127.* sent is deleted"):
        prepare_giantmidi(server.url, tmp_path / "out", accept=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} - {".lock"} == {"CONSENT.txt"}
