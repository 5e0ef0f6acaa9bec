"""The recorded numbers of chapter 10: what a checkpoint has learnt, and what it plays.

    python scripts/measure_checkpoint.py tiny --train train.bin --valid valid.bin \\
        --run book/runs/tiny --out book/runs/tiny/measured.json

The checkpoint is anything that `PerceiverAR.from_pretrained` takes, the token files are those of
`tinyperceiver prepare`, the run is the folder of the training that made the checkpoint. All
windows, prompts and seeds are fixed. Standard errors are by recording: windows of one recording
are no independent draws. Of the data only numbers reach the output; the music in it was played by
the model, or by n-grams, after pieces that ship.
"""

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from count_ngrams import as_text, longest_run
from torch import Tensor
from torch.nn.functional import cross_entropy

from tinyperceiver.checkpoints.folder import WEIGHTS
from tinyperceiver.checkpoints.pretrained import SHIPPED
from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.dataset.windows import Windows, fixed_windows, transform
from tinyperceiver.files.whole import sha256_of
from tinyperceiver.generation.sampling import choose_tokens
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.model.rotary import rotation_at
from tinyperceiver.music.ngrams import NGramModel, ngram_keys
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import (
    NUM_EVENTS,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
)
from tinyperceiver.teaching.measuring import (
    NUMBERS,
    attention_weights,
    likeness,
    likeness_by_lag,
    numbers_of,
    profiles,
)
from tinyperceiver.teaching.music import EDGES, KINDS
from tinyperceiver.training import evaluate

ORDERS = 4
TARGETS = 64  # tokens of a window that are predicted where prefixes are compared
NEAR = 64  # the last tokens of a prefix, which some experiments leave alone
HIDDEN = 32  # tokens of a prefix that are hidden
POSITIONS = 32  # groups of latents, by position
PROMPT, NEW = 256, 512  # tokens
LONG_NEW, LAGS = 3072, 6  # tokens; multiples of 5 seconds
LONG_PIECE = "chopin-mazurka"
HEARD_SEEDS, HEARD_NEW = 4, 320
SAMPLING = {"do_sample": True, "top_p": 0.95}
RUN = 6  # tokens: shorter runs are not told apart
ROWS = 8  # windows computed together


def seconds_of(data: TokenFile) -> float:
    """How long all of it lasts."""
    steps = np.bincount(data.tokens[data.tokens >= 0], minlength=VELOCITY)[TIME_SHIFT:VELOCITY]
    return float((steps * np.arange(1, len(steps) + 1)).sum() / STEPS_PER_SECOND)


@torch.inference_mode()
def nats_of(model: PerceiverAR, windows: Tensor, prefix_len: int) -> np.ndarray:
    """Nats of the token after each latent: n + 1 tokens, (B, n + 1) -> (B, l)."""
    parts = []
    for rows in windows.split(ROWS):
        logits = model(rows[:, :-1], prefix_len)  # (B, l, V)
        targets = rows[:, 1 + prefix_len :]
        parts.append(cross_entropy(logits.transpose(1, 2), targets, reduction="none"))
    return torch.cat(parts).numpy()


def mean_and_error(
    values: np.ndarray, recording: np.ndarray, counts: np.ndarray | None = None
) -> list[float]:
    """`evaluate.mean_and_error` to four digits, for two recordings or more.

    Raises:
        ValueError: fewer than two recordings.
    """
    if len(np.unique(recording)) < 2:
        raise ValueError(
            f"{len(values)} windows of {len(np.unique(recording))} recordings give no standard "
            "error: take more windows, continuations, or long ones"
        )
    return [round(number, 4) for number in evaluate.mean_and_error(values, recording, counts)]


class Places:
    """A token file that holds, in place of each token, where in the file it stands."""

    def __init__(self, data: TokenFile) -> None:
        self.path, self.starts, self.lengths = data.path, data.starts, data.lengths

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, piece: int) -> np.ndarray:
        return self.starts[piece] + np.arange(self.lengths[piece])


def whole(data: TokenFile, count: int, prefix_len: int, num_latents: int) -> Tensor:
    """Fixed windows with the token after them: (count, n + 1)."""
    batch = fixed_windows(data, count, prefix_len, num_latents)
    return torch.cat((batch.tokens, batch.targets[:, -1:]), dim=1)


def recordings_of(data: TokenFile, count: int, prefix_len: int, num_latents: int) -> np.ndarray:
    """Which recording each of those windows is of: (count,)."""
    first = whole(Places(data), count, prefix_len, num_latents)[:, 0].numpy()
    return np.searchsorted(data.starts, first, side="right") - 1


def times_asked(config: dict, train: TokenFile, steps: int) -> np.ndarray:
    """How often each token of the file was a target in so many steps: (tokens of the file,).

    config: as in the `config.json` of a run. Every draw of its windows depends on the seed, the
    step and the row alone, so that they can be drawn again. (Stretched ones end a little earlier
    or later, which is left out.)
    """
    asked, begin = np.zeros(len(train.tokens), dtype=np.int64), 0
    for stage in config["stages"]:
        sizes = stage["num_latents"], stage["max_prefix_len"]
        windows = Windows(Places(train), *sizes, seed=config["seed"])
        for step in range(begin, min(begin + stage["steps"], steps)):
            targets = windows[step, range(stage["batch_size"])].targets.numpy()
            np.add.at(asked, targets[targets >= 0], 1)
        begin += stage["steps"]
    return asked


def asked_in_training(run: Path, train: TokenFile, starts: np.ndarray) -> dict:
    """How often training asked for a token of `train`, and for those from `starts` on.

    Without a `config.json` in the folder of the run only the mean is known.
    """
    with (run / "log.jsonl").open(encoding="utf-8") as log:
        rows = [json.loads(line) for line in log]
    predicted = sum(row.get("tokens", 0) for row in rows) or rows[-1]["predicted_tokens"]
    asked = {"predicted": predicted, "tokens": int(train.lengths.sum())}
    if (run / "config.json").exists():
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
        times = times_asked(config, train, max(row.get("step", 0) for row in rows))
        asked["stages"] = config["stages"]
        asked["never"] = round(float((times[train.tokens >= 0] == 0).mean()), 4)
        # Of the real continuation of each prompt, the share that was ever a target.
        asked["of continuations"] = [
            round(float((times[start + PROMPT :][:NEW] > 0).mean()), 3) for start in starts
        ]
    return asked


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
    model: PerceiverAR,
    orders: dict[int, NGramModel],
    windows: Tensor,
    recording: np.ndarray,
    prefix_len: int,
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

    def by_recording(values: np.ndarray) -> list[float]:
        return mean_and_error(values.mean(axis=1), recording)

    return {
        "windows": len(windows),
        "recording": recording.tolist(),
        "window": windows.shape[1] - 1,
        "latents": l,
        "model": by_recording(nats),
        "deviation_of_tokens": round(float(nats.std()), 4),
        "orders": {order: by_recording(n) for order, n in counted.items()},
        "gain_over_order_3": by_recording(trigram - nats),
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
            "group": len(groups[0]),
            "after": [round(float(g.mean()), 1) for g in groups],
            "full prefix": [round(float(nats[:, g].mean()), 4) for g in groups],
            "no prefix": [round(float(without[:, g].mean()), 4) for g in groups],
            "gain": [by_recording((without - nats)[:, g]) for g in groups],
        },
    }


def against_context(model: PerceiverAR, valid: TokenFile, count: int) -> dict:
    """Nats of the same targets after more and more context, as prefix and as latents."""
    config = model.config
    longest = max(config.max_prefix_len, config.max_latents - TARGETS)
    windows = whole(valid, count, longest, TARGETS)
    recording = recordings_of(valid, count, longest, TARGETS)
    lengths = [0, *(16 << i for i in range(20) if 16 << i < config.max_prefix_len)]
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
            rows.append(
                [c, *(value for part in parts for value in mean_and_error(part, recording))]
            )
    return {
        "windows": count,
        "recordings": len(set(recording.tolist())),
        "targets": TARGETS,
        # Tokens of context, nats, gain over none, gain over the row before; each with its error.
        **table,
        "prefix": config.max_prefix_len,
        **contents(model, windows[:, longest - config.max_prefix_len :], recording),
    }


def contents(model: PerceiverAR, windows: Tensor, recording: np.ndarray) -> dict:
    """What prefixes of other contents gain over none, for all targets and by kind of token.

    windows: m + TARGETS + 1 tokens, (count, m + TARGETS + 1).
    """
    m = windows.size(1) - TARGETS - 1
    prefix, latents = windows[:, :m], windows[:, m:]
    old, near = prefix[:, :-NEAR], prefix[:, -NEAR:]
    rng = np.random.default_rng(0)
    order, order_of_old = (torch.from_numpy(rng.permutation(n)) for n in (m, m - NEAR))
    # Windows are in the order of the recordings: half of them away is another one.
    other = prefix.roll(len(prefix) // 2, dims=0)
    higher = torch.from_numpy(np.stack([transform(row, 1, 1.0) for row in prefix.numpy()]))
    made = {
        "its own": prefix,
        f"the last {NEAR} alone": near,
        f"shuffled before the last {NEAR}": torch.cat((old[:, order_of_old], near), dim=1),
        f"another's before the last {NEAR}": torch.cat((other[:, :-NEAR], near), dim=1),
        "shuffled": prefix[:, order],
        "of another recording": other,
        "a semitone higher": higher,
    }
    without = nats_of(model, latents, 0)  # (count, TARGETS)
    kind = np.searchsorted(EDGES[1:-1], latents[:, 1:].numpy(), side="right")
    gains, own = {}, None
    for name, content in made.items():
        n = content.size(1)
        gain = without - nats_of(model, torch.cat((content, latents), dim=1), n)
        own = gain if own is None else own
        by_kind = {}
        for k, kind_name in enumerate(KINDS):
            counts = (kind == k).sum(axis=1)
            means = (gain * (kind == k)).sum(axis=1) / np.maximum(counts, 1)
            by_kind[kind_name] = mean_and_error(means, recording, counts)
        gains[name] = {
            "all": mean_and_error(gain.mean(axis=1), recording),
            "less than its own": mean_and_error((own - gain).mean(axis=1), recording),
            **by_kind,
        }
    return {"gain_of_prefix": gains, "near": NEAR}


@torch.inference_mode()
def logits_without(model: PerceiverAR, tokens: Tensor, prefix_len: int, hidden: Tensor) -> Tensor:
    """Logits where the tokens of the prefix that are `hidden`, (B, n), are not read: (B, l, V).

    All others stay where they are. (Given to the model, a mask moves the first position.)
    """

    def hide(_, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | {"pad_mask": hidden}

    hook = model.hybrid_layer.register_forward_pre_hook(hide, with_kwargs=True)
    try:
        return model(tokens, prefix_len)
    finally:
        hook.remove()


@torch.inference_mode()
def hiding(model: PerceiverAR, valid: TokenFile, count: int) -> dict:
    """Nats per token that hiding some tokens of the prefix costs, by how they are chosen."""
    # A copy: another thread may play on the model, and must not meet the hook.
    model, m, config = copy.deepcopy(model), model.config.max_prefix_len, model.config
    windows = whole(valid, count, m, TARGETS)
    recording = recordings_of(valid, count, m, TARGETS)
    rotation = rotation_at(torch.arange(m + TARGETS)[None], config.num_channels // config.num_heads)
    rng = torch.Generator().manual_seed(0)
    last = torch.arange(m - HIDDEN, m)
    costs, shared = {}, []
    for row in windows:
        x = model.embedding(row[None, :-1])
        layer = model.hybrid_layer.attention
        weight = attention_weights(layer, x[:, m:], x[:, :m], rotation)[:, :, :m].mean((0, 1))
        most = weight.topk(HIDDEN).indices
        shared.append(int(torch.isin(most, last).sum()))
        chosen = {
            "most weight": most,
            "the last": last,
            "most weight before those": weight[:-HIDDEN].topk(HIDDEN).indices,
            f"the {HIDDEN} before those": last - HIDDEN,
            "at random before those": torch.randperm(m - HIDDEN, generator=rng)[:HIDDEN],
        }
        tokens = row[None, :-1]
        masks = torch.zeros(len(chosen) + 1, m + TARGETS, dtype=torch.bool)
        for i, places in enumerate(chosen.values(), start=1):
            masks[i, places] = True
        logits = logits_without(model, tokens.expand(len(masks), -1), m, masks)
        targets = row[m + 1 :].expand(len(masks), -1)
        nats = cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)
        for name, value in zip(chosen, nats[1:] - nats[0], strict=True):
            costs.setdefault(name, []).append(value.item())
    costs = {name: np.array(values) for name, values in costs.items()}
    far, nearest = costs["most weight before those"], costs[f"the {HIDDEN} before those"]
    return {
        "windows": count,
        "hidden": HIDDEN,
        "cost": {name: mean_and_error(values, recording) for name, values in costs.items()},
        "weight over nearness": mean_and_error(far - nearest, recording),
        "most weight among the last": round(float(np.mean(shared)), 1),
    }


def continuations(
    model: PerceiverAR, prompts: Tensor, new: int, seed: int, sampling: dict
) -> np.ndarray:
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
                **sampling,
            )
        )
    return torch.cat(parts).numpy()


def by_table(table: NGramModel, new: int, seed: int, prompt: list[int]) -> list[int]:
    """What the counting model plays after a prompt: drawn as the network's tokens are."""
    generator, tokens = torch.Generator().manual_seed(seed), list(prompt)
    for _ in range(new):
        p = table.probabilities(tokens[max(len(tokens) - table.order + 1, 0) :])
        logits = torch.from_numpy(p).log()[None]
        tokens.append(int(choose_tokens(logits, generator=generator, **SAMPLING)))
    return tokens[len(prompt) :]


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
    """Likeness of windows of 5 seconds by the time between them: played, and real.

    Each prompt gives a real piece, and one made with and one without `top_p`. Only prompts of
    which all three last long enough count, so that the same pieces are compared, pair by pair.
    """
    windows = whole(valid, count, PROMPT, LONG_NEW)[:, :-1]
    recording = recordings_of(valid, count, PROMPT, LONG_NEW)
    prompts, pieces = windows[:, :PROMPT], {"real": windows.numpy()}
    pieces["model"] = continuations(model, prompts, LONG_NEW, 2000, SAMPLING)
    pieces["model, every token"] = continuations(
        model, prompts, LONG_NEW, 2000, SAMPLING | {"top_p": None}
    )
    by_player = {player: [profiles(row, PROMPT) for row in rows] for player, rows in pieces.items()}
    rows = {player: likeness_by_lag(pieces, LAGS) for player, pieces in by_player.items()}
    lasts = np.all([~np.isnan(part).any(axis=1) for part in rows.values()], axis=0)
    rows = {player: part[lasts] for player, part in rows.items()}
    of = recording[lasts]
    # Windows are in the order of the recordings: half of them away is another one.
    half = count // 2
    first, second = by_player["real"][:half], by_player["real"][half : 2 * half]
    apart = [likeness(a[: len(b)], b[: len(a)]) for a, b in zip(first, second, strict=True)]
    return {
        "tried": count,
        "pieces": int(lasts.sum()),
        "tokens": LONG_NEW,
        "likeness": {
            player: [mean_and_error(column, of) for column in part.T]
            for player, part in rows.items()
        },
        # All lags together: they are of the same pieces, and no independent tests.
        "more than real": {
            player: mean_and_error((part - rows["real"]).mean(axis=1), of)
            for player, part in rows.items()
            if player != "real"
        },
        "other pieces": round(float(np.concatenate(apart).mean()), 4),
    }


def heard(model: PerceiverAR) -> dict:
    """The model's continuations of the first tokens of the shipped pieces, as token ids."""
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
        samples[name] = {"model": by_seed}
    return samples


def heard_long(model: PerceiverAR) -> list[int]:
    """One long continuation of a shipped piece, as token ids."""
    prompt = torch.tensor([encode_midi(load_piece(LONG_PIECE))[:PROMPT]])
    return continuations(model, prompt, LONG_NEW, 0, SAMPLING)[0, PROMPT:].tolist()


def listen(
    model: PerceiverAR,
    orders: dict[int, NGramModel],
    valid: TokenFile,
    args: argparse.Namespace,
    say: Callable[[str], None],
) -> dict:
    """What the model and the tables pay for real music."""
    sizes = model.config.max_prefix_len, model.config.max_latents
    windows = whole(valid, args.windows, *sizes)
    recording = recordings_of(valid, args.windows, *sizes)
    fixed = against_counting(model, orders, windows, recording, model.config.max_prefix_len)
    say(f"{fixed['model'][0]} nats, order 3 {fixed['orders'][3][0]}")
    context = against_context(model, valid, args.probes)
    say(f"gain of the prefix: {context['gain_of_prefix']}")
    hidden = hiding(model, valid, args.probes)
    say(f"cost of hiding: {hidden['cost']}")
    return {"fixed": fixed, "context": context, "hiding": hidden}


def play(
    model: PerceiverAR,
    train: TokenFile,
    valid: TokenFile,
    args: argparse.Namespace,
    say: Callable[[str], None],
) -> tuple[dict[str, np.ndarray], dict]:
    """What the model plays: after prompts of the data, and what the record keeps of the rest."""
    made = {}
    for i, (source, data) in enumerate({"held out": valid, "training": train}.items()):
        prompts = whole(data, args.continuations, PROMPT, NEW)[:, :PROMPT]
        made[f"model, prompts {source}"] = continuations(model, prompts, NEW, 1000 * i, SAMPLING)
        say(f"continued {args.continuations} prompts, {source}")
    minutes = form(model, valid, args.long)
    say(f"likeness: {minutes['likeness']}")
    takes = {"heard": heard(model), "heard long": {LONG_PIECE: heard_long(model)}}
    say("continued the pieces that ship")
    return made, {"form": minutes, **takes}


def folder_of(name: str) -> Path:
    return SHIPPED.get(name) or Path(name)


def origin_of(name: str, model: PerceiverAR, *files: TokenFile) -> dict[str, dict]:
    """Which checkpoint and token files numbers are of, and what made them."""
    return {
        "checkpoint": {
            "sha256": sha256_of(folder_of(name) / WEIGHTS),
            "parameters": model.num_parameters,
        },
        "data": {
            data.path.name: {
                "sha256": sha256_of(data.path),
                "recordings": len(data),
                "tokens": int(data.lengths.sum()),
            }
            for data in files
        },
        "made with": {
            "torch": torch.__version__.partition("+")[0],
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="with its log.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=512, help="to measure nats on")
    parser.add_argument("--probes", type=int, default=128, help="windows to change the context of")
    parser.add_argument("--continuations", type=int, default=100)
    parser.add_argument("--long", type=int, default=32, help="continuations of a minute")
    args = parser.parse_args()
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s: {what}", flush=True)

    # Sums in another order round otherwise, and other tokens may be drawn.
    torch.set_num_threads(1)
    model = PerceiverAR.from_pretrained(args.checkpoint)
    train, valid = TokenFile(args.train), TokenFile(args.valid)
    # What the network plays needs no table: a second core can do it meanwhile.
    with ThreadPoolExecutor(1) as other:
        playing = other.submit(play, model, train, valid, args, say)
        orders = count_tables(train)
        say(f"counted orders 1 to {ORDERS}")
        listened = listen(model, orders, valid, args, say)
        made, music = playing.result()

    real = whole(valid, args.continuations, PROMPT, NEW)[:, :-1].numpy()
    counted = [
        np.append(row, by_table(orders[3], NEW, seed, row.tolist()))
        for seed, row in enumerate(real[:, :PROMPT])
    ]
    by_player = {"model": made["model, prompts held out"], "order 3": counted, "real": real}
    longest = made | {"order 3": counted, "real, held out": real}
    samples = [row[PROMPT:] for rows in longest.values() for row in rows]
    found = longest_copies(samples, train)
    copies = {
        name: found[i * args.continuations :][: args.continuations]
        for i, name in enumerate(longest)
    }
    say(f"longest copies: { {name: max(lengths) for name, lengths in copies.items()} }")
    starts = whole(Places(train), args.continuations, PROMPT, NEW)[:, 0].numpy()
    asked = asked_in_training(args.run, train, starts)
    say(f"asked for {asked['predicted']} of {asked['tokens']} tokens")
    for name, takes in music["heard"].items():
        prompt = encode_midi(load_piece(name))[:PROMPT]
        takes["order 3"] = by_table(orders[3], HEARD_NEW, 0, prompt)

    origin = origin_of(args.checkpoint, model, train, valid)
    config = model.config
    origin["checkpoint"] |= {"window": config.max_seq_len, "latents": config.max_latents}
    for data in (train, valid):
        origin["data"][data.path.name]["seconds"] = round(seconds_of(data))
    origin["made with"] |= {"sampling": SAMPLING, "prompt": PROMPT, "new": NEW}
    results = {
        **origin,
        **listened,
        "numbers": {name: numbers_by_name(rows) for name, rows in by_player.items()},
        "recording": recordings_of(valid, args.continuations, PROMPT, NEW).tolist(),
        "copies": copies,
        "asked": asked,
        **music,
    }
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
