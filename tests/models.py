"""A small model and what it is tried with, for the tests of decoding and of generation."""

from dataclasses import replace

import pytest
import torch

from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR

SMALL = PerceiverConfig(
    vocab_size=40,
    max_seq_len=12,
    max_latents=4,
    num_channels=16,
    num_heads=2,
    num_self_attention_layers=2,
    init_scale=0.5,
)

# For what must be the same on both.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def small_model(**changes) -> PerceiverAR:
    torch.manual_seed(0)
    return PerceiverAR(replace(SMALL, **changes)).eval()


def random_tokens(*shape: int, vocab_size: int = 40) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))


def left_pads(counts: list[int], n: int) -> torch.Tensor:
    return torch.arange(n)[None] < torch.tensor(counts)[:, None]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.inference_mode()
def cached_and_decoded(engine, model, tokens, n, prefix_len, pads=None, **options):
    """Logits of the model with its cache and of a decoder, along the same tokens."""
    decoder = engine(model, batch_size=len(tokens), **options)
    cache = model.make_cache()
    expected = [model(tokens[:, :n], prefix_len, pads, cache=cache)[:, -1]]
    found = [decoder.read(tokens[:, :n], prefix_len, pads)]
    for place in range(n, tokens.size(1)):
        expected.append(model(tokens[:, place : place + 1], 0, cache=cache)[:, -1])
        # A recorded graph writes each step's logits into the same memory.
        found.append(decoder.step(tokens[:, place]).clone())
    return torch.stack(expected, dim=1), torch.stack(found, dim=1)
