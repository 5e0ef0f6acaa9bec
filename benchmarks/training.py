"""Training tokens per second on a CPU, ours against the peer's, in one run.

    PYTHONPATH=. peer/bin/python benchmarks/training.py [ROUNDS]

4.8 million parameters, window 1,024, 512 latents, 8 windows a step: forward, loss, backward,
clipping and AdamW. `peer` is an environment that holds perceiver-io 0.11 (benchmarks/README.md),
which trains in float32. The three take turns, step by step, so that a busy machine slows all
alike. First without dropout, then with that of the released model, 0.1 everywhere.
"""

import statistics
import sys
import time

import torch
from perceiver.model.audio.symbolic import SymbolicAudioModel, SymbolicAudioModelConfig
from torch.nn.functional import cross_entropy

from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR

B, M, L = 8, 512, 512
SHAPE = {
    "max_seq_len": M + L,
    "max_latents": L,
    "num_channels": 256,
    "num_heads": 4,
    "num_self_attention_layers": 5,
}
PEER_EXTRA = {
    "vocab_size": 389,
    "output_norm": True,
    "output_bias": False,
    "abs_pos_emb": False,
    "activation_checkpointing": False,
    "init_scale": 0.02,
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    torch.set_num_threads(2)
    for share in (0.0, 0.1):
        compare(share, rounds)


def compare(share: float, rounds: int) -> None:
    dropout = {
        "cross_attention_dropout": share,
        "post_attention_dropout": share,
        "residual_dropout": share,
    }
    torch.manual_seed(0)
    peer = SymbolicAudioModel(SymbolicAudioModelConfig(**SHAPE, **dropout, **PEER_EXTRA))
    ours = PerceiverAR(PerceiverConfig(**SHAPE, **dropout))
    tokens = torch.randint(0, 388, (B, M + L + 1))

    def peer_logits(inputs):
        return peer(inputs, prefix_len=M).logits

    def our_logits(inputs):
        return ours(inputs, M)

    def our_bfloat16_logits(inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ours(inputs, M).float()

    sides = {
        "perceiver-io, float32": (peer.train(), peer_logits),
        "tinyperceiver, float32": (ours.train(), our_logits),
        "tinyperceiver, bfloat16": (ours, our_bfloat16_logits),
    }
    optimizers = {
        model: torch.optim.AdamW(model.parameters(), lr=1e-6, fused=model is ours)
        for model in (peer, ours)
    }

    def seconds_of(model, logits_of) -> float:
        begin = time.perf_counter()
        logits = logits_of(tokens[:, :-1])
        cross_entropy(logits.flatten(0, 1), tokens[:, -L:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizers[model].step()
        optimizers[model].zero_grad()
        return time.perf_counter() - begin

    times = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            times[name].append(seconds_of(*side))
    print(f"{ours.num_parameters:,} parameters, dropout {share}, median of {rounds} rounds in turn")
    first = next(iter(times.values()))[1:]
    for name, all_seconds in times.items():
        seconds = all_seconds[1:]
        ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
        print(f"  {name:24} {B * L / statistics.median(seconds):6,.0f} tokens/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
