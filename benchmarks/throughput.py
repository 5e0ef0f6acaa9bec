"""Time of a prompt and of a token, and tokens per second of many rows; on a GPU if there is one.

    PYTHONPATH=. .venv/bin/python benchmarks/throughput.py [--json FILE] [--batches 1 4 16 ...]

Random weights of the released shape, prompts of 4,096 tokens. First one row, from 1 latent and from
1,024: the prompt's time until its logits are there, and a token's, the mean of 32 that follow, in
each precision, on a GPU also in float32 with products in TF32, and each with a recorded graph and
without: then Python starts every operation, and waits in every layer to learn how much is held. All
sides take turns, round by round. Then more and more rows together, from 1,024 latents, until memory
is full. Each number is the median of the rounds, after one to warm up; a step includes the draw
(top-p 0.95) and, at the end of a round, the wait for the GPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tinyperceiver.engines.torch_engine import TorchDecoder
from tinyperceiver.generation.sampling import choose_tokens
from tinyperceiver.model.config import PRESETS
from tinyperceiver.model.perceiver_ar import PerceiverAR


@torch.inference_mode()
def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="released", choices=PRESETS)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", choices=("cuda", "cpu"))
    batches = [1, 4, 16, 32, 64, 128, 256] if on_gpu else [1, 2, 4, 8, 16]
    parser.add_argument("--batches", type=int, nargs="+", default=batches)
    parser.add_argument("--precision", default="half", help="of many rows")
    parser.add_argument("--prompt", type=int, default=4096, help="tokens")
    parser.add_argument("--latents", type=int, nargs="+", default=[1, 1024])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results there, too, row by row")
    args = parser.parse_args()
    is_cuda = args.device == "cuda"
    torch.manual_seed(0)
    with torch.device(args.device):
        model = PerceiverAR(PRESETS[args.preset])
        prompts = torch.randint(0, 388, (max(args.batches), args.prompt))
    where = torch.cuda.get_device_name() if is_cuda else f"{torch.get_num_threads()} threads"
    print(f"{where}, PyTorch {torch.__version__}, median of {args.rounds} rounds", flush=True)
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    results = {"settings": settings, "device": where, "torch": torch.__version__}
    results |= {"one_row": [], "many_rows": []}

    def add(part: str, row: dict, line: str) -> None:
        results[part].append(row)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")
        print(f"  {line}", flush=True)

    def make_decoder(rows: int, precision: str, is_static: bool, rounds: int = 1) -> TorchDecoder:
        """With room for a prompt and so many rounds of steps."""
        return TorchDecoder(
            model,
            batch_size=rows,
            max_len=args.prompt + rounds * args.steps,
            precision=precision,
            is_static=is_static,
        )

    def seconds_of(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Time of `work`, with what the device still does after the call; its result."""
        begin = time.perf_counter()
        result = work()
        if is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin, result

    def continue_from(decoder: TorchDecoder, logits: Tensor) -> Tensor:
        for _ in range(args.steps):
            logits = decoder.step(choose_tokens(logits, do_sample=True, top_p=0.95))
        return logits

    def measure_one_row() -> None:
        sides = {}  # name -> decoder, and the precision of products in float32
        for is_static in (True, False) if is_cuda else (False,):
            ending = ", graph" if is_static else ""
            for precision in ("float32", "half"):
                decoder = make_decoder(1, precision, is_static)
                sides[precision + ending] = decoder, "highest"
            if is_cuda:
                sides["TF32" + ending] = make_decoder(1, "float32", is_static), "high"
        for latents in args.latents:
            times = {name: [] for name in sides}
            for _ in range(args.rounds + 1):
                for name, (decoder, products) in sides.items():
                    torch.set_float32_matmul_precision(products)
                    read = partial(decoder.read, prompts[:1], args.prompt - latents)
                    prompt, logits = seconds_of(read)
                    steps, _ = seconds_of(partial(continue_from, decoder, logits))
                    times[name].append((1000 * prompt, 1000 * steps / args.steps))
            for name, measured in times.items():
                columns = zip(*measured[1:], strict=True)
                prompt, token = (statistics.median(column) for column in columns)
                row = {"side": name, "latents": latents, "prompt_ms": prompt, "token_ms": token}
                line = f"{name:14} from {latents:4} latents: prompt {prompt:8.1f} ms, "
                add("one_row", row, line + f"token {token:.3f} ms")
        torch.set_float32_matmul_precision("highest")

    def rate_of(rows: int) -> float:
        """Tokens per second of so many rows together."""
        decoder = make_decoder(rows, args.precision, is_cuda, args.rounds + 1)
        logits = decoder.read(prompts[:rows], args.prompt - args.latents[-1])
        rates = []
        for _ in range(args.rounds + 1):
            seconds, logits = seconds_of(partial(continue_from, decoder, logits))
            rates.append(rows * args.steps / seconds)
        return statistics.median(rates[1:])

    measure_one_row()
    for rows in args.batches:
        if is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            rate = rate_of(rows)
        except torch.cuda.OutOfMemoryError:
            add("many_rows", {"rows": rows, "out_of_memory": True}, f"{rows:4} rows: out of memory")
            break
        row, line = (
            {"rows": rows, "tokens_per_second": rate},
            f"{rows:4} rows: {rate:9,.1f} tokens/s",
        )
        if is_cuda:
            row["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            line += f", peak memory {row['memory_gib']:.1f} GiB"
        add("many_rows", row, line)


if __name__ == "__main__":
    main()
