"""Generated tokens per second against the batch size, on a GPU where there is one.

    PYTHONPATH=. .venv/bin/python benchmarks/throughput.py [--precision half] [--batches 1 2 4 ...]

Random weights of the released shape, prompts of 4,096 tokens with 1,024 latents. All batch sizes
take turns, round by round; a step includes the draw (top-p 0.95) and, at the end of a round, the
wait for the GPU. On CUDA also batch 1 without a recorded graph, which shows what Python costs.
"""

import argparse
import statistics
import time

import torch

from tinyperceiver import PRESETS, PerceiverAR
from tinyperceiver.decoding import PRECISIONS, Decoder
from tinyperceiver.sampling import choose_tokens

PROMPT, LATENTS, STEPS = 4096, 1024, 32


@torch.inference_mode()
def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=PRECISIONS, default="half")
    batches = [1, 4, 16, 32, 64, 128, 256] if on_gpu else [1, 2, 4, 8, 16]
    parser.add_argument("--batches", type=int, nargs="+", default=batches)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = "cuda" if on_gpu else "cpu"
    torch.manual_seed(0)
    model = PerceiverAR(PRESETS["released"]).to(device)
    most = PROMPT + (arguments.rounds + 1) * STEPS

    def start(batch_size: int, is_static: bool | None = None) -> tuple[Decoder, torch.Tensor]:
        decoder = Decoder(
            model,
            batch_size=batch_size,
            max_len=most,
            precision=arguments.precision,
            is_static=is_static,
        )
        prompt = torch.randint(0, 388, (batch_size, PROMPT), device=device)
        return decoder, decoder.read(prompt, PROMPT - LATENTS).clone()

    def tokens_per_second(decoder: Decoder, logits: torch.Tensor) -> float:
        begin = time.perf_counter()
        for _ in range(STEPS):
            token = choose_tokens(logits, do_sample=True, top_p=0.95)
            logits = decoder.step(token)
        if on_gpu:
            torch.cuda.synchronize()
        return STEPS * decoder.batch_size / (time.perf_counter() - begin)

    sides = {f"batch {size}": start(size) for size in arguments.batches}
    if on_gpu:
        sides["batch 1, no graph"] = start(1, is_static=False)
    rates = {name: [] for name in sides}
    for _ in range(arguments.rounds + 1):
        for name, side in sides.items():
            rates[name].append(tokens_per_second(*side))
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"{arguments.precision} on {where}, median of {arguments.rounds} rounds in turn")
    medians = {name: statistics.median(rate[1:]) for name, rate in rates.items()}
    for name, rate in medians.items():
        best = ", the most" if rate == max(medians.values()) else ""
        print(f"  {name:18} {rate:9,.1f} tokens/s{best}")
    if on_gpu:
        print(f"  peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
