"""The recorded numbers of chapter 10: what a checkpoint has learnt, and what it plays.

    python scripts/measure_checkpoint.py tiny --train train.bin --valid valid.bin \\
        --out book/runs/tiny/measured.json

The checkpoint is anything that `PerceiverAR.from_pretrained` takes, the token files are those of
`tinyperceiver prepare`. All windows, prompts and seeds are fixed. Of the data only numbers reach
the output; the music in it was played by the model, or by n-grams, after pieces that ship.
"""

import argparse
import hashlib
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from count_ngrams import as_text, longest_run
from torch import Tensor
from torch.nn.functional import cross_entropy

from tinyperceiver.checkpoints import SHIPPED, WEIGHTS
from tinyperceiver.data import TokenFile, fixed_windows, transform
from tinyperceiver.model import PerceiverAR
from tinyperceiver.ngrams import NGramModel, ngram_keys
from tinyperceiver.pieces import PIECES, load_piece
from tinyperceiver.teaching.counting import EDGES, KINDS
from tinyperceiver.teaching.learnt import NUMBERS, likeness, likeness_by_lag, numbers_of, profiles
from tinyperceiver.tokenizer import NUM_EVENTS, encode_midi

ORDERS = 4
TARGETS = 64  # tokens of a window that are predicted where prefixes are compared
POSITIONS = 32  # groups of latents, by position
PROMPT, NEW = 256, 512  # tokens
LONG_NEW, LAGS = 3072, 6  # tokens; multiples of 5 seconds
HEARD_SEEDS, HEARD_NEW = 4, 320
SAMPLING = {"do_sample": True, "top_p": 0.95}
RUN = 6  # tokens: shorter runs are not told apart
ROWS = 8  # windows computed together


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@torch.inference_mode()
def nats_of(model: PerceiverAR, windows: Tensor, prefix_len: int) -> np.ndarray:
    """Nats of the token after each latent: n + 1 tokens, (B, n + 1) -> (B, l)."""
    parts = []
    for rows in windows.split(ROWS):
        logits = model(rows[:, :-1], prefix_len)  # (B, l, V)
        targets = rows[:, 1 + prefix_len :]
        parts.append(cross_entropy(logits.transpose(1, 2), targets, reduction="none"))
    return torch.cat(parts).numpy()


def mean_and_error(values: np.ndarray) -> list[float]:
    """Mean over windows, (windows,), and its standard error."""
    return [
        round(float(values.mean()), 4),
        round(float(values.std(ddof=1) / math.sqrt(len(values))), 4),
    ]


def whole(data: TokenFile, count: int, prefix_len: int, num_latents: int) -> Tensor:
    """Fixed windows with the token after them: (count, n + 1)."""
    batch = fixed_windows(data, count, prefix_len, num_latents)
    return torch.cat((batch.tokens, batch.targets[:, -1:]), dim=1)


def count_tables(train: TokenFile) -> dict[int, NGramModel]:
    """Models of orders 1, 2, ...: one of the highest order has the tables of all."""
    pieces = (train[i] for i in range(len(train)))
    tables = NGramModel(ORDERS, NUM_EVENTS).fit(pieces).tables
    models = {}
    for order in range(1, ORDERS + 1):
        models[order] = NGramModel(order, NUM_EVENTS)
        models[order].tables = tables[:order]
    return models


def against_counting(
    model: PerceiverAR, orders: dict[int, NGramModel], windows: Tensor, prefix_len: int
) -> dict:
    """Nats by the model and by n-grams of the same targets: mean, by window, kind, position."""
    nats = nats_of(model, windows, prefix_len)  # (B, l)
    without = nats_of(model, windows[:, prefix_len:], 0)
    l = nats.shape[1]
    targets = windows[:, -l:].numpy()
    counted = {
        order: np.stack([counter.nats(row)[-l:] for row in windows.numpy()])
        for order, counter in orders.items()
    }
    kind = np.searchsorted(EDGES[1:-1], targets, side="right")
    groups = np.array_split(np.arange(l), POSITIONS)
    trigram = counted[3]
    return {
        "windows": len(windows),
        "window": windows.shape[1] - 1,
        "latents": l,
        "model": mean_and_error(nats.mean(axis=1)),
        "deviation_of_tokens": round(float(nats.std()), 4),
        "orders": {order: mean_and_error(n.mean(axis=1)) for order, n in counted.items()},
        "gain_over_order_3": mean_and_error((trigram - nats).mean(axis=1)),
        "kinds": {
            name: {
                "share": round(float((kind == k).mean()), 4),
                "model": round(float(nats[kind == k].mean()), 4),
                "order 3": round(float(trigram[kind == k].mean()), 4),
            }
            for k, name in enumerate(KINDS)
        },
        "by_window": np.round(
            np.stack((nats.mean(axis=1), trigram.mean(axis=1)), axis=1), 3
        ).tolist(),
        "positions": {
            "after": [round(float(g.mean()), 1) for g in groups],
            "full prefix": [round(float(nats[:, g].mean()), 4) for g in groups],
            "no prefix": [round(float(without[:, g].mean()), 4) for g in groups],
            "gain": [mean_and_error((without - nats)[:, g].mean(axis=1)) for g in groups],
        },
    }


def against_context(model: PerceiverAR, valid: TokenFile, count: int) -> dict:
    """Nats of the same targets after more and more context, as prefix and as latents."""
    config = model.config
    longest = max(config.max_prefix_len, config.max_latents - TARGETS)
    windows = whole(valid, count, longest, TARGETS)
    lengths = [c for c in (0, 16, 64, 256, 1024, 4096) if c < config.max_prefix_len]
    table, before = {"as_prefix": [], "as_latents": []}, {}
    for length in (*lengths, config.max_prefix_len):
        for name, rows in table.items():
            is_prefix = name == "as_prefix"
            c = length if is_prefix else min(length, config.max_latents - TARGETS)
            nats = nats_of(model, windows[:, longest - c :], c if is_prefix else 0)
            nats = nats[:, -TARGETS:].mean(axis=1)
            without, shorter = before.setdefault(name, (nats, nats))
            before[name] = without, nats
            parts = nats, without - nats, shorter - nats
            rows.append([c, *(value for part in parts for value in mean_and_error(part))])

    m = config.max_prefix_len
    prefix, latents = windows[:, longest - m : longest], windows[:, longest:]
    order = torch.from_numpy(np.random.default_rng(0).permutation(m))
    contents = {
        "its own": prefix,
        "64s in reverse order": torch.cat(prefix.split(64, dim=1)[::-1], dim=1),
        "shuffled": prefix[:, order],
        # Windows are in the order of the recordings: half of them away is another one.
        "of another recording": prefix.roll(count // 2, dims=0),
        "a semitone higher": torch.from_numpy(
            np.stack([transform(row, 1, 1.0) for row in prefix.numpy()])
        ),
    }
    gains = {}
    for name, content in contents.items():
        nats = nats_of(model, torch.cat((content, latents), dim=1), m).mean(axis=1)
        gains[name] = mean_and_error(before["as_prefix"][0] - nats)
    return {
        "windows": count,
        "targets": TARGETS,
        # Tokens of context, nats, gain over none, gain over the row before; each with its error.
        **table,
        "prefix": m,
        "gain_of_prefix": gains,
    }


def continuations(model: PerceiverAR, prompts: Tensor, new: int, seed: int) -> np.ndarray:
    """Prompts, (rows, n), and what the model plays after them: (rows, n + new)."""
    parts = []
    for i, rows in enumerate(prompts.split(25)):
        generator = torch.Generator().manual_seed(seed + i)
        # Latents first, as many as there may be.
        num_latents = min(prompts.size(1), model.config.max_latents)
        parts.append(
            model.generate(
                rows,
                max_new_tokens=new,
                num_latents=num_latents,
                generator=generator,
                **SAMPLING,
            )
        )
    return torch.cat(parts).numpy()


def numbers_by_name(rows: list[np.ndarray] | np.ndarray) -> dict[str, list[float]]:
    """`numbers_of` what comes after the prompt of each row."""
    found = [numbers_of(row, PROMPT) for row in rows]
    return {name: [round(numbers[name], 3) for numbers in found] for name in NUMBERS}


def shared_stretches(tokens: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What of `tokens` lies in runs of RUN tokens whose keys are `wanted`.

    tokens: ids, NUM_EVENTS between pieces. wanted: sorted, from `keys_of`. Every run that is
    longer, and whose runs of RUN are all wanted, stands in one stretch; NUM_EVENTS ends each.
    """
    keys = keys_of(tokens)
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    edges = np.diff(wanted[place] == keys, prepend=False, append=False)
    starts, stops = np.flatnonzero(edges).reshape(-1, 2).T
    lengths = stops - starts + RUN  # the last run's tokens, and the end
    after = np.cumsum(lengths)
    within = np.arange(after[-1] if len(after) else 0) - np.repeat(after - lengths, lengths)
    stretches = tokens.take(np.repeat(starts, lengths) + within, mode="clip")
    stretches[after - 1] = NUM_EVENTS
    return stretches


def keys_of(tokens: np.ndarray) -> np.ndarray:
    return ngram_keys(tokens, RUN, NUM_EVENTS + 1)


def longest_copies(samples: list[np.ndarray], train: TokenFile) -> list[int]:
    """Length of the longest run of each sample that stands in a piece of `train`.

    Exact from RUN tokens on; RUN - 1 stands for all that is shorter.
    """
    tokens = np.where(train.tokens < 0, NUM_EVENTS, train.tokens)
    keys = [np.unique(keys_of(sample)) for sample in samples]
    near = shared_stretches(tokens, np.unique(np.concatenate(keys)))
    found = []
    for sample, wanted in zip(samples, keys, strict=True):
        corpus = as_text(shared_stretches(near, wanted))
        found.append(max(longest_run(sample.tolist(), corpus), RUN - 1))
    return found


def form(model: PerceiverAR, valid: TokenFile, count: int) -> dict:
    """Likeness of windows of 5 seconds by the time between them: played, and real."""
    windows = whole(valid, count, PROMPT, LONG_NEW)[:, :-1]
    made = continuations(model, windows[:, :PROMPT], LONG_NEW, seed=2000)
    by_player = {
        player: [profiles(row, PROMPT) for row in rows]
        for player, rows in (("model", made), ("real", windows.numpy()))
    }
    likenesses, numbers = {}, {}
    for player, pieces in by_player.items():
        rows = likeness_by_lag(pieces, LAGS)
        numbers[player] = len(rows)
        likenesses[player] = [mean_and_error(column) for column in rows.T]
    # Windows are in the order of the recordings: half of them away is another one.
    half = count // 2
    first, second = by_player["real"][:half], by_player["real"][half : 2 * half]
    apart = [likeness(a[: len(b)], b[: len(a)]) for a, b in zip(first, second, strict=True)]
    likenesses["other pieces"] = round(float(np.concatenate(apart).mean()), 4)
    return {"pieces": numbers, "tokens": LONG_NEW, "likeness": likenesses}


def heard(model: PerceiverAR, trigram: NGramModel) -> dict:
    """Continuations of the first tokens of the shipped pieces, as token ids."""
    samples = {}
    for name in PIECES:
        prompt = encode_midi(load_piece(name))[:PROMPT]
        by_seed = []
        for seed in range(HEARD_SEEDS):
            generator = torch.Generator().manual_seed(seed)
            row = model.generate(
                torch.tensor([prompt]),
                max_new_tokens=HEARD_NEW,
                num_latents=min(PROMPT, model.config.max_latents),
                generator=generator,
                **SAMPLING,
            )
            by_seed.append(row[0, PROMPT:].tolist())
        counted = trigram.sample(HEARD_NEW, np.random.default_rng(0), prompt)
        samples[name] = {"model": by_seed, "order 3": counted}
    return samples


def folder_of(name: str) -> Path:
    return SHIPPED.get(name) or Path(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=256, help="to measure nats on")
    parser.add_argument("--continuations", type=int, default=100)
    parser.add_argument("--long", type=int, default=32, help="continuations of a minute")
    args = parser.parse_args()
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s: {what}", flush=True)

    model = PerceiverAR.from_pretrained(args.checkpoint)
    config = model.config
    train, valid = TokenFile(args.train), TokenFile(args.valid)
    orders = count_tables(train)
    say(f"counted orders 1 to {ORDERS}")

    windows = whole(valid, args.windows, config.max_prefix_len, config.max_latents)
    fixed = against_counting(model, orders, windows, config.max_prefix_len)
    say(f"{fixed['model'][0]} nats, order 3 {fixed['orders'][3][0]}")
    context = against_context(model, valid, args.windows)
    say(f"gain of the prefix: {context['gain_of_prefix']}")

    sources, longest = {"held out": valid, "training": train}, {}
    for i, (source, data) in enumerate(sources.items()):
        real = whole(data, args.continuations, PROMPT, NEW)[:, :-1]
        prompts = real[:, :PROMPT]
        made = continuations(model, prompts, NEW, seed=1000 * i)
        longest[f"model, prompts {source}"] = made
        if data is valid:
            rng = np.random.default_rng(0)
            counted = [np.append(row, orders[3].sample(NEW, rng, row)) for row in prompts.numpy()]
            rows = {"model": made, "order 3": counted, "real": real.numpy()}
            numbers = {name: numbers_by_name(part) for name, part in rows.items()}
            longest |= {"order 3": counted, "real, held out": real.numpy()}
        say(f"continued {args.continuations} prompts, {source}")
    samples = [row[PROMPT:] for rows in longest.values() for row in rows]
    found = longest_copies(samples, train)
    copies = {
        name: found[i * args.continuations :][: args.continuations]
        for i, name in enumerate(longest)
    }
    say(f"longest copies: { {name: max(lengths) for name, lengths in copies.items()} }")
    minutes = form(model, valid, args.long)
    say(f"likeness: {minutes['likeness']}")

    results = {
        "checkpoint": {
            "sha256": sha256(folder_of(args.checkpoint) / WEIGHTS),
            "parameters": model.num_parameters,
            "window": config.max_seq_len,
            "latents": config.max_latents,
        },
        "data": {
            data.path.name: {
                "sha256": sha256(data.path),
                "recordings": len(data),
                "tokens": int(data.lengths.sum()),
            }
            for data in (train, valid)
        },
        "made with": {
            "torch": torch.__version__.partition("+")[0],
            "machine": platform.machine(),
            # Sums in another order round otherwise, and other tokens may be drawn.
            "threads": torch.get_num_threads(),
            "sampling": SAMPLING,
            "prompt": PROMPT,
            "new": NEW,
        },
        "fixed": fixed,
        "context": context,
        "numbers": numbers,
        "copies": copies,
        "form": minutes,
        "heard": heard(model, orders[3]),
    }
    say("continued the pieces that ship")
    write(results, args.out)


def write(results: dict, out: Path) -> None:
    """JSON with a line for each part; nothing half-written ever bears the name `out`."""
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in results.items()]
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(out.name + ".part")
    staged.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    staged.replace(out)


if __name__ == "__main__":
    main()
