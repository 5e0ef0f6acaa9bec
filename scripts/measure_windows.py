"""The recorded numbers of chapter 11: what to do when the window is full, and what filters cost.

    python scripts/measure_windows.py tiny --valid valid.bin --out book/runs/tiny/windows.json

The checkpoint is anything that `PerceiverAR.from_pretrained` takes, the token file is one of
`tinyperceiver prepare`. Real music is read token by token, past the point where window and latents
are full, under each policy; all are asked for the same tokens. There is one walk for each
recording that is long enough. All is in float32, nothing is random. Of the data only numbers
reach the output.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measure_checkpoint import (
    Places,
    mean_and_error,
    origin_of,
    recordings_of,
    whole,
    write,
)
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.engines.choice import make_decoder
from tinyperceiver.generation.grammar import Grammar
from tinyperceiver.generation.sampling import keep_min_p, keep_top_k, keep_top_p
from tinyperceiver.model.attention import MultiHeadAttention
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.model.rotary import Rotation, apply_rotation, rotation_at
from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, TIME_SHIFT, VELOCITY

ROWS = 4  # walks side by side
BLOCK = 512  # queries at a time
# Of what is told apart by how far a walk has come; the last is the end of a walk.
EDGES = [0, 1, 64, 128, 256, 512, 1024, 2048, 3072, 4096, 5120, 6144]
FILTERS = {
    "top_k 5": (keep_top_k, 5),
    "top_k 15": (keep_top_k, 15),
    "top_k 50": (keep_top_k, 50),
    "top_p 0.8": (keep_top_p, 0.8),
    "top_p 0.9": (keep_top_p, 0.9),
    "top_p 0.95": (keep_top_p, 0.95),
    "top_p 0.99": (keep_top_p, 0.99),
    "min_p 0.02": (keep_min_p, 0.02),
    "min_p 0.05": (keep_min_p, 0.05),
    "min_p 0.1": (keep_min_p, 0.1),
}


# Walks. Target j of a row is its token n + j, asked for after all before it; n is the window.


def walks(data: TokenFile, window: int, after: int) -> tuple[Tensor, np.ndarray]:
    """The middle of each recording that is long enough: (R, window + after), and which it is."""
    length = window + after
    long = np.flatnonzero(data.lengths >= length)
    starts = (data.lengths[long] - length) // 2
    rows = [data[i][start : start + length] for i, start in zip(long, starts, strict=True)]
    return torch.from_numpy(np.array(rows, dtype=np.int64).reshape(-1, length)), long


@torch.inference_mode()
def slide(model: PerceiverAR, rows: Tensor, *, renorm: bool = False) -> Tensor:
    """Nats of each target if nothing is computed again: (R, n + after) -> (R, after).

    What a ring holds when a token comes is known before if the tokens are: the last keys and
    values, as many as it has room for. So this is one pass in which each latent sees a band.

    renorm: whether the first layer reads a token that is latent no more as it reads a prefix, by
    the prefix's norm. (A ring keeps it as it came.)
    """
    config, tokens = model.config, rows[:, :-1]
    n, m, most = config.max_seq_len, config.max_prefix_len, config.max_latents
    place = torch.arange(tokens.size(1))[None]
    rotation = rotation_at(place, config.num_channels // config.num_heads)
    latent_rotation = tuple(part[:, m:] for part in rotation)
    embedded = model.embedding(tokens)
    prefix, x = embedded[:, :m], embedded[:, m:]

    first = model.hybrid_layer.attention
    h = first.norm(x)
    context = torch.cat((first.prefix_norm(prefix), h), dim=1)
    bands = [(context, 0, n)]
    if renorm:
        bands = [(context, 0, most), (first.prefix_norm(embedded), most, n)]
    x = x + attend_in_bands(first.attention, h, bands, rotation)
    x = x + model.hybrid_layer.mlp(x)
    for i, layer in enumerate(model.layers):
        h = layer.attention.norm(x)
        turn = latent_rotation if i < config.num_rotary_layers else None
        x = x + attend_in_bands(layer.attention.attention, h, [(h, 0, most)], turn)
        x = x + layer.mlp(x)
    after = rows.size(1) - n
    logits = model.norm(x[:, -after:]) @ model.embedding.weight.T
    return cross_entropy(logits.transpose(1, 2), rows[:, n:], reduction="none")


def attend_in_bands(
    heads: MultiHeadAttention,
    x: Tensor,
    bands: list[tuple[Tensor, int, int]],
    rotation: Rotation | None,
) -> Tensor:
    """What `heads` gives if each query sees keys of several contexts, in one softmax: (R, l, D).

    x: of the last l positions. bands: a context, (R, length, D), and which of it are seen: those
    at least so many positions back, and less than so many. rotation: of all positions.
    """

    def split(part: Tensor) -> Tensor:
        return part.unflatten(-1, (heads.num_heads, -1)).transpose(1, 2)

    q, l, length = split(heads.query(x)), x.size(1), bands[0][0].size(1)
    keys = [split(heads.key(context)) for context, _, _ in bands]
    values = [split(heads.value(context)) for context, _, _ in bands]
    if rotation is not None:
        q = apply_rotation(q, tuple(part[:, -l:] for part in rotation))
        keys = [apply_rotation(key, rotation) for key in keys]
    parts = []
    for first in range(length - l, length, BLOCK):  # queries stand at the end
        last = min(first + BLOCK, length)
        query, seen, masks = torch.arange(first, last)[:, None], [], []
        for _, near, far in bands:
            begin, end = max(0, first - far + 1), max(0, last - near)
            back = query - torch.arange(begin, end)
            masks.append((back >= near) & (back < far))
            seen.append(slice(begin, end))
        block = q[:, :, first - length + l : last - length + l]
        k, v = (
            torch.cat([one[:, :, where] for one, where in zip(all_, seen, strict=True)], dim=2)
            for all_ in (keys, values)
        )
        mask = torch.cat(masks, dim=1)
        parts.append(scaled_dot_product_attention(block, k, v, attn_mask=mask))
    return heads.output(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))


@torch.inference_mode()
def refill(model: PerceiverAR, rows: Tensor) -> Tensor:
    """Nats of each target if full latents are halved and the window read again: (R, after).

    Until they are full again a cache gives what one reading gives; so here is one for all.
    """
    config = model.config
    n, m = config.max_seq_len, config.max_prefix_len
    after, fewest = rows.size(1) - n, max(1, config.max_latents // 2)
    count = config.max_latents - fewest + 1  # targets of one filling
    parts = [cross_entropy(model(rows[:, :n], m)[:, -1], rows[:, n], reduction="none")[:, None]]
    for first in range(1, after, count):
        last = min(first + count, after)
        window = rows[:, n + first - fewest - m : n + last - 1]
        logits = model(window, m)[:, fewest - 1 :]  # (R, last - first, V)
        targets = rows[:, n + first : n + last]
        parts.append(cross_entropy(logits.transpose(1, 2), targets, reduction="none"))
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def fresh(model: PerceiverAR, rows: Tensor, places: range) -> Tensor:
    """Nats of the targets at `places` if the whole window is read for each: (R, places)."""
    n, m = model.config.max_seq_len, model.config.max_prefix_len
    decoder = make_decoder(model, batch_size=len(rows))
    nats = [
        cross_entropy(decoder.read(rows[:, j : n + j], m), rows[:, n + j], reduction="none")
        for j in places
    ]
    return torch.stack(nats, dim=1)


def in_bins(values: np.ndarray, places: np.ndarray, edges: list[int]) -> list[list[float] | None]:
    """Mean and standard error between each two edges: (R, places), a row for a recording."""
    row = np.arange(len(values))
    found = []
    for low, high in pairwise(edges):
        part = values[:, (places >= low) & (places < high)]
        found.append(mean_and_error(part.mean(axis=1), row) if part.size else None)
    return found


def reach_of(model: PerceiverAR) -> int:
    """How many tokens back, its own included, the newest logits may depend on if it slides."""
    config = model.config
    return config.max_seq_len + config.num_self_attention_layers * (config.max_latents - 1)


def compare(
    model: PerceiverAR, data: TokenFile, after: int, every: int, say: Callable[[str], None]
) -> dict:
    """The three policies on the same tokens, by how many came since all was full."""
    rows, recording = walks(data, model.config.max_seq_len, after)
    if len(rows) < 2:
        raise SystemExit(
            f"{data.path} has {len(rows)} recordings of {model.config.max_seq_len + after} tokens; "
            "at least 2 are needed: take a shorter walk (--after)"
        )
    places = range(0, after, every)
    nats, seconds = {}, {}
    for name, policy in (
        ("slide", slide),
        ("slide, renormed", partial(slide, renorm=True)),
        ("refill", refill),
        ("fresh", partial(fresh, places=places)),
    ):
        began, parts = time.monotonic(), []
        for part in rows.split(ROWS):
            parts.append(policy(model, part).numpy())
            say(f"{name}: {sum(map(len, parts))} of {len(rows)} walks, {parts[-1].mean():.4f} nats")
        nats[name] = np.concatenate(parts).astype(np.float64)
        seconds[name] = round(time.monotonic() - began)
    every_token, some = np.arange(after), np.array(places)
    asked = {name: some if name == "fresh" else every_token for name in nats}
    edges = [edge for edge in EDGES if edge < after] + [after]
    differences = {}
    for one, other in (
        ("slide", "refill"),
        ("slide, renormed", "refill"),
        ("slide", "fresh"),
        ("slide, renormed", "fresh"),
        ("refill", "fresh"),
    ):
        where = asked[other]
        differences[f"{one} less {other}"] = nats[one][:, where] - nats[other], where
    count = model.config.max_latents - max(1, model.config.max_latents // 2) + 1
    phase = (np.arange(after) - 1) % count  # latents above the fewest
    by_phase = (nats["refill"] - nats["slide"])[:, 1:]
    quarters = [round(count * i / 4) for i in range(5)]
    row = np.arange(len(rows))
    return {
        "recordings": len(rows),
        "recording": recording.tolist(),
        "window": model.config.max_seq_len,
        "latents": model.config.max_latents,
        "after": after,
        "every": every,
        "reach": reach_of(model),
        "edges": edges,
        "nats": {name: in_bins(nats[name], asked[name], edges) for name in nats},
        "nats of all": {name: mean_and_error(nats[name].mean(axis=1), row) for name in nats},
        "difference": {
            name: in_bins(values, where, edges) for name, (values, where) in differences.items()
        },
        "difference of all": {
            name: mean_and_error(values.mean(axis=1), row)
            for name, (values, _) in differences.items()
        },
        "refill less slide by latents": {
            "edges": [model.config.max_latents - count + 1 + edge for edge in quarters],
            "difference": in_bins(by_phase, phase[1:], quarters),
        },
        "tokens": {name: values.size for name, values in nats.items()},
        "seconds": seconds,
    }


# What filters and grammar forbid


def broken_rule(rules: Grammar, row: int, last: int, token: int) -> str:
    """Which rule of the grammar a token would break that it does not allow."""
    key = token % NOTE_OFF
    if VELOCITY <= last < NUM_EVENTS and token >= NOTE_OFF:
        return "velocity without a stroke"
    if token < NOTE_OFF:
        return "struck while down"
    if token < TIME_SHIFT:
        is_down = rules.is_down[row, key]
        return "released when struck" if is_down else "released while up"
    return "silence" if token < VELOCITY else "velocity without a free key"


def rules_along(tokens: np.ndarray, first: int) -> tuple[np.ndarray, dict[str, int]]:
    """What a grammar allows for each token from `first` on, and which rules they break.

    tokens: a piece from its beginning, (length,) -> bool, (length - first, NUM_EVENTS + 1).
    """
    rules, broken = Grammar(), {}
    ids = tokens.tolist()
    rules.read(0, ids[:first])
    allowed = []
    for t in range(first, len(ids)):
        allowed.append(rules.allowed[0].copy())
        if not allowed[-1][ids[t]]:
            name = broken_rule(rules, 0, ids[t - 1] if t else -1, ids[t])
            broken[name] = broken.get(name, 0) + 1
        rules.read(0, [ids[t]])
    return np.array(allowed), broken


def prices(logits: Tensor, targets: Tensor, kept: Tensor) -> dict[str, float]:
    """What a choice of tokens does to the targets' nats.

    logits (l, V), targets (l,), kept (l, V) bool -> share of targets that are not kept, tokens
    that are, probability of the others; nats of the kept targets, before and after
    renormalising. The probability is that of the events, without padding.
    """
    log_p = logits[:, :NUM_EVENTS].log_softmax(-1)
    kept = kept[:, :NUM_EVENTS]
    is_kept = kept.gather(1, targets[:, None])[:, 0]
    left = log_p.masked_fill(~kept, float("-inf")).logsumexp(-1)  # (l,)
    nats = -log_p.gather(1, targets[:, None])[:, 0]
    return {
        "forbidden": 1 - is_kept.double().mean().item(),
        "tokens kept": kept.sum(-1).double().mean().item(),
        "probability cut": 1 - left.exp().double().mean().item(),
        "nats": nats[is_kept].double().mean().item(),
        "nats renormalised": (nats + left)[is_kept].double().mean().item(),
    }


@torch.inference_mode()
def forbidding(model: PerceiverAR, data: TokenFile, count: int) -> dict:
    """What filters and grammar make of held-out music, in windows laid out evenly."""
    sizes = model.config.max_prefix_len, model.config.max_latents
    windows, recording = whole(data, count, *sizes), recordings_of(data, count, *sizes)
    first = whole(Places(data), count, *sizes)[:, 0].numpy() - data.starts[recording]
    found, broken = {name: [] for name in ("grammar", *FILTERS)}, {}
    for row, piece, start in zip(windows, recording, first, strict=True):
        logits = model(row[None, :-1], sizes[0])[0].float()  # (l, V)
        targets = row[1 + sizes[0] :].long()
        begin = start + 1 + sizes[0]
        allowed, now = rules_along(data[piece][: begin + len(targets)], begin)
        for rule, number in now.items():
            broken[rule] = broken.get(rule, 0) + number
        found["grammar"].append(prices(logits, targets, torch.from_numpy(allowed)))
        events = logits.clone()
        events[:, NUM_EVENTS:] = float("-inf")
        for name, (keep, value) in FILTERS.items():
            kept = keep(events, value).isfinite()
            found[name].append(prices(logits, targets, kept))
    numbers = {}
    for name, rows in found.items():
        columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        columns["gain"] = columns["nats"] - columns["nats renormalised"]
        numbers[name] = {key: mean_and_error(part, recording) for key, part in columns.items()}
    return {
        "windows": count,
        "targets": count * sizes[1],
        "recordings": len(set(recording.tolist())),
        "broken": broken,
        "by": numbers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--after", type=int, default=EDGES[-1], help="tokens of a walk")
    parser.add_argument("--every", type=int, default=192, help="read a window afresh so often")
    parser.add_argument("--windows", type=int, default=128, help="for filters and grammar")
    args = parser.parse_args()
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s: {what}", flush=True)

    torch.set_num_threads(1)  # sums in another order round otherwise
    model = PerceiverAR.from_pretrained(args.checkpoint)
    valid = TokenFile(args.valid)
    forbidden = forbidding(model, valid, args.windows)
    say(f"grammar: {forbidden['by']['grammar']}")
    walk = compare(model, valid, args.after, args.every, say)
    say(f"differences: {walk['difference of all']}")
    results = {
        **origin_of(args.checkpoint, model, valid),
        "walk": walk,
        "forbidding": forbidden,
    }
    write(results, args.out)


if __name__ == "__main__":
    main()
