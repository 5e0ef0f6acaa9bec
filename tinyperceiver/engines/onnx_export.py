"""Write a model as one ONNX file, and check the file against PyTorch."""

import copy
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinyperceiver.engines.onnx_graph import Graph
from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.files.whole import whole_file
from tinyperceiver.model.perceiver_ar import PerceiverAR

__all__ = ["ExportError", "export_onnx"]

LARGEST = 2**31 - 1  # bytes that a file in this format may have
# How far logits may be from PyTorch's, relative to their size. A wrong graph is off by
# more than 1. What fewer bits cost depends on the model.
TOLERANCE = {32: 1e-3, 16: 0.02, 8: 0.1, 4: 0.8}


class ExportError(TinyperceiverError, ValueError):
    """Raised if a model cannot be written as one file; says why, and what to do."""


def export_onnx(
    model: PerceiverAR,
    path: str | os.PathLike[str],
    bits: int = 32,
    attention_weights: bool = False,
) -> None:
    """Write a model as one ONNX file, which ONNX Runtime plays without this package.

    Before the file is written its graph is run for a few tokens, by ONNX Runtime, and
    compared with the model.

    Args:
        model: any `PerceiverAR`: own, converted or trained.
        path: file to write, whole or not at all.
        bits: 32, 16, 8 or 4 bits of a weight, as in `Graph`. The file has about `bits` /
            8 bytes for each parameter. With 8 and 4 bits, a scale of 4 bytes is added
            for every 32 parameters.
        attention_weights: whether the graph also returns the attention weights of the
            hybrid layer.

    Raises:
        ExportError: the file would be larger than 2 GB, or the logits of the graph are
            not those of the model.
        ValueError: no such number of bits.
        OSError: the file cannot be written.
    """
    expected = _logits_of(model)
    graph = Graph(model, bits, attention_weights)
    size = sum(array.nbytes for array in graph.weights.values())
    if size > 0.99 * LARGEST:
        raise ExportError(
            f"the file would have {size / 1e9:.1f} GB, and the format ends at 2 GB: "
            "take fewer bits"
        )
    data = graph.to_proto(is_whole=True).SerializeToString()
    del graph
    found = _logits_of_file(data, model)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    if not error <= TOLERANCE[bits]:
        raise ExportError(
            f"with {bits} bits the logits are off by {error:.2g} of their size, and "
            f"{TOLERANCE[bits]} is allowed: "
            + ("its weights must be finite" if bits == 32 else "take more bits")
        )
    with whole_file(Path(path)) as file:
        file.write(data)


def _trial(model: PerceiverAR) -> tuple[Tensor, int, int]:
    """Tokens to compare by, (1, n), how many are the prompt, and its prefix."""
    config = model.config
    prefix_len = min(config.max_prefix_len, 16)
    prompt_len = prefix_len + min(config.max_latents, 16)
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (1, prompt_len + 8), generator=chance)
    return tokens, prompt_len, prefix_len


@torch.inference_mode()
def _logits_of(model: PerceiverAR) -> np.ndarray:
    """The model's answers to the trial, (8, V)."""
    model = copy.deepcopy(model).cpu().float().eval()
    tokens, prompt_len, prefix_len = _trial(model)
    cache = model.make_cache()
    logits = [model(tokens[:, :prompt_len], prefix_len, cache=cache)[0, -1]]
    for place in range(prompt_len, tokens.size(1) - 1):
        logits.append(model(tokens[:, place, None], 0, cache=cache)[0, -1])
    return torch.stack(logits).numpy()


def _logits_of_file(data: bytes, model: PerceiverAR) -> np.ndarray:
    """The graph's answers to the trial, (8, V)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    config = model.config
    H, d = config.num_heads, config.num_channels // config.num_heads
    held = {}  # no ring here: the newest stands last
    for i in range(1 + config.num_self_attention_layers):
        held[f"key_{i}"] = np.zeros((1, H, d, 0), dtype=np.float32)
        held[f"value_{i}"] = np.zeros((1, H, 0, d), dtype=np.float32)
    tokens, prompt_len, prefix_len = _trial(model)
    tokens, begin, logits = tokens.numpy(), 0, []
    for end in range(prompt_len, tokens.shape[1]):
        position = np.arange(begin, end)[None]
        for name, array in held.items():  # together with the new, what a ring holds
            most = config.max_seq_len if name[-2:] == "_0" else config.max_latents
            most -= 1 if begin else 0
            axis = 3 if name.startswith("key") else 2
            kept = range(max(0, array.shape[axis] - most), array.shape[axis])
            held[name] = array.take(kept, axis=axis)
        latents = end - begin - prefix_len
        N = held["key_0"].shape[3]
        M = held["key_1"].shape[3] if "key_1" in held else 0
        results = session.run(
            names,
            {
                "tokens": tokens[:, begin:end],
                "prefix_len": np.array([prefix_len]),
                "position": position,
                "mask": np.zeros((1, N + end - begin), dtype=np.float32),
                "latent_mask": np.zeros(M + latents, dtype=np.float32),
                **held,
            },
        )
        results = dict(zip(names, results, strict=True))
        logits.append(results["logits"][0])
        for name, array in held.items():
            axis = 3 if name.startswith("key") else 2
            held[name] = np.concatenate((array, results[f"new_{name}"]), axis=axis)
        begin, prefix_len = end, 0
    return np.stack(logits)
