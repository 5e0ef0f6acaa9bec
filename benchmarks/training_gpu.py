"""Training on a GPU: share of the card's matrix peak, tokens per second, and memory.

    PYTHONPATH=. .venv/bin/python benchmarks/training_gpu.py [--preset released] [--json FILE]

The published configuration: windows of 4,096 prefix and 2,048 latent tokens, prefix dropout and
dropout as published, forward, loss, backward, clipping and AdamW. Products have 16 bits
(bf16-mixed), or are those of 32-true in TF32, which is what to take on a GPU that has it. First the
card's peak is measured, as the fastest of several large products of that kind. Then more and more
windows are computed together until memory is full: plainly, with the layers compiled, with
activation checkpointing, and with both. Each row gives the step's time (median), tokens per second,
the share of the peak, and the peak of memory. Operations are counted as the products that the
model's equations need: a causal matrix of scores counts half, recomputed activations count once.

`--device cpu --preset tiny --rows 1 --modes plain` tries the script out where there is no GPU.
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from tinyperceiver.dataset.windows import Batch
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.training.config import RUNS
from tinyperceiver.training.devices import (
    checkpoint_activations_of as checkpoint_activations,
)
from tinyperceiver.training.step import make_optimizers, sum_of_losses

MODES = {  # name -> are activations checkpointed, and are layers compiled?
    "plain": (False, False),
    "compiled": (False, True),
    "checkpointed": (True, False),
    "both": (True, True),
}
DTYPES = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32}  # of products


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


def seconds_of(work, device: str, times: int) -> float:
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


def matrix_peak(dtype: torch.dtype, device: str, times: int) -> float:
    """Operations per second of the fastest product."""
    best = 0.0
    for size in (4096, 8192, 16384) if device == "cuda" else (1024, 2048):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        best = max(best, 2 * size**3 / seconds_of(lambda a=a, b=b: a @ b, device, times))
    return best


def measure(
    config: PerceiverConfig, rows: int, mode: str, precision: str, device: str, times: int
) -> tuple[float, int]:
    """Seconds of a step, and the peak of memory in bytes (0 where it is not counted)."""
    checkpointed, compiled = MODES[mode]
    # Code compiled for the rows before counts against the number that PyTorch will compile.
    torch.compiler.reset()
    torch.manual_seed(0)
    with torch.device(device):
        model = PerceiverAR(config).train()
    if checkpointed:
        checkpoint_activations(model)
    if compiled:
        for layer in model.layers:
            layer.compile()
    (optimizer,) = make_optimizers(model, RUNS["released"])
    n, l = config.max_seq_len, config.max_latents
    tokens = torch.randint(0, 388, (rows, n + 1), device=device)
    batch = Batch(tokens[:, :-1], tokens[:, -l:], None, n - l)

    def step() -> None:
        mixed = torch.autocast(device, dtype=torch.bfloat16)
        with mixed if precision == "bf16-mixed" else nullcontext():
            loss = sum_of_losses(model, batch)
        (loss / batch.targets.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(step, device, times)
    return seconds, torch.cuda.max_memory_allocated() if device == "cuda" else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="released", choices=PRESETS)
    parser.add_argument("--precision", default="bf16-mixed", choices=DTYPES)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24, 32, 48, 64])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--times", type=int, default=5, help="steps whose median is taken")
    parser.add_argument("--json", type=Path, help="write the results there, too, row by row")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu only tries the script out")
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU that has it
    config = PRESETS[args.preset]
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    peak = matrix_peak(DTYPES[args.precision], args.device, args.times)
    results = {
        "preset": args.preset,
        "precision": args.precision,
        "device": name,
        "torch": torch.__version__,
        "peak_operations_per_second": peak,
        "rows": [],
    }
    print(f"{name}, PyTorch {torch.__version__}: {peak / 1e12:.1f} T operations/s at best")
    print("mode         rows    ms/step   tokens/s  of peak  memory GiB")
    for mode in args.modes:
        for rows in args.rows:
            row = {"mode": mode, "rows": rows}
            try:
                seconds, memory = measure(
                    config, rows, mode, args.precision, args.device, args.times
                )
            except torch.cuda.OutOfMemoryError:
                row |= {"out_of_memory": True}
                print(f"{mode:12} {rows:4}    out of memory", flush=True)
            else:
                row |= {
                    "ms_per_step": 1000 * seconds,
                    "tokens_per_second": rows * config.max_latents / seconds,
                    "share_of_peak": operations_of(config, rows) / seconds / peak,
                    "memory_gib": memory / 2**30,
                }
                print(
                    f"{mode:12} {rows:4} {row['ms_per_step']:10.1f} "
                    f"{row['tokens_per_second']:10,.0f} {row['share_of_peak']:8.1%} "
                    f"{row['memory_gib']:8.1f}",
                    flush=True,
                )
            results["rows"].append(row)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
            if "out_of_memory" in row:
                break


if __name__ == "__main__":
    main()
