"""Tokens per second of `encode_midi` and of the peer's, on the same parsed files in one run.

    PYTHONPATH=. peer/bin/python benchmarks/encode_midi.py giantmidi-piano-sample.zip

`peer` is an environment that holds perceiver-io 0.11 (benchmarks/README.md). The tokens must be
equal. Each figure is the median of several rounds in which the two take turns.
"""

import copy
import io
import statistics
import sys
import time
import zipfile

import pretty_midi
from perceiver.data.audio.midi_processor import encode_midi as encode_midi_of_peer

from tinyperceiver.music.tokenizer import encode_midi

ROUNDS = 7


def seconds_of(encode, files) -> tuple[float, list[list[int]]]:
    begin = time.perf_counter()
    tokens = [encode(midi) for midi in files]
    return time.perf_counter() - begin, tokens


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".mid")]
        files = [pretty_midi.PrettyMIDI(io.BytesIO(archive.read(name))) for name in names]
    ours, peers = [], []
    for _ in range(ROUNDS):
        copies = copy.deepcopy(files)  # the peer changes the notes it is given
        seconds, tokens = seconds_of(encode_midi, files)
        ours.append(seconds)
        seconds, expected = seconds_of(encode_midi_of_peer, copies)
        peers.append(seconds)
        if tokens != expected:
            differ = [name for name, a, b in zip(names, tokens, expected, strict=True) if a != b]
            sys.exit(f"the tokens of {len(differ)} files differ: {differ[:5]}")
    count = sum(map(len, tokens))
    ratios = [peer / our for our, peer in zip(ours, peers, strict=True)]
    print(f"{len(files)} files, {count:,} tokens, equal in all")
    print(f"tinyperceiver  {count / statistics.median(ours) / 1e6:6.2f} M tokens/s")
    print(f"perceiver-io   {count / statistics.median(peers) / 1e6:6.2f} M tokens/s")
    print(f"ratio          {statistics.median(ratios):6.1f} (median of {ROUNDS})")


if __name__ == "__main__":
    main()
