"""Cost of a generated token after 10 and after 5,000 of them, at a full window of 6,144.

    PYTHONPATH=. .venv/bin/python benchmarks/step_cost.py [STEPS]

Random weights of the released shape, float32. Two runs of decoding start from the same full window
of 4,096 prefix tokens and 2,048 latents. One is taken 10 steps on, the other 5,000; then they take
turns, step by step, so that a busy machine slows both alike. Takes a few minutes and 2 GB.
"""

import resource
import statistics
import sys
import time

import torch

from tinyperceiver import PRESETS, PerceiverAR
from tinyperceiver.engines.onnx_engine import OnnxDecoder

ROUNDS = 100


@torch.inference_mode()
def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    torch.manual_seed(0)
    model = PerceiverAR(PRESETS["released"]).eval()
    config = model.config

    def start() -> OnnxDecoder:
        decoder = OnnxDecoder(model)
        prompt = torch.randint(0, 388, (1, config.max_seq_len))
        decoder.read(prompt, config.max_prefix_len)
        return decoder

    def step(decoder: OnnxDecoder) -> float:
        token = torch.randint(0, 388, (1,))
        begin = time.perf_counter()
        decoder.step(token)
        return 1000 * (time.perf_counter() - begin)

    early, late = start(), start()
    for _ in range(10):
        step(early), step(late)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(steps - 10):
        step(late)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    pairs = [(step(early), step(late)) for _ in range(ROUNDS)]
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"after 10 steps {medians[0]:.1f} ms, after {steps} {medians[1]:.1f} ms a token")
    print(f"ratio {ratio:.2f} (median of {ROUNDS}); peak memory grew by {growth:.1f} MiB")


if __name__ == "__main__":
    main()
