"""Stand-ins for an encoder, in a file that processes import quickly."""

import errno
import os
import signal
import time

from tinyperceiver.dataset.prepare import encode_file

CRASHES, HANGS = b"crash", b"hang!"


def slow(data: bytes) -> list[int]:
    time.sleep(0.01)
    return encode_file(data)


def deadly(data: bytes) -> list[int]:
    """Fails as libraries do, on two files."""
    if data == CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == HANGS:
        time.sleep(600)
    return encode_file(data)


def backwards(data: bytes) -> list[int]:
    return encode_file(data)[::-1]


def on_a_full_disk(data: bytes) -> list[int]:
    from tinyperceiver.dataset import workers

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    workers.os.fsync = fail
    return encode_file(data)
