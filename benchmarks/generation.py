"""Time of a prompt and of a token, ours in every precision against the peer's, in one run.

    PYTHONPATH=. peer/bin/python benchmarks/generation.py [--rounds N] [--json FILE]

Random weights of the released shape, 134.8 M parameters, batch 1, a prompt of 4,096 tokens, two
threads; from 1 latent and from 1,024. A token's time is a run of 65 tokens less a run of one, over
64; all sides take turns, round by round, so that a busy machine slows all alike. Then 512 tokens of
each side at once, prompt included, and whether greedy tokens in float32 are the peer's. The floor
is what must be read for a token (weights, keys and values, 32 tokens on) over the bandwidth of a
sum of 540 MB, measured in the same run. `peer` is described in benchmarks/README.md. Takes about
fifteen minutes and 6 GB.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from same_as_peer import make_peer

from tinyperceiver import PerceiverAR
from tinyperceiver.decoding import PRECISIONS

PROMPT, NEW, LONG = 4096, 64, 512
BITS = {"float32": 32, "half": 16, "int8": 8}


def seconds_of(call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def bandwidth() -> float:
    """Bytes a second of a sum over 540 MB, more than any cache holds; the best of 10."""
    data = torch.ones(135_000_000)
    return data.nbytes / min(seconds_of(data.sum) for _ in range(10))


def floor_bytes(model: PerceiverAR, precision: str, num_latents: int) -> float:
    """Bytes that a step must read, half-way through the tokens that are timed."""
    config = model.config
    held = PROMPT + NEW // 2
    latents = min(num_latents + NEW // 2, config.max_latents)
    places = held + config.num_self_attention_layers * latents
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    return matrices * BITS[precision] / 8 + places * config.num_channels * 2 * 4


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results there, too")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        peer = make_peer(Path(name), scale=0.06)  # as initialised it says one token for ever
        model = PerceiverAR.from_pretrained(name)
    prompt = torch.randint(0, 388, (1, PROMPT), generator=torch.Generator().manual_seed(1))

    def continue_by(side: str, num_latents: int, new: int) -> torch.Tensor:
        options = {"max_new_tokens": new, "num_latents": num_latents, "do_sample": False}
        if side == "peer":
            return peer.generate(prompt, **options)
        return model.generate(prompt, precision=side, **options)

    results = {"bandwidth_gb_s": bandwidth() / 1e9, "rounds": arguments.rounds}
    print(f"bandwidth {results['bandwidth_gb_s']:.1f} GB/s")
    differ = False
    for num_latents in (1, 1024):
        times = {side: [] for side in ("peer", *PRECISIONS)}
        for _ in range(arguments.rounds + 1):
            for side, measured in times.items():
                one, many = (
                    seconds_of(lambda: continue_by(side, num_latents, new))  # noqa: B023
                    for new in (1, 1 + NEW)
                )
                measured.append((one, (many - one) / NEW))
        texts, totals = {}, {}
        for side in times:
            begin = time.perf_counter()
            texts[side] = continue_by(side, num_latents, LONG)
            totals[side] = time.perf_counter() - begin
        same = bool((texts["peer"] == texts["float32"]).all())
        differ |= not same
        distinct = len(texts["peer"][0, PROMPT:].unique())
        print(
            f"from {num_latents} latents; {LONG} greedy tokens ({distinct} different) in float32 "
        )
        print(f"  {'equal' if same else 'DIFFER'}")
        rows = results[f"latents_{num_latents}"] = {"greedy_equal": same}
        for side, measured in times.items():
            pairs = list(zip(measured[1:], times["peer"][1:], strict=True))  # the first warms up
            prompt_time, step = (statistics.median(m[i] for m, _ in pairs) for i in (0, 1))
            ratios = [statistics.median(p[i] / m[i] for m, p in pairs) for i in (0, 1)]
            row = {
                "prompt_seconds": prompt_time,
                "prompt_ratio": ratios[0],
                "token_ms": 1000 * step,
                "tokens_per_second": 1 / step,
                "token_ratio": ratios[1],
                "tokens_per_second_with_prompt": LONG / totals[side],
                "with_prompt_ratio": totals["peer"] / totals[side],
            }
            line = (
                f"  {side:8} prompt {prompt_time:.2f} s (ratio {ratios[0]:.2f}), token "
                f"{1000 * step:.1f} ms, {1 / step:.1f}/s (ratio {ratios[1]:.2f}), {LONG} with the "
                f"prompt {LONG / totals[side]:.1f}/s"
            )
            if side in BITS:
                floor = floor_bytes(model, side, num_latents) / results["bandwidth_gb_s"] / 1e6
                row |= {"floor_ms": floor}
                line += f"; floor {floor:.1f} ms, {1000 * step / floor:.1f} times that"
            rows[side] = row
            print(line, flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit("the tokens differ" if differ else 0)


if __name__ == "__main__":
    main()
