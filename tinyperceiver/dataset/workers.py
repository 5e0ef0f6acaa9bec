"""Tokens of many MIDI files, by processes or machines that may die.

The files are worked on in units of a few. Each unit's result is a file of its own, so
that an interrupted run can be resumed.
"""

import faulthandler
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import numpy as np

from tinyperceiver.dataset.sources import (
    ArchiveError,
    Piece,
    PrepareError,
    Source,
    open_source,
    read_piece,
)
from tinyperceiver.dataset.token_file import END, TOKEN_TYPE
from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.files.whole import whole_file
from tinyperceiver.music.vocabulary import NOTE_OFF, TIME_SHIFT, VELOCITY

__all__ = [
    "Cluster",
    "Processes",
    "WorkerError",
    "count_events",
    "read_unit",
    "tokenize_files",
    "tokenize_units",
    "unit_is_whole",
]

# Of a file on which a process dies, and of processes that die at their start: another's
# hand may have been at work.
ATTEMPTS, STARTS = 2, 5
ADVICE = (
    "a script must start them under `if __name__ == '__main__':`, and `encode` must be a "
    "function that they can import"
)

# Name, bytes, and why there are none.
File = tuple[str, bytes, str | None]
# A row for each file, and the tokens of those that have no fault.
Result = tuple[list[dict], bytes]
Unit = list[Piece]
Encode = Callable[[bytes], list[int]]


class WorkerError(TinyperceiverError, RuntimeError):
    """Processes or machines do not begin to work; says why, and what to do."""


def tokenize_files(files: list[File], encode: Encode, seconds: float) -> Result:
    """The work that is spread. A file that takes more `seconds` ends its process.

    Raises:
        MemoryError, OSError: the machine's fault, by which no file is judged.
    """
    rows, parts = [], []
    with open(os.devnull, "w") as nowhere:
        for name, data, fault in files:
            tokens = np.empty(0, TOKEN_TYPE)
            if fault is None:
                # Works even where Python itself waits for a library.
                faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
                try:
                    tokens = np.array(encode(data), dtype=TOKEN_TYPE)
                    fault = None if len(tokens) else "it has no notes"
                except (MemoryError, OSError):  # not of this file, but of the machine
                    raise
                except ValueError as error:
                    fault = str(error)
                except Exception as error:  # one file must not stop ten thousand
                    fault = f"{type(error).__name__}: {error}"
                finally:
                    faulthandler.cancel_dump_traceback_later()
            if fault is not None:
                rows.append({"name": name, "fault": fault})
                continue
            rows.append({"name": name, "sha256": hashlib.sha256(data).hexdigest()})
            rows[-1] |= count_events(tokens)
            parts += [tokens.tobytes(), TOKEN_TYPE.type(END).tobytes()]
    return rows, b"".join(parts)


def count_events(tokens: np.ndarray) -> dict[str, int]:
    """How many tokens, notes, and steps of time there are in token ids, (length,)."""
    is_shift = (tokens >= TIME_SHIFT) & (tokens < VELOCITY)
    steps = tokens[is_shift].astype(np.int64) - TIME_SHIFT + 1
    notes = int((tokens < NOTE_OFF).sum())
    return {"tokens": len(tokens), "notes": notes, "steps": int(steps.sum())}


def read_unit(path: Path) -> Result:
    """What was found in the files of a unit, in order."""
    with open(path, "rb") as file:
        return json.loads(file.readline()), file.read()


def unit_is_whole(path: Path) -> bool:
    """Whether a unit is done. A disk that lost power may have cut it off."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        rows, tokens = read_unit(path)
        count = sum(row["tokens"] + 1 for row in rows if "fault" not in row)
        return len(tokens) == count * TOKEN_TYPE.itemsize
    return False


def _write_unit(path: Path, result: Result) -> None:
    rows, tokens = result
    with whole_file(path) as file:
        file.write(json.dumps(rows).encode() + b"\n" + tokens)


def _load(source: Source, unit: Unit) -> list[File]:
    files = []
    for piece in unit:
        data, fault = b"", piece.fault
        if fault is None:
            try:
                data = read_piece(source, piece)
            except ArchiveError as error:
                fault = str(error)
        files.append((piece.name, data, fault))
    return files


class Processes:
    """Processes of this machine, each of which opens the source itself.

    Only short messages pass between them and this one. A process that is killed amidst
    a long one would leave its reader waiting for ever.
    """

    def __init__(self, source: Path, workers: int, encode: Encode, seconds: float):
        self.source, self.workers = source, workers
        self.encode, self.seconds = encode, seconds

    @contextmanager
    def start(self, workers: int) -> Iterator[Executor]:
        """Start processes, and end them.

        Raises:
            WorkerError: they do not start.
        """
        for attempt in range(STARTS):
            # A fork would copy locks and threads as they happen to be.
            executor = ProcessPoolExecutor(
                workers, get_context("spawn"), _follow_parent
            )
            try:
                _try_out(executor, self.encode, self.seconds)
                break
            except BrokenExecutor as error:
                if attempt == STARTS - 1:
                    raise WorkerError(
                        f"processes cannot be started: {ADVICE}"
                    ) from error
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        executor.shutdown()

    def submit(self, executor: Executor, path: Path, unit: Unit) -> Future:
        """Have the result of a unit written to `path`."""
        return executor.submit(
            _tokenize_unit, path, self.source, unit, self.encode, self.seconds
        )


def _follow_parent() -> None:
    """In a new process: end when the parent does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tokenize_unit(
    path: Path, source: Path, unit: Unit, encode: Encode, seconds: float
) -> None:
    _write_unit(path, tokenize_files(_load(_reopen(source), unit), encode, seconds))


_reopen = lru_cache(maxsize=1)(open_source)


class Cluster:
    """Workers of a Dask cluster. Bytes go there and tokens come back: nothing is shared."""

    def __init__(self, address: str, source: Source, encode: Encode, seconds: float):
        """Connect.

        Raises:
            PrepareError: Dask is not installed, or no scheduler answers.
            WorkerError: it has no workers.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise PrepareError(
                "Dask is not installed: pip install 'tinyperceiver[dask]'"
            ) from error
        try:
            self.client = Client(address, timeout=20)
        except (OSError, ValueError) as error:
            raise PrepareError(
                f"no Dask scheduler answers at {address!r}: {error}"
            ) from error
        try:
            self.client.wait_for_workers(1, timeout=60)
        except TimeoutError as error:
            self.client.close()
            raise WorkerError(
                f"the Dask cluster at {address} has no workers"
            ) from error
        self.workers = sum(self.client.nthreads().values())
        self.source, self.encode, self.seconds = source, encode, seconds

    @contextmanager
    def start(self, workers: int) -> Iterator[Executor]:
        """The cluster as it is, however many workers.

        Raises:
            WorkerError: no worker answers.
        """
        with self.client.get_executor(pure=False) as executor:
            _try_out(executor, self.encode, self.seconds)
            yield executor

    def submit(self, executor: Executor, path: Path, unit: Unit) -> Future:
        """Have a unit's result made; it is to be written to `path` here."""
        files = _load(self.source, unit)
        return executor.submit(tokenize_files, files, self.encode, self.seconds)


def _try_out(executor: Executor, encode: Encode, seconds: float) -> None:
    """If nothing can be done, no file is to blame."""
    try:
        executor.submit(tokenize_files, [], encode, seconds).result()
    except BrokenExecutor:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise WorkerError(f"workers cannot work ({reason}): {ADVICE}") from error


def tokenize_units(
    todo: list[tuple[Path, Unit]],
    pool: Processes | Cluster,
    progress: bool | None = None,
) -> None:
    """Write the result of each unit to its path.

    What was under way when a worker died is done again, file by file. A file on which
    it dies again is left out, with the reason in its place.

    Args:
        todo: paths to write, each with its unit.
        pool: where the work is done.
        progress: show a bar; by default where there is a terminal.
    """
    from tqdm.auto import tqdm

    total = sum(len(unit) for _, unit in todo)
    rest = iter(todo)
    upcoming = next(rest, None)
    hidden = None if progress is None else not progress
    with tqdm(total=total, unit=" files", disable=hidden) as bar:
        while upcoming:
            lost, pending = [], {}
            with pool.start(pool.workers) as executor:
                while pending or (upcoming and not lost):
                    while upcoming and not lost and len(pending) < 2 * pool.workers:
                        try:
                            pending[pool.submit(executor, *upcoming)] = upcoming
                        except BrokenExecutor:
                            lost.append(upcoming)
                        upcoming = next(rest, None)
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        path, unit = pending.pop(future)
                        if _finish(future, path):
                            bar.update(len(unit))
                        else:
                            lost.append((path, unit))
            for path, unit in lost:
                _write_unit(path, _tokenize_one_by_one(unit, path, pool))
                bar.update(len(unit))


def _finish(future: Future, path: Path) -> bool:
    """Whether there is a result. It is written, if that was not done by the worker."""
    try:
        result = future.result()
    except OSError as error:
        if error.errno is None:  # Dask's, of a connection
            return False
        raise  # a full disk will be full for the next unit, too
    except Exception:
        return False
    if result is not None:
        _write_unit(path, result)
    return True


def _tokenize_one_by_one(unit: Unit, path: Path, pool: Processes | Cluster) -> Result:
    all_rows, all_tokens, waiting, attempts = [], [], list(unit), 0
    lone = path.with_name(path.name + ".lone")
    while waiting:
        with pool.start(1) as executor:
            is_alive = True
            while waiting and is_alive:
                began = time.monotonic()
                try:
                    future = pool.submit(executor, lone, waiting[:1])
                except BrokenExecutor:  # it died with nothing to do
                    break
                is_alive = _finish(future, lone)
                attempts += 1
                if is_alive:
                    rows, tokens = read_unit(lone)
                elif attempts < ATTEMPTS:
                    continue
                else:
                    fault = "the process that reads it dies or is out of memory"
                    if time.monotonic() - began >= pool.seconds:
                        fault = f"not done after {pool.seconds:g} seconds"
                    rows, tokens = [{"name": waiting[0].name, "fault": fault}], b""
                all_rows += rows
                all_tokens.append(tokens)
                del waiting[0]
                attempts = 0
    return all_rows, b"".join(all_tokens)
