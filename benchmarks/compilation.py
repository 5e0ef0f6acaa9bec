r"""What torch.compile brings to a step of decoding, in each precision.

    TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 PYTHONPATH=. .venv/bin/python benchmarks/compilation.py \
        [--rounds N] [--json FILE]

Random weights of the released shape, batch 1, a prompt of 1,024 tokens, all of them latents, two
threads. A compiled step needs fixed shapes, so it is the static one, whose rings have 1,088 places;
beside it stand the same step without compiler, and the default one. All take turns, round by round.
Prints medians, what the first compiled call took, and whether the logits agree. (Without the
variable a second run finds what the first has compiled.) Needs a C++ compiler, and about four
minutes.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from tinyperceiver import PerceiverAR
from tinyperceiver.decoding import PRECISIONS, Decoder
from tinyperceiver.model import PRESETS

PROMPT, PLACES = 1024, 1088


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path, help="write the results there, too")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = PerceiverAR(PRESETS["released"]).eval()
    prompt, token = torch.randint(388, (1, PROMPT)), torch.tensor([60])
    results = {"rounds": arguments.rounds}
    for precision in PRECISIONS:
        options = {"max_len": PLACES, "precision": precision}
        default = Decoder(model, **options)
        static = Decoder(model, is_static=True, **options)
        compiled = Decoder(model, is_static=True, **options)
        fast_step = torch.compile(compiled._step, dynamic=False)
        for decoder in (default, static, compiled):
            decoder.read(prompt, 0)
        begin = time.perf_counter()
        logits = fast_step(token)
        first_call = time.perf_counter() - begin
        apart = (logits - default.step(token)).abs().max().item()
        static.step(token)
        steps = {"default": default.step, "static": static.step, "compiled": fast_step}
        times = {name: [] for name in steps}
        for _ in range(arguments.rounds):
            for name, step in steps.items():
                begin = time.perf_counter()
                step(token)
                times[name].append(1000 * (time.perf_counter() - begin))
        ratio = statistics.median(
            a / b for a, b in zip(times["default"], times["compiled"], strict=True)
        )
        row = {f"{name}_ms": statistics.median(ms) for name, ms in times.items()}
        row |= {"ratio": ratio, "first_call_seconds": first_call, "logits_apart": apart}
        results[precision] = row
        print(
            f"{precision:8} default {row['default_ms']:.1f} ms, static {row['static_ms']:.1f}, "
            f"compiled {row['compiled_ms']:.1f} (ratio to the default {ratio:.2f}); first call "
            f"{first_call:.0f} s; logits {apart:.1e} apart",
            flush=True,
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
