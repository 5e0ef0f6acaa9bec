"""Train the checkpoint that ships with the package: the plainest loop that does the job.

    python scripts/train_tiny.py --train train.bin --valid valid.bin --out runs/tiny --minutes 90

`train.bin` and `valid.bin` hold little-endian int16 token ids, -1 after each piece. The run is
planned by the clock: the learning rate falls along a cosine that reaches zero when the minutes
are over, and the window grows as they pass (many cheap steps beat few long ones).
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tinyperceiver.model import PRESETS, PerceiverAR

# Share of the time from which on a stage runs, window n, latents l, rows B.
STAGES = [(0.0, 256, 256, 16), (0.15, 512, 256, 16), (0.65, 1024, 512, 8)]
LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY, CLIP, SEED = 2e-3, 100, 0.05, 1.0, 0


def read_pieces(path: Path, least: int) -> list[np.ndarray]:
    """The pieces of a token file that are at least `least` tokens long."""
    tokens = np.fromfile(path, dtype="<i2")
    ends = np.flatnonzero(tokens < 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    return [tokens[a:b] for a, b in zip(starts, ends, strict=True) if b - a >= least]


def random_windows(
    pieces: list[np.ndarray], n: int, rows: int, rng: np.random.Generator
) -> torch.Tensor:
    """Rows of n + 1 tokens, each from one piece, every window of the corpus equally likely."""
    room = np.array([len(piece) - n for piece in pieces]).clip(min=0)
    chosen = rng.choice(len(pieces), rows, p=room / room.sum())
    starts = [rng.integers(room[i]) for i in chosen]
    return torch.from_numpy(
        np.stack([pieces[i][s : s + n + 1] for i, s in zip(chosen, starts, strict=True)]).astype(
            np.int64
        )
    )


def loss_of(model: PerceiverAR, window: torch.Tensor, num_latents: int) -> torch.Tensor:
    """Mean nats per token over the last `num_latents` tokens of `window`, (B, n + 1)."""
    prefix_len = window.size(1) - 1 - num_latents
    with torch.autocast(window.device.type, dtype=torch.bfloat16):
        logits = model(window[:, :-1], prefix_len)  # (B, l, V)
    return cross_entropy(logits.float().flatten(0, 1), window[:, -num_latents:].flatten())


@torch.no_grad()
def held_out(model: PerceiverAR, pieces: list[np.ndarray], num_windows: int) -> float:
    """Nats per token on fixed windows, evenly spread over the held-out pieces, in tokens."""
    config = model.config
    n = config.max_seq_len
    places = [(piece, s) for piece in pieces for s in range(0, len(piece) - n, config.max_latents)]
    chosen = [places[i * len(places) // num_windows] for i in range(num_windows)]
    windows = np.stack([piece[s : s + n + 1] for piece, s in chosen]).astype(np.int64)
    model.eval()
    losses = [
        loss_of(model, batch.to(model.embedding.weight.device), config.max_latents).item()
        for batch in torch.from_numpy(windows).split(8)
    ]
    model.train()
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PerceiverAR(PRESETS["tiny"]).to(device).train()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    valid = read_pieces(args.valid, model.config.max_seq_len + 1)

    begin, step, seen, stage, train = time.monotonic(), 0, 0, None, []
    with open(args.out / "log.jsonl", "w") as log:
        while (share := (time.monotonic() - begin) / (60 * args.minutes)) < 1:
            current = max(s for s in STAGES if s[0] <= share)
            _, n, num_latents, rows = current
            if current != stage:
                stage, train = current, read_pieces(args.train, n + 1)
            rate = LEARNING_RATE * min(
                (step + 1) / WARMUP_STEPS, (1 + math.cos(math.pi * share)) / 2
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            prefix_len = rng.integers(n - num_latents + 1)  # so that short prompts work too
            window = random_windows(train, prefix_len + num_latents, rows, rng).to(device)
            loss = loss_of(model, window, num_latents)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            step, seen = step + 1, seen + rows * num_latents
            if step % 50 == 0:
                record = {
                    "step": step,
                    "minutes": round((time.monotonic() - begin) / 60, 2),
                    "window": n,
                    "predicted_tokens": seen,
                    "loss": round(loss.item(), 4),
                }
                if step % 1000 == 0:
                    record["held_out"] = round(held_out(model, valid, 64), 4)
                    torch.save(model.state_dict(), args.out / "last.pt")
                print(json.dumps(record), file=log, flush=True)
        result = {
            "step": step,
            "minutes": args.minutes,
            "predicted_tokens": seen,
            "held_out": round(held_out(model, valid, 512), 4),
        }
        print(json.dumps(result), file=log, flush=True)
    torch.save(model.state_dict(), args.out / "last.pt")


if __name__ == "__main__":
    main()
