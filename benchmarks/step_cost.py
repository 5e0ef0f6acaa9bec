"""Cost of a generated token after 10 and after 5,000 of them, at a full window of 6,144.

    PYTHONPATH=. .venv/bin/python benchmarks/step_cost.py [STEPS]

Random weights of the released shape, float32. Twice: with the window full from the start, where
every step should cost the same; and from a prompt of 4,096 tokens with one latent, where a step
first pays for ever more latents, up to 2,048. Takes about ten minutes.
"""

import resource
import statistics
import sys
import time

import torch

from tinyperceiver import PRESETS, PerceiverAR


@torch.inference_mode()
def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    torch.manual_seed(0)
    model = PerceiverAR(PRESETS["released"]).eval()
    for n, num_latents in ((6144, 2048), (4096, 1)):
        prompt = torch.randint(0, 388, (1, n))
        cache = model.make_cache()
        model(prompt, n - num_latents, cache=cache)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = []
        for _ in range(steps + 20):
            token = torch.randint(0, 388, (1, 1))
            begin = time.perf_counter()
            model(token, 0, cache=cache)
            seconds.append(time.perf_counter() - begin)
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        early, late = (1000 * statistics.median(seconds[s - 5 : s + 15]) for s in (10, steps))
        print(
            f"prompt {n}, {num_latents} latents: step 10 {early:.1f} ms, step {steps} {late:.1f} ms"
        )
        print(f"  ratio {late / early:.2f}; peak memory grew by {growth / 1024:.1f} MiB in between")


if __name__ == "__main__":
    main()
