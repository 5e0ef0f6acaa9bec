"""A dataset prepared by us and by the peer, one process each, in turn; from files to tokens.

    PYTHONPATH=. peer/bin/python benchmarks/prepare.py giantmidi-piano-sample.zip

`peer` is an environment that holds perceiver-io 0.11 (benchmarks/README.md). The tokens must be
equal. Ours is the whole command, from the zip to the manifest, with the start of its process; the
peer's the parsing and encoding of the same files, unpacked before. Time of the processor counts,
which other work on the machine disturbs less; time on the clock is shown beside it.
"""

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from tinyperceiver.dataset.prepare import prepare_giantmidi
from tinyperceiver.dataset.token_file import TokenFile

ROUNDS = 3


def timed(function, *args) -> tuple[float, float, object]:
    """Seconds of the processor, in this process and its children, and on the clock."""
    used, begin = sum(os.times()[:4]), time.perf_counter()
    result = function(*args)
    return sum(os.times()[:4]) - used, time.perf_counter() - begin, result


def prepare(source: str, out: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        prepare_giantmidi(source, out, workers=1, accept=True)


def main() -> None:
    # Here, since our worker imports this file, too, and need not wait for the peer.
    from perceiver.data.audio.midi_processor import encode_midi_files

    source, rounds = sys.argv[1], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder / "midi")
        paths = sorted((folder / "midi").rglob("*.mid"))
        for i in range(ROUNDS):
            out = folder / f"{i}"
            ours = timed(prepare, source, out)
            peers = timed(encode_midi_files, paths, 1)
            pieces = [*TokenFile(out / "train.bin"), *TokenFile(out / "valid.bin")]
            same = [np.array_equal(our, peer) for our, peer in zip(pieces, peers[2], strict=True)]
            if not all(same):
                sys.exit(f"the tokens of {same.count(False)} of {len(same)} files differ")
            rounds.append((*ours[:2], *peers[:2]))
    print(f"{len(paths)} files, {sum(map(len, pieces)):,} tokens, equal in all")
    for i, what in enumerate(("of the processor", "on the clock")):
        our, peer = (statistics.median(row[i + j] for row in rounds) for j in (0, 2))
        ratio = statistics.median(row[i + 2] / row[i] for row in rounds)
        print(f"seconds {what}: {our:.2f} against {peer:.2f}, ratio {ratio:.1f} (of {ROUNDS})")


if __name__ == "__main__":
    main()
