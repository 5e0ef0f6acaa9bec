"""Training on a GPU: share of the card's matrix peak, tokens per second, and memory.

    PYTHONPATH=. .venv/bin/python benchmarks/training_gpu.py [--preset released] [--device cuda]

The published configuration in bfloat16: windows of 4,096 prefix and 2,048 latent tokens, prefix
dropout and dropout as published, forward, loss, backward, clipping and AdamW. First the card's
peak is measured, as the fastest of several large bfloat16 products. Then more and more windows
are computed together until memory is full, with and without activation checkpointing; each row
gives the step's time (median), tokens per second, the share of the peak, and the peak of memory.
Operations are counted as the products that the model's equations need: a causal matrix of scores
counts half, recomputed activations count once.

`--device cpu --preset tiny --rows 1 2` tries the script out where there is no GPU.
"""

import argparse
import statistics
import time

import torch

from tinyperceiver.data import Batch
from tinyperceiver.model import PRESETS, PerceiverAR, PerceiverConfig
from tinyperceiver.training import RUNS, make_optimizer, sum_of_losses
from tinyperceiver.training import _checkpoint_activations as checkpoint_activations


def operations_of(config: PerceiverConfig, rows: int) -> float:
    """Of a step's products, forward and backward: multiplications and additions."""
    D, l, m = config.num_channels, config.max_latents, config.max_prefix_len
    m -= int(m * config.cross_attention_dropout)
    n = m + l
    hybrid = 4 * l * D**2 + 4 * n * D**2 + 4 * (m + l / 2) * l * D
    hybrid += 4 * config.cross_attention_widening_factor * l * D**2
    layer = 8 * l * D**2 + 4 * (l / 2) * l * D
    layer += 4 * config.self_attention_widening_factor * l * D**2
    logits = 2 * l * D * config.vocab_size
    return 3 * rows * (hybrid + config.num_self_attention_layers * layer + logits)


def seconds_of(work, device: str, times: int = 5) -> float:
    """Median of several runs, after two to warm up."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    taken = []
    for _ in range(times + 2):
        wait()
        begin = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[2:])


def matrix_peak(device: str) -> float:
    """Operations per second of the fastest bfloat16 product."""
    best = 0.0
    for size in (4096, 8192, 16384) if device == "cuda" else (1024, 2048):
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        best = max(best, 2 * size**3 / seconds_of(lambda a=a, b=b: a @ b, device))
    return best


def measure(config: PerceiverConfig, rows: int, device: str, checkpointed: bool, compiled: bool):
    """Seconds of a step, and the peak of memory in bytes (0 where it is not counted)."""
    torch.manual_seed(0)
    model = PerceiverAR(config).to(device).train()
    if checkpointed:
        checkpoint_activations(model)
    if compiled:
        for layer in model.layers:
            layer.compile()
    optimizer = make_optimizer(model, RUNS["released"])
    n, l = config.max_seq_len, config.max_latents
    tokens = torch.randint(0, 388, (rows, n + 1), device=device)
    batch = Batch(tokens[:, :-1], tokens[:, -l:], None, n - l)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = sum_of_losses(model, batch)
        (loss / batch.targets.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(step, device)
    return seconds, torch.cuda.max_memory_allocated() if device == "cuda" else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="released", choices=PRESETS)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24, 32, 48, 64])
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu only tries the script out")
    config = PRESETS[args.preset]
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    peak = matrix_peak(args.device)
    print(f"{name}, PyTorch {torch.__version__}: {peak / 1e12:.1f} T operations/s at best")
    print("checkpointed compiled rows    ms/step   tokens/s  of peak  memory GiB")
    for checkpointed in (False, True):
        for compiled in (False, True):
            for rows in args.rows:
                try:
                    seconds, memory = measure(config, rows, args.device, checkpointed, compiled)
                except torch.cuda.OutOfMemoryError:
                    print(f"{checkpointed!s:12} {compiled!s:8} {rows:4}    out of memory")
                    break
                share = operations_of(config, rows) / seconds / peak
                print(
                    f"{checkpointed!s:12} {compiled!s:8} {rows:4} {1000 * seconds:10.1f} "
                    f"{rows * config.max_latents / seconds:10,.0f} {share:8.1%} "
                    f"{memory / 2**30:8.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
