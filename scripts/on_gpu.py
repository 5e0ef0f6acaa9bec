"""All that a GPU is needed for, in one command and at most ten minutes.

    .venv/bin/python scripts/on_gpu.py --data FOLDER --out FOLDER [--minutes 9] [--config tiny]

Four steps, one after the other, each with a time limit of its own: the tests that carry the mark
`cuda`, benchmarks/training_gpu.py, benchmarks/throughput.py, and in all the time that is left
scripts/train_for.py, which says what the data folder must hold. A step that fails or takes too long
is ended and recorded, and the next one begins. Seven small files come out:

    results.json   of each step how it ended, its time, and its own record as far as it came
    log.txt        all that the steps printed
    model/ run/    of the training, see scripts/train_for.py

`--rehearse` does the same without a GPU, with a small model and small numbers.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
# Step -> seconds that it may take, its program, and the numbers for a GPU and for a rehearsal.
STEPS = {
    "tests": (120, "-m pytest -m cuda -q --continue-on-collection-errors", "", ""),
    "training_gpu": (
        120,
        "benchmarks/training_gpu.py",
        "--rows 8 32 --modes plain checkpointed compiled",
        "--device cpu --preset tiny --rows 1 --modes plain --times 1",
    ),
    "throughput": (
        90,
        "benchmarks/throughput.py",
        "",
        "--device cpu --preset tiny --batches 1 2 --prompt 99 --latents 1 9 --steps 4 --rounds 1",
    ),
    "train": (
        float("inf"),
        "scripts/train_for.py",
        "--accelerator gpu --larger-batches 16 --rows-at-once 256",
        "--accelerator cpu --most-steps 60",
    ),
}
MARGIN = 15  # seconds before its limit at which training ends, to measure and write what it gave
SHOWN = 3000  # bytes of a failed step's output


def command_of(name: str, args: argparse.Namespace, seconds: float, record: Path) -> list[str]:
    """The command of a step that may take so many seconds, and writes JSON to `record`."""
    _, program, numbers, small_numbers = STEPS[name]
    command = [sys.executable, *program.split()]
    command += (small_numbers if args.rehearse else numbers).split()
    if name == "tests":
        # No other files: they may import what is not installed where the GPU is.
        marked = re.compile(r"mark\.cuda|\bDEVICES\b")
        files = sorted((ROOT / "tests").glob("test_*.py"))
        return command + [str(p) for p in files if marked.search(p.read_text(encoding="utf-8"))]
    if name == "train":
        command += ["--config", args.config, "--data", str(args.data), "--out", str(args.out)]
        command += ["--until", f"{time.time() + seconds - MARGIN:.0f}"]
    return [*command, "--json", str(record)]


def run(command: list[str], seconds: float, log: BinaryIO) -> dict:
    """Run a command, end it with all its processes when its time is up, and say how it went."""
    log.write(f"== {' '.join(command)}\n".encode())
    log.flush()
    begin, timed_out = time.monotonic(), False
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        # Thousands of steps would each write a line of a progress bar into the log.
        env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        # Also what a step that ended by itself has left behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return {
        "command": command,
        "exit": process.wait(),
        "timed_out": timed_out,
        "seconds": round(time.monotonic() - begin, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9, help="for everything")
    parser.add_argument("--config", default="tiny", help="what to train: a run's name, or a file")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    args.data, args.out = args.data.resolve(), args.out.resolve()
    if Path(args.config).exists():
        args.config = str(Path(args.config).resolve())
    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    with tempfile.TemporaryDirectory() as scratch, open(args.out / "log.txt", "wb") as log:
        for name in args.steps:
            record = Path(scratch) / f"{name}.json"
            seconds = min(STEPS[name][0], end - time.monotonic())
            result = run(command_of(name, args, seconds, record), seconds, log)
            results[name] = result
            with suppress(FileNotFoundError, ValueError):  # not begun, or ended while writing
                result["record"] = json.loads(record.read_text(encoding="utf-8"))
            text = json.dumps(results, indent=1) + "\n"
            (args.out / "results.json").write_text(text, encoding="utf-8")
            ended = "out of time" if result["timed_out"] else f"exit {result['exit']}"
            print(f"{name}: {ended} after {result['seconds']} s", flush=True)
            if result["exit"]:
                output = (args.out / "log.txt").read_bytes()[-SHOWN:]
                print(output.decode(errors="replace"), flush=True)
    sys.exit(any(result["exit"] for result in results.values()))


if __name__ == "__main__":
    main()
