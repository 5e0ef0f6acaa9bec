r"""Short runs of equal time that differ from one recipe in one thing each: what helps?

    PYTHONPATH=. .venv/bin/python benchmarks/ablation.py DATA WORK \
        --json book/runs/ablation/results.json [--seconds 90] [--processes 2] [--speeds]

DATA is a folder with `train.bin` and `valid.bin` of `tinyperceiver prepare`, WORK a folder for the
runs. Two parts:

1. How long does a step take? Each recipe's steps are timed among those of all others, in an order
   that is drawn anew in each round, with all threads. This part wants an idle machine; `--speeds`
   ends here.
2. Each recipe gets the steps that fill SECONDS at the speed that was measured, and runs with each
   of two seeds. The runs may share the machine with other work, and be paused or killed: what they
   compute depends on the steps alone. A second start goes on where the first was stopped.

The file of results is written anew after each run. What it compares are nats per token on the same
64 windows of `valid.bin`, 512 latents after a prefix of 512.
"""

import argparse
import json
import multiprocessing
import random
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch

from tinyperceiver import PerceiverAR
from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.model.config import PRESETS
from tinyperceiver.training.config import Stage, TrainingConfig
from tinyperceiver.training.devices import make_fabric
from tinyperceiver.training.run_folder import LOG
from tinyperceiver.training.step import make_optimizers, training_step
from tinyperceiver.training.train import _batches, train

SEEDS = 0, 1
ROUNDS = 12  # timed steps of each recipe and stage
SMALL, MIDDLE, LARGE = (256, 0, 8), (256, 256, 8), (512, 512, 4)  # latents, prefix, windows


def stages(*parts: tuple[int, tuple[int, int, int]], batch: float = 1) -> tuple[Stage, ...]:
    """Stages whose steps are in a proportion, each with `batch` times as many windows a step."""
    return tuple(
        Stage(steps=part, num_latents=l, max_prefix_len=m, batch_size=int(rows * batch))
        for part, (l, m, rows) in parts
    )


GROWING = (2, SMALL), (1, MIDDLE), (3, LARGE)
BASE = TrainingConfig(
    model=PRESETS["tiny"],
    stages=stages(*GROWING),
    optimizer="muon",
    learning_rate=3e-3,
    warmup_steps=50,
    schedule="trapezoid",
    weight_decay=0.05,
    betas=(0.9, 0.98),
    max_norm=1.0,
    replacement=False,
    precision="bf16-mixed",
    validate_every=1_000_000,  # at the end alone
    save_every=50,
)
ALL_ROTATE = replace(PRESETS["tiny"], num_self_attention_rotary_layers=-1)
CHANGES = {
    "none": {},
    "AdamW": {"optimizer": "adamw"},
    "AdamW, half the rate": {"optimizer": "adamw", "learning_rate": 1.5e-3},
    "half the rate": {"learning_rate": 1.5e-3},
    "twice the rate": {"learning_rate": 6e-3},
    "cosine": {"schedule": "cosine"},
    "with replacement": {"replacement": True},
    "transposition": {"transpose": 5},
    "rotation in all layers": {"model": ALL_ROTATE},
    "windows grow early": {"stages": stages((1, SMALL), (1, MIDDLE), (4, LARGE))},
    "windows do not grow": {"stages": stages((1, LARGE))},
    "half the batch": {"stages": stages(*GROWING, batch=0.5)},
    "twice the batch": {"stages": stages(*GROWING, batch=2)},
}


def costs_of(config: TrainingConfig) -> list[tuple]:
    """For each stage, all that the time of a step depends on."""
    same = config.model, config.optimizer, config.replacement, config.transpose
    return [(*same, replace(stage, steps=1)) for stage in config.stages]


def measure_speeds(data: Path) -> dict[str, list[float]]:
    """Seconds per step of each stage of each recipe."""
    fabric = make_fabric(BASE.precision, accelerator="cpu")
    tokens = TokenFile(data / "train.bin")
    running = {}
    for change in CHANGES.values():
        config = replace(BASE, **change)
        for cost, stage in zip(costs_of(config), config.stages, strict=True):
            if cost in running:
                continue
            one = replace(config, stages=(replace(stage, steps=1 + ROUNDS),))
            torch.manual_seed(0)
            model = fabric.setup_module(PerceiverAR(config.model))
            optimizers = [fabric.setup_optimizers(o) for o in make_optimizers(model, config)]
            # Equal steps draw equal prefix lengths, whatever the recipe.
            batches = _batches(one, fabric, tokens, range(one.steps), 8)
            running[cost] = model, optimizers, batches
    seconds = {cost: [] for cost in running}
    order, rng = list(running), random.Random(0)
    for _ in range(1 + ROUNDS):
        rng.shuffle(order)  # a step after a large one finds other caches
        for cost in order:
            model, optimizers, batches = running[cost]
            begin = time.perf_counter()
            training_step(fabric, model, optimizers, next(batches)[1], BASE.max_norm)
            seconds[cost].append(time.perf_counter() - begin)
    return {
        name: [statistics.mean(seconds[cost][1:]) for cost in costs_of(replace(BASE, **change))]
        for name, change in CHANGES.items()
    }


def fill(config: TrainingConfig, seconds_per_step: list[float], seconds: float) -> TrainingConfig:
    """As many steps as take `seconds`, in the proportion of the stages of `config`."""
    parts = [stage.steps for stage in config.stages]
    unit = seconds / sum(p * s for p, s in zip(parts, seconds_per_step, strict=True))
    filled = (replace(s, steps=round(s.steps * unit)) for s in config.stages)
    return replace(config, stages=tuple(filled))


def held_out_of(config: TrainingConfig, data: Path, out: Path) -> float:
    """Train, or go on, and return the nats per token at the end."""
    torch.set_num_threads(1)
    train(config, data, out, fabric=make_fabric(config.precision, accelerator="cpu"))
    return json.loads((out / LOG).read_text(encoding="utf-8").splitlines()[-1])["held_out"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--speeds", action="store_true")
    arguments = parser.parse_args()
    path = arguments.json
    results = json.loads(path.read_text()) if path.exists() else {}

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")

    asked = {"seconds": arguments.seconds, "base": BASE.to_json()}
    if results and any(results[name] != value for name, value in asked.items()):
        sys.exit(f"{path} holds an ablation with another base or --seconds: name another file")
    if not results:
        threads = torch.get_num_threads()
        results |= {"made with": {"torch": torch.__version__, "threads": threads}}
        results |= asked | {"changes": {}}
        for name, speeds in measure_speeds(arguments.data).items():
            config = fill(replace(BASE, **CHANGES[name]), speeds, arguments.seconds)
            results["changes"][name] = {
                "seconds_per_step": [round(s, 4) for s in speeds],
                "stages": config.to_json()["stages"],
                "held_out": {},
            }
        write()
    if arguments.speeds:
        return
    # Not forked: threads that torch has started would be missing in the child.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        waiting = {}
        for seed in SEEDS:
            for name, change in CHANGES.items():
                row = results["changes"][name]
                if str(seed) in row["held_out"]:
                    continue
                filled = tuple(Stage(**stage) for stage in row["stages"])
                config = replace(BASE, **change | {"stages": filled, "seed": seed})
                out = arguments.work / f"{name} {seed}".replace(" ", "-")
                task = pool.submit(held_out_of, config, arguments.data, out)
                waiting[task] = row["held_out"], str(seed), name
        for task in as_completed(waiting):
            held_out, seed, name = waiting[task]
            held_out[seed] = round(task.result(), 4)
            write()
            print(f"{name}, seed {seed}: {held_out[seed]:.4f}", flush=True)


if __name__ == "__main__":
    main()
