"""How fast music is written beside busy neighbours, against an idle machine.

    PYTHONPATH=. .venv/bin/python benchmarks/busy.py [--neighbours N] [--precisions P [P ...]]

The model that ships, and random weights of the released shape (134.8 M parameters). From a prompt
of 512 tokens, 64 of them latents, it streams tokens in turns: alone, and beside processes that
compute without a pause, one for each core. Tokens per second are those of all the tokens after the
first, and the median of the rounds is printed. Beside as many neighbours as cores, half of the idle
speed is a fair part. `GOMP_SPINCOUNT=300000` in front of the command gives what PyTorch does
where nobody sets this variable. Takes about two minutes for each precision on two cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tinyperceiver import PRESETS, PerceiverAR

import torch  # isort: skip  # after tinyperceiver, which sets GOMP_SPINCOUNT for it

PROMPT, LATENTS = 512, 64
ROUNDS = 3


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Keep `count` processes computing for as long as the block lasts."""
    command = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def tokens_per_second(model: PerceiverAR, precision: str, count: int) -> float:
    """Speed of the `count` tokens after the first, which comes with the prompt's time."""
    prompt = torch.randint(388, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": count + 1, "num_latents": LATENTS, "precision": precision}
    stream = model.stream(prompt, **options)
    next(stream)
    begin = time.perf_counter()
    for _ in stream:
        pass
    return count / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--neighbours", type=int, default=os.cpu_count(), help="busy processes")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    models = {
        "tiny": (PerceiverAR.from_pretrained("tiny"), 256),
        "released shape": (PerceiverAR(PRESETS["released"]).eval(), 32),
    }
    print(
        f"GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT')}, {torch.get_num_threads()} threads, "
        f"{arguments.neighbours} busy neighbours; tokens per second, median of {ROUNDS}"
    )
    for name, (model, count) in models.items():
        for precision in arguments.precisions:
            tokens_per_second(model, precision, 8)  # the first one warms up
            idle, busy = [], []
            for _ in range(ROUNDS):
                idle.append(tokens_per_second(model, precision, count))
                with busy_neighbours(arguments.neighbours):
                    busy.append(tokens_per_second(model, precision, count))
            alone, beside = statistics.median(idle), statistics.median(busy)
            print(
                f"{name:15} {precision:8} idle {alone:6.1f}, busy {beside:6.1f}, "
                f"ratio {beside / alone:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
