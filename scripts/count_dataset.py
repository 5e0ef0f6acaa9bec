"""The recorded numbers of chapter 8: what is in a dataset, and what a careless split of it leaks.

    python scripts/count_dataset.py --train train.bin --valid valid.bin --midi giantmidi-piano.zip

The token files are those of `tinyperceiver prepare`; `--midi` is a zip or a folder of MIDI files,
for what tokens do not tell: names, copies, pedals, times finer than 10 ms. Each may be left out,
`--valid` only with `--train`, but the chapter reads all parts. It writes
`book/runs/giantmidi/statistics.json`, in which the sources stand by name, size and hash, and
recordings without their names.
"""

import argparse
import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from tinyperceiver.dataset.sources import list_pieces, open_source, read_piece
from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.dataset.windows import Windows
from tinyperceiver.files.whole import sha256_of
from tinyperceiver.music.fast_midi import read_performance
from tinyperceiver.music.midi import PEDAL_DOWN, SUSTAIN_PEDAL
from tinyperceiver.music.ngrams import NGramModel
from tinyperceiver.music.vocabulary import (
    LONGEST_SHIFT,
    NOTE_OFF,
    NUM_EVENTS,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
)

OUT = Path(__file__).resolve().parent.parent / "book" / "runs" / "giantmidi"
PERCENTILES = (0, 5, 50, 95, 100)
SHORT = (0, 0.015), (0.015, 0.028)  # seconds that keys are down: transcribers, not fingers
AGAIN = 0.05  # seconds from stroke to stroke
EDGES = np.geomspace(0.004, 20, 31)  # seconds: bins of how long keys are down
# Of the experiments, which need no more than a part of the data.
ORDERS = range(1, 7)
# Every so many recordings; of those, to hold out; of the windows of those, to ask about.
SUBSET, HELD_OUT, ASKED = 8, 10, 4
WINDOW = 1024  # tokens
WOBBLE_ORDER, LATENTS, MAX_PREFIX = 3, 512, 512
WOBBLE_WINDOWS, WOBBLE_SEEDS = (16, 64, 256), 20


def count_tokens(files: list[TokenFile]) -> dict:
    """Length of each piece in tokens, notes and seconds, and how often each event occurs."""
    lengths, counts, shortest = [], np.zeros(NUM_EVENTS, dtype=np.int64), 0
    for file in files:
        for piece in file:
            count = np.bincount(piece, minlength=NUM_EVENTS)[:NUM_EVENTS]
            steps = count[TIME_SHIFT:VELOCITY] @ np.arange(1, LONGEST_SHIFT + 1)
            seconds = round(float(steps) / STEPS_PER_SECOND, 1)
            lengths.append((len(piece), int(count[:NOTE_OFF].sum()), seconds))
            counts += count
            shortest += int((steps_of_notes(piece) <= 1).sum())
    lengths = np.array(sorted(lengths))
    return {
        "pieces": len(lengths),
        "tokens": int(lengths[:, 0].sum()),
        "notes": int(lengths[:, 1].sum()),
        "hours": round(lengths[:, 2].sum() / 3600, 1),
        # Sorted, so that nobody's recording is known by its place.
        "tokens_of_each": lengths[:, 0].astype(int).tolist(),
        "notes_of_each": lengths[:, 1].astype(int).tolist(),
        "seconds_of_each": lengths[:, 2].tolist(),
        "events": counts.tolist(),
        "notes_of_0_or_10_ms": round(shortest / int(counts[:NOTE_OFF].sum()), 5),
    }


def steps_of_notes(piece: np.ndarray) -> np.ndarray:
    """Steps from each note-on to its note-off, if that is the key's next event."""
    piece = np.asarray(piece, dtype=np.int64)
    is_shift = (piece >= TIME_SHIFT) & (piece < VELOCITY)
    time = np.cumsum(np.where(is_shift, piece - TIME_SHIFT + 1, 0))
    is_key = piece < TIME_SHIFT
    events, time = piece[is_key], time[is_key]
    order = np.argsort(events % NOTE_OFF, kind="stable")  # by key, then by time
    events, time = events[order], time[order]
    return np.diff(time)[events[1:] == events[:-1] + NOTE_OFF]


def count_midi(path: Path) -> dict:
    """What only the files themselves tell."""
    source = open_source(path)
    rows, hashes, composers, bad = [], Counter(), Counter(), 0
    for piece in list_pieces(source):
        try:
            data = read_piece(source, piece)
            players = read_performance(data).instruments
            row = count_file(players)
        except ValueError:
            bad += 1
            continue
        digest = hashlib.sha256(data).digest()
        hashes[digest] += 1
        composers[tuple(Path(piece.name).name.split(", ")[:2])] += 1
        rows.append({"is_copy": hashes[digest] > 1, **row})
    if isinstance(source, zipfile.ZipFile):
        source.close()
    if not rows:
        raise SystemExit(f"{path} has no MIDI file that can be read")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    total = int(columns["notes"].sum())
    return {
        "files": len(rows),
        "unreadable": bad,
        "copies": int(columns["is_copy"].sum()),
        "composers": len(composers),
        "notes": total,
        "notes_without_copies": int(columns["notes"][~columns["is_copy"]].sum()),
        "hours": round(float(columns["seconds"].sum()) / 3600, 1),
        "notes_percentiles": percentiles(columns["notes"]),
        "seconds_percentiles": percentiles(columns["seconds"]),
        "velocities_median": float(np.median(columns["velocities"])),
        "without_pedal": int((columns["pedals"] == 0).sum()),
        **{
            f"notes_of_{1000 * low:.0f}_to_{1000 * high:.0f}_ms": round(float(share), 5)
            for (low, high), share in zip(SHORT, columns["short"].sum(0) / total, strict=True)
        },
        f"struck_again_within_{1000 * AGAIN:.0f}_ms": round(columns["again"].sum() / total, 5),
        "duration_edges": [round(edge, 4) for edge in EDGES.tolist()],
        "durations": columns["durations"].sum(0).tolist(),
    }


def count_file(players: list) -> dict:
    """What is counted of one file."""
    notes = [note for player in players for note in player.notes]
    changes = [change for player in players for change in player.control_changes]
    if not notes:
        raise ValueError("no notes")
    start, end = (np.array([getattr(note, name) for note in notes]) for name in ("start", "end"))
    pitch = np.array([note.pitch for note in notes])
    velocity = np.array([note.velocity for note in notes])
    order = np.lexsort((start, pitch))  # by pitch, then by time
    gaps = np.diff(start[order])[np.diff(pitch[order]) == 0]
    return {
        "notes": len(notes),
        "seconds": float(end.max()),
        "velocities": len(set(velocity)),
        "pedals": sum(c.number == SUSTAIN_PEDAL and c.value >= PEDAL_DOWN for c in changes),
        "short": [np.sum((low <= end - start) & (end - start < high)) for low, high in SHORT],
        "again": int((gaps < AGAIN).sum()),
        "durations": np.histogram(end - start, EDGES)[0],
    }


def percentiles(values: np.ndarray) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {str(p): round(float(v), 1) for p, v in zip(PERCENTILES, found, strict=True)}


def measure_leak(train: TokenFile) -> dict:
    """Nats per token of counted models on the same windows, after three ways to split.

    By recording: nothing of these recordings was counted. By window: other windows of them were.
    By file, where one of them was a copy of a counted file: the windows themselves were.
    """
    pieces = [np.asarray(train[i]) for i in range(0, len(train), SUBSET)]
    held_out = [
        [piece[i : i + WINDOW] for i in range(0, len(piece), WINDOW)]
        for piece in pieces[::HELD_OUT]
    ]
    asked = [window for windows in held_out for window in windows[1::ASKED]]
    others = [w for windows in held_out for i, w in enumerate(windows) if i % ASKED != 1]
    counted = [piece for i, piece in enumerate(pieces) if i % HELD_OUT]
    return {
        "recordings": len(pieces),
        "held_out": len(held_out),
        "tokens": sum(map(len, pieces)),
        "window_length": WINDOW,
        "windows": len(asked),
        "orders": list(ORDERS),
        "recording": nats_of_orders(counted, asked),
        "window": nats_of_orders(counted + others, asked),
        "copy": nats_of_orders(counted + others + asked, asked),
    }


def nats_of_orders(counted: list[np.ndarray], held_out: list[np.ndarray]) -> list[float]:
    # A model of order 6 contains the tables of all shorter ones.
    tables = NGramModel(ORDERS[-1], NUM_EVENTS).fit(counted).tables
    found = []
    for order in ORDERS:
        model = NGramModel(order, NUM_EVENTS)
        model.tables = tables[:order]
        nats = np.concatenate([model.nats(piece) for piece in held_out])
        found.append(round(float(nats.mean()), 4))
    return found


def measure_wobble(train: TokenFile, valid: TokenFile) -> dict:
    """Nats per token of one counted model, on random windows of several seeds."""
    model = NGramModel(WOBBLE_ORDER, NUM_EVENTS)
    model.fit([np.asarray(train[i]) for i in range(0, len(train), SUBSET)])
    found = {}
    for num_windows in WOBBLE_WINDOWS:
        found[str(num_windows)] = nats = []
        for seed in range(WOBBLE_SEEDS):
            batch = Windows(valid, LATENTS, MAX_PREFIX, seed=seed)[0, range(num_windows)]
            nats.append(round(float(np.mean(nats_of_targets(model, batch))), 4))
    return {"order": WOBBLE_ORDER, "latents": LATENTS, "prefix": MAX_PREFIX, "nats": found}


def nats_of_targets(model: NGramModel, batch) -> list[float]:
    """Mean over the targets of each row."""
    found = []
    for i, (tokens, targets) in enumerate(zip(batch.tokens, batch.targets, strict=True)):
        known = targets[targets >= 0].numpy()
        pads = 0 if batch.pad_mask is None else int(batch.pad_mask[i].sum())
        # Its first latent is the token before its first target.
        before = tokens[pads : batch.prefix_len + 1].numpy()
        found.append(model.nats(np.concatenate((before, known)))[len(before) :].mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path)
    parser.add_argument("--valid", type=Path)
    parser.add_argument("--midi", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    paths = [path for path in (args.train, args.valid, args.midi) if path]
    if not paths or (args.valid and not args.train):
        parser.error("give --train, --train and --valid, or --midi")
    if missing := [str(path) for path in paths if not path.exists()]:
        parser.error(f"not there: {', '.join(missing)}")
    sources = [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        if path.is_file()
        else {"name": path.name}
        for path in paths
    ]
    results = {"sources": sources}
    if args.train:
        files = [TokenFile(path) for path in (args.train, args.valid) if path]
        results["recordings"] = count_tokens(files)
        results["leak"] = measure_leak(files[0])
        if args.valid:
            results["wobble"] = measure_wobble(*files)
    if args.midi:
        results["files"] = count_midi(args.midi)
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in results.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (args.out / "statistics.json").write_text(text, encoding="utf-8")
    for name in ("recordings", "files", "leak", "wobble"):
        for key, value in results.get(name, {}).items():
            if not isinstance(value, list) or len(value) <= len(ORDERS):
                print(f"{name}: {key}: {value}")


if __name__ == "__main__":
    main()
