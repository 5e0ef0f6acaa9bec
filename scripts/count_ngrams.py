"""The recorded run of chapter 3: count n-grams of orders 1 to 6, measure them, let them play.

    python scripts/count_ngrams.py train.bin valid.bin

The files are those of `tinyperceiver prepare`. It writes `results.json` and `bigrams.npz` into
`tinyperceiver/assets/ngrams`. Held out is measured twice: on all of valid, and, as networks are, on
the last tokens of 512 fixed windows.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.dataset.windows import fixed_windows
from tinyperceiver.music.ngrams import NGramModel, ngram_keys
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, TIME_SHIFT, VELOCITY

OUT = Path(__file__).resolve().parent.parent / "tinyperceiver" / "assets" / "ngrams"
ORDERS = range(1, 7)
CONTEXT, TARGETS, WINDOWS = 512, 512, 512  # of a window: tokens before the targets, targets
TRAIN_STEP = 20  # nats on the training data: every so many recordings
SAMPLE = 400  # tokens
KINDS = {"note on": 0, "note off": NOTE_OFF, "time shift": TIME_SHIFT, "velocity": VELOCITY}


def nats_by_kind(tokens: np.ndarray, nats: np.ndarray) -> dict[str, list[float]]:
    """Kind of event -> share of the tokens, mean nats."""
    kind = np.searchsorted(list(KINDS.values()), tokens, side="right") - 1
    return {
        name: [round(float((kind == i).mean()), 4), round(float(nats[kind == i].mean()), 4)]
        for i, name in enumerate(KINDS)
    }


def longest_run(tokens: list[int], corpus: str) -> int:
    """Length of the longest run of `tokens` that stands somewhere in `corpus`, a letter a token."""
    text, best, start = as_text(tokens), 0, 0
    while start + best < len(text):
        if text[start : start + best + 1] in corpus:
            best += 1
        else:
            start += 1
    return best


def as_text(tokens: np.ndarray | list[int]) -> str:
    return np.asarray(tokens, dtype="<u2").tobytes().decode("utf-16-le")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    train, valid = TokenFile(args.train), TokenFile(args.valid)
    fixed = fixed_windows(valid, WINDOWS, CONTEXT, TARGETS)
    windows = np.concatenate([fixed.tokens, fixed.targets[:, -1:]], axis=1)  # (WINDOWS, 1,025)
    train, valid = list(train), list(valid)
    held_out = np.concatenate(valid)
    shipped = {name: encode_midi(load_piece(name)) for name in PIECES}
    corpus = as_text(np.concatenate([np.append(piece, NUM_EVENTS) for piece in train]))

    # A model of order 6 contains the tables of all shorter ones.
    tables = NGramModel(ORDERS[-1], NUM_EVENTS).fit(train).tables
    print(f"counted after {time.monotonic() - began:.0f} s", flush=True)
    orders, samples = [], {}
    for order in ORDERS:
        model = NGramModel(order, NUM_EVENTS)
        model.tables = tables[:order]
        nats = np.concatenate([model.nats(piece) for piece in valid])
        on_windows = [model.nats(window)[-TARGETS:].mean() for window in windows]
        on_train = np.concatenate([model.nats(piece) for piece in train[::TRAIN_STEP]])
        keys = np.concatenate([ngram_keys(piece, order, NUM_EVENTS) for piece in valid])
        samples[order] = model.sample(SAMPLE, np.random.default_rng(order))
        orders.append(
            {
                "order": order,
                "distinct": len(tables[order - 1].ngrams),
                "once": int((tables[order - 1].counts == 1).sum()),
                "train": round(float(on_train.mean()), 4),
                "valid": round(float(nats.mean()), 4),
                "windows": round(float(np.mean(on_windows)), 4),
                "valid_seen": round(float(np.isin(keys, tables[order - 1].ngrams).mean()), 4),
                "kinds": nats_by_kind(held_out, nats),
                "copied": longest_run(samples[order], corpus),
            }
        )
        print(f"order {order} after {time.monotonic() - began:.0f} s:", orders[-1], flush=True)

    best = min(orders, key=lambda result: result["windows"])["order"]
    model = NGramModel(best, NUM_EVENTS)
    model.tables = tables[:best]
    middles = [piece[len(piece) // 2 :][:SAMPLE].tolist() for piece in valid[::10]]
    results = {
        "data": "GiantMIDI-Piano, recordings of works by public-domain composers",
        "train": [len(train), sum(map(len, train))],  # recordings, tokens
        "valid": [len(valid), sum(map(len, valid))],
        "orders": orders,
        "best": best,
        "copied_by_pianists": [longest_run(middle, corpus) for middle in middles],
        "pieces": {name: np.round(model.nats(t), 2).tolist() for name, t in shipped.items()},
        "samples": samples,
        "seconds": round(time.monotonic() - began),
        "machine": f"{platform.machine()}, one thread, shared with other work",
    }
    OUT.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in results.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (OUT / "results.json").write_text(text, encoding="utf-8")
    bigrams = np.zeros((NUM_EVENTS, NUM_EVENTS), dtype=np.int32)
    bigrams.flat[tables[1].ngrams] = tables[1].counts
    np.savez_compressed(OUT / "bigrams.npz", counts=bigrams)
    print(f"done after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
