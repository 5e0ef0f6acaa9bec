"""Held-out nats per token of the shipped checkpoint in every precision.

    PYTHONPATH=. .venv/bin/python benchmarks/precision.py VALID.bin [--windows N] [--json FILE]

VALID.bin is what `tinyperceiver prepare` wrote of recordings that the checkpoint was not trained
on. Evenly spread windows: each is read up to its middle as a prompt of `generate` would be, and the
rest is taken in token by token, with one row, so that both the products of a prompt and those of a
step are judged. Takes about ten minutes for 64 windows.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from tinyperceiver import PerceiverAR, TokenFile
from tinyperceiver.dataset.windows import fixed_windows
from tinyperceiver.engines.onnx_engine import CPU_PRECISIONS, OnnxDecoder

STEPS = 512  # tokens after each prompt


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the results there, too")
    arguments = parser.parse_args()
    model = PerceiverAR.from_pretrained("tiny")
    config = model.config
    n = config.max_seq_len - STEPS
    windows = fixed_windows(
        TokenFile(arguments.data), arguments.windows, config.max_prefix_len, config.max_latents
    )
    nats = {}
    for precision in CPU_PRECISIONS:
        decoder = OnnxDecoder(model, precision=precision)
        losses = []
        for tokens, targets in zip(windows.tokens, windows.targets, strict=True):
            logits = [decoder.read(tokens[None, :n], config.max_prefix_len)]
            logits += [decoder.step(tokens[place : place + 1]) for place in range(n, n + STEPS - 1)]
            losses.append(cross_entropy(torch.cat(logits), targets[-STEPS - 1 : -1]).item())
        nats[precision] = sum(losses) / len(losses)
        change = 100 * (nats[precision] / nats["float32"] - 1)
        print(f"{precision:8} {nats[precision]:.5f} nats per token, {change:+.3f} %", flush=True)
    if arguments.json:
        results = {"windows": arguments.windows, "tokens_a_window": STEPS, **nats}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
