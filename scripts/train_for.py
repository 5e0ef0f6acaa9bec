"""Train until a given time: the run gets as many steps as this machine manages by then.

    PYTHONPATH=. .venv/bin/python scripts/train_for.py --until $(date -d "5 minutes" +%s) \\
        --config tiny --data FOLDER --out FOLDER

First a few steps of each stage are timed, and a validation. Then all stages become longer or
shorter by one factor, so that the last step, at the end of the schedule, is done in time. That
gives a configuration which, on the same data, can be trained again anywhere. `--larger-batches 16`
first makes every step 16 times as large, for a GPU, which a step for a CPU would leave idle.

The data folder holds train.bin and valid.bin as `tinyperceiver prepare` writes them. Either may
also be packed, as train.bin.xz, and have further parts, as train-2.bin.xz. What comes out:

    model/   the weights with the lowest held-out loss, in 16 bits, for `from_pretrained`
    run/     configuration, log and speed, as `tinyperceiver train` writes them

`--json FILE` gets what was timed, and nats per held-out token of those weights.
"""

import argparse
import json
import lzma
import math
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.dataset.windows import fixed_windows
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.training.config import RUNS, TrainingConfig
from tinyperceiver.training.devices import make_fabric
from tinyperceiver.training.run_folder import CONFIG, LOG, SPEED
from tinyperceiver.training.step import nats_per_token
from tinyperceiver.training.train import SPLITS, train

PROBE, WARM_UP = 30, 10  # steps of a stage that are run, and of those the first, not timed
VALIDATIONS = 5  # of the run
RESERVE = 0.08  # of the time, for steps that are slower than those timed


def read_config(name: str) -> TrainingConfig:
    """A run by its name, or the configuration in a JSON file, such as a run's config.json."""
    if name in RUNS:
        return RUNS[name]
    settings = json.loads(Path(name).read_text(encoding="utf-8"))
    return TrainingConfig.from_json(settings.get("config", settings))


def join_parts(source: Path, split: str, path: Path) -> None:
    """Write the parts of a split, unpacked and in order, into one token file."""
    pattern = re.compile(rf"{split}(?:-(\d+))?\.bin(?:\.xz)?")
    parts = {}
    for part in source.iterdir():
        if found := pattern.fullmatch(part.name):
            number = int(found[1] or 1)
            if number in parts:
                raise ValueError(f"{part} and {parts[number]} are the same part: remove one")
            parts[number] = part
    if not parts:
        raise FileNotFoundError(f"{source} holds no {split}.bin and no {split}.bin.xz")
    with open(path, "wb") as whole:
        for _, part in sorted(parts.items()):
            with lzma.open(part) if part.suffix == ".xz" else open(part, "rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)


def time_stage(config: TrainingConfig, number: int, folder: Path, options: dict) -> dict:
    """Seconds of a step of a stage, and of a validation (with the start of a run: too many)."""
    stage = replace(config.stages[number], steps=PROBE)
    config = replace(config, stages=(stage,), validate_every=PROBE)
    begin, out = time.monotonic(), folder / f"stage-{number}"
    train(config, folder, out, **options)
    whole = time.monotonic() - begin
    lines = (out / SPEED).read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    step = (seconds[-1] - seconds[WARM_UP - 1]) / (PROBE - WARM_UP)
    return {"step": step, "validation": whole - seconds[-1]}


def fit(
    config: TrainingConfig, timed: list[dict], seconds: float, most_steps: int | None = None
) -> TrainingConfig:
    """The same run with more or fewer steps, so that it takes so many seconds at most.

    Raises:
        ValueError: there is no time for a step.
    """
    steps = sum(
        stage.steps * cost["step"] for stage, cost in zip(config.stages, timed, strict=True)
    )
    validations = VALIDATIONS * max(cost["validation"] for cost in timed)
    factor = (seconds * (1 - RESERVE) - validations) / steps
    factor = min(factor, (most_steps or math.inf) / config.steps)
    if factor <= 0:
        raise ValueError(
            f"{seconds:.0f} s are left, and {VALIDATIONS} validations take {validations:.0f} s: "
            f"give more time"
        )
    stages = [replace(s, steps=max(int(s.steps * factor), 1)) for s in config.stages]
    config = replace(config, stages=tuple(stages))
    every = -(-config.steps // VALIDATIONS)
    return replace(config, validate_every=every, save_every=every)


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what runs longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--until", type=float, required=True, help="seconds since 1970")
    parser.add_argument("--config", required=True, help="tiny, another run's name, or a file")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most-steps", type=int, help="even if there is time for more")
    parser.add_argument("--larger-batches", type=int, default=1, metavar="TIMES")
    parser.add_argument("--rows-at-once", type=int, default=8)
    parser.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--json", type=Path, help="write the results there, too")
    args = parser.parse_args()
    config = read_config(args.config)
    stages = [replace(s, batch_size=s.batch_size * args.larger_batches) for s in config.stages]
    config = replace(config, stages=tuple(stages))
    fabric = make_fabric(config.precision, accelerator=args.accelerator)
    options = {"fabric": fabric, "rows_at_once": args.rows_at_once}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split in SPLITS:
            join_parts(args.data, split, folder / f"{split}.bin")
        timed = [time_stage(config, i, folder, options) for i in range(len(stages))]
        print(f"seconds of a step and a validation, stage by stage: {timed}", flush=True)
        config = fit(config, timed, args.until - time.time(), args.most_steps)
        out, is_finished = folder / "run", True
        try:
            with stopped_after(args.until - time.time()):
                train(config, folder, out, **options)
        except TimeoutError as error:
            print(f"the run is {error}: taking the best weights so far", flush=True)
            is_finished = False
        (args.out / "run").mkdir(parents=True, exist_ok=True)
        for file in (CONFIG, LOG, SPEED):
            shutil.copy(out / file, args.out / "run")
        PerceiverAR.from_pretrained(out / "best").save_pretrained(
            args.out / "model", dtype=torch.float16
        )
        model = PerceiverAR.from_pretrained(args.out / "model").to(fabric.device).eval()
        last = config.stages[-1]
        valid = TokenFile(folder / "valid.bin")
        windows = fixed_windows(valid, config.num_windows, last.max_prefix_len, last.num_latents)
        record = {
            "device": str(fabric.device),
            "seconds": timed,
            "steps": config.steps,
            "is_finished": is_finished,
            "parameters": model.num_parameters,
            "window": last.max_prefix_len + last.num_latents,
            "held_out": nats_per_token(model, fabric.to_device(windows)),
        }
    print(json.dumps(record), flush=True)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
