"""Time of a prompt and of a token, ours in every precision against the peer's, in one run.

    PYTHONPATH=. peer/bin/python benchmarks/generation.py [--rounds N] [--json FILE]

Random weights of the released shape, 134.8 M parameters, batch 1, a prompt of 4,096 tokens, two
threads; from 1 latent and from 1,024. The prompt's time ends with the first token; a token's is the
median of the 64 that follow. All sides take turns, round by round, so that a busy machine slows all
alike. Then 512 tokens of each side at once, prompt included, and whether greedy tokens in float32
are the peer's. Where they part, float64 decides between the two: ours must not have the lower
logit. The floor is what must be read for a token (weights, keys and values, 32 tokens on) over the
bandwidth of a sum of 540 MB, measured in every round (median of rounds). On a machine with slow
memory the floor is higher, and what a token takes beyond it is taken to be the same. Ends with an
error if a ratio misses its target. `peer` is described in benchmarks/README.md. Takes about four
minutes and 6 GB.
"""

import argparse
import copy
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from same_as_peer import make_peer

from tinyperceiver import PerceiverAR
from tinyperceiver.engines.onnx_engine import CPU_PRECISIONS
from tinyperceiver.engines.onnx_graph import Graph

PROMPT, NEW, LONG = 4096, 64, 512
# At least so many times as fast as the peer: a token, and a prompt from 1,024 latents.
TARGETS = {"float32": (2.0, 1.2), "int8": (4.0, 2.2), "int4": (5.0, 2.2)}
REAL_TIME = 36.7  # tokens a second of music
SLOW = 12e9  # bytes a second of a slow memory


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
    graph = Graph(model, CPU_PRECISIONS[precision])
    weights = sum(array.nbytes for array in graph.weights.values())
    return weights + places * config.num_channels * 2 * 4


def compare(model: PerceiverAR, ours: torch.Tensor, theirs: torch.Tensor, num_latents: int) -> dict:
    """Where two greedy texts, (n), part, and the logits of both choices in float64."""
    apart = (ours != theirs).nonzero()
    if not len(apart):
        return {"equal": True}
    place = int(apart[0])
    exact = copy.deepcopy(model).double()
    logits = exact(ours[None, :place], prefix_len=PROMPT - num_latents)[0, -1]
    return {
        "equal": False,
        "first_apart": place - PROMPT,
        "ours_in_float64": logits[ours[place]].item(),
        "theirs_in_float64": logits[theirs[place]].item(),
    }


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

    def timed(side: str, num_latents: int) -> tuple[float, float]:
        """Seconds of the prompt, with the first token, and of a later token."""
        begin, times = time.perf_counter(), []
        if side == "peer":
            hook = peer.register_forward_hook(lambda *_: times.append(time.perf_counter()))
            continue_by(side, num_latents, 1 + NEW)
            hook.remove()
        else:
            options = {"max_new_tokens": 1 + NEW, "num_latents": num_latents}
            for _ in model.stream(prompt, precision=side, **options):
                times.append(time.perf_counter())
        assert len(times) == 1 + NEW
        return times[0] - begin, statistics.median(b - a for a, b in itertools.pairwise(times))

    results = {"rounds": arguments.rounds}
    worse, missed, fastest = False, False, 0.0
    for num_latents in (1, 1024):
        times = {side: [] for side in ("peer", *CPU_PRECISIONS)}
        rates = []
        for _ in range(arguments.rounds + 1):
            rates.append(bandwidth())
            for side, measured in times.items():
                measured.append(timed(side, num_latents))
        texts, totals = {}, {}
        for side in times:
            begin = time.perf_counter()
            texts[side] = continue_by(side, num_latents, LONG)
            totals[side] = time.perf_counter() - begin
        greedy = compare(model, texts["float32"][0], texts["peer"][0], num_latents)
        distinct = len(texts["peer"][0, PROMPT:].unique())
        print(
            f"from {num_latents} latents; {LONG} greedy tokens ({distinct} different) in float32:"
        )
        if greedy["equal"]:
            print("  equal")
        else:
            values = [greedy[f"{side}_in_float64"] for side in ("ours", "theirs")]
            worse |= values[0] < values[1]
            print(
                f"  {greedy['first_apart']} equal, then a logit in float64 of {values[0]:.6f} for "
                f"our token and {values[1]:.6f} for the peer's"
            )
        rate = statistics.median(rates) / 1e9
        print(f"  bandwidth {rate:.1f} GB/s")
        rows = results[f"latents_{num_latents}"] = {"greedy": greedy, "bandwidth_gb_s": rate}
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
            if side in CPU_PRECISIONS:
                least = floor_bytes(model, side, num_latents)
                floor = 1000 * least / (1e9 * rate)
                slow = 1 / (step - floor / 1000 + least / SLOW)
                row |= {"floor_ms": floor, "tokens_per_second_at_12_gb_s": slow}
                line += (
                    f"; floor {floor:.1f} ms, {1000 * step / floor:.1f} times that; with memory of "
                    f"{SLOW / 1e9:.0f} GB/s {slow:.1f}/s"
                )
                token_target, prompt_target = TARGETS[side]
                missed |= ratios[0] < 1 or ratios[1] < token_target
                if num_latents > 1:
                    missed |= ratios[0] < prompt_target
                    fastest = max(fastest, slow)
            rows[side] = row
            print(line, flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if worse:
        sys.exit("float64 prefers a token of the peer")
    if missed or fastest < REAL_TIME:
        sys.exit(
            f"slower than wanted: {TARGETS}, and {REAL_TIME} tokens/s at {SLOW / 1e9:.0f} GB/s"
        )


if __name__ == "__main__":
    main()
