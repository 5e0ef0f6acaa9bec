"""Time of `import tinyperceiver` against `import torch`, each in a fresh process, in turn.

PYTHONPATH=. .venv/bin/python benchmarks/import_time.py
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 9


def seconds_of(module: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - begin


def main() -> None:
    ratios = []
    for _ in range(ROUNDS):
        torch, ours = seconds_of("torch"), seconds_of("tinyperceiver")
        ratios.append(ours / torch)
    print(f"import tinyperceiver / import torch: {statistics.median(ratios):.2f} (of {ROUNDS})")


if __name__ == "__main__":
    main()
