"""The exported file: what it computes, what it holds, and its description in the book."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import PATIENCE
from models import random_tokens, small_model

from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.engines import onnx_export
from tinyperceiver.engines.onnx_export import export_onnx
from tinyperceiver.engines.onnx_graph import BITS, Graph, round_blocks
from tinyperceiver.model.attention import causal_mask
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.model.rotary import apply_rotation, rotation_at

pytestmark = pytest.mark.numeric

PAGE = Path(__file__).parent.parent / "book" / "exported.md"
SHAPES = [
    {},
    {"num_self_attention_layers": 0},
    {"num_self_attention_rotary_layers": -1},
    {"num_self_attention_rotary_layers": 0},
    {"max_latents": 1},
    {"max_latents": 12},
    {"num_channels": 36, "cross_attention_widening_factor": 3},
]


def prompt_inputs(model: PerceiverAR, tokens: torch.Tensor, prefix_len: int) -> dict:
    """Inputs of a graph that reads a prompt with empty rings."""
    config, (B, n) = model.config, tokens.shape
    H, d = config.num_heads, config.num_channels // config.num_heads
    inputs = {
        "tokens": tokens.numpy(),
        "prefix_len": np.array([prefix_len]),
        "position": np.arange(n)[None].repeat(B, axis=0),
        "mask": np.zeros((B, n), dtype=np.float32),
        "latent_mask": np.zeros(n - prefix_len, dtype=np.float32),
    }
    for i in range(1 + config.num_self_attention_layers):
        inputs[f"key_{i}"] = np.zeros((B, H, d, 0), dtype=np.float32)
        inputs[f"value_{i}"] = np.zeros((B, H, 0, d), dtype=np.float32)
    return inputs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_a_file_gives_the_logits_of_the_model(tmp_path, shape, bits):
    model, tokens = small_model(**shape), random_tokens(2, 7)
    prefix_len = max(3, 7 - model.config.max_latents) if model.config.max_latents < 12 else 0
    export_onnx(model, tmp_path / "small.onnx", bits)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    found, *_ = session.run(["logits"], prompt_inputs(model, tokens, prefix_len))
    with torch.inference_mode():
        expected = model(tokens, prefix_len)[:, -1].numpy()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    least, most = {32: (0, 1e-5), 16: (1e-5, 5e-3), 8: (1e-3, 0.1), 4: (1e-2, 0.8)}[bits]
    assert least <= error < most


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_any_dtype_in_any_mode_are_written_and_left_alone(tmp_path, dtype):
    model = small_model(residual_dropout=0.5).to(dtype).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "small.onnx")
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert value.dtype == dtype and torch.equal(value, before[name])


@pytest.mark.parametrize("bits", BITS)
def test_a_file_says_what_it_holds(tmp_path, bits):
    model = small_model()
    export_onnx(model, tmp_path / "small.onnx", bits, attention_weights=True)
    proto = onnx.load(tmp_path / "small.onnx", load_external_data=False)
    onnx.checker.check_model(proto)
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(facts["config"]) == asdict(model.config)
    assert facts["bits"] == str(bits)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    domains = {node.domain for node in proto.graph.node}
    assert domains == ({""} if bits >= 16 else {"", "com.microsoft"})  # what browsers have
    # All names are on the page.
    names = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    page = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert {name for name in names if not name.endswith("_2")} <= page


def test_fewer_bits_make_smaller_files(tmp_path):
    model = from_pretrained(PerceiverAR, "tiny")
    sizes = []
    for bits in BITS:
        export_onnx(model, tmp_path / "tiny.onnx", bits)
        sizes.append((tmp_path / "tiny.onnx").stat().st_size / model.num_parameters)
    # 32 weights share a scale of 4 bytes, and the first of six layers has 8 bits.
    assert sizes == pytest.approx([4, 2, 9 / 8, 5 / 8 + 1 / 12], rel=0.1)
    megabytes = [f"{size * model.num_parameters / 1e6:.1f} MB" for size in sizes]
    table = re.findall(r"^\| \d+ \| (\S+ MB) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert table == megabytes


def test_the_attention_weights_of_the_hybrid_layer(tmp_path):
    model, tokens, prefix_len = small_model(), random_tokens(2, 7), 4
    export_onnx(model, tmp_path / "small.onnx", attention_weights=True)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    inputs = prompt_inputs(model, tokens, prefix_len)
    (found,) = session.run(["attention_weights"], inputs)
    with torch.inference_mode():
        layer = model.hybrid_layer.attention
        x = model.embedding(tokens)
        latents = layer.norm(x[:, prefix_len:])
        context = torch.cat((layer.prefix_norm(x[:, :prefix_len]), latents), dim=1)
        heads = layer.attention
        cos, sin = rotation_at(torch.arange(7)[None], 8)
        q = heads._split_heads(heads.query(latents))
        q = apply_rotation(q, (cos[:, prefix_len:], sin[:, prefix_len:]))
        k = apply_rotation(heads._split_heads(heads.key(context)), (cos, sin))
        scores = (q @ k.mT * 8**-0.5).masked_fill(~causal_mask(3, 7), float("-inf"))
    np.testing.assert_allclose(found, scores.softmax(-1), atol=1e-6)


def test_positions_of_long_runs_are_exact(tmp_path):
    """Attention sees distances only: the same logits a hundred million tokens later."""
    model, tokens = small_model(num_self_attention_rotary_layers=-1), random_tokens(1, 8)
    export_onnx(model, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    inputs = prompt_inputs(model, tokens, 5)
    early, *_ = session.run(["logits"], inputs)
    inputs["position"] = inputs["position"] + 100_000_000
    late, *_ = session.run(["logits"], inputs)
    np.testing.assert_allclose(late, early, atol=1e-4)


# Refusals


def test_a_graph_that_is_wrong_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Graph, "_turned", lambda self, x, turn: x)
    with pytest.raises(ValueError, match=r"with 32 bits the logits are off by .* of their size"):
        export_onnx(small_model(), tmp_path / "small.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_16_bits_do_not_hold_are_refused(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.layers[0].mlp.up.weight[0] = 1e5
    with pytest.raises(ValueError, match=r"with 16 bits .*: take more bits"):
        export_onnx(model, tmp_path / "small.onnx", 16)


def test_numbers_that_are_none_are_refused(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.norm.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"off by nan of their size.* must be finite"):
        export_onnx(model, tmp_path / "small.onnx")


def test_other_bits_and_larger_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"bits must be one of \(32, 16, 8, 4\), not 2"):
        export_onnx(small_model(), tmp_path / "small.onnx", 2)
    monkeypatch.setattr(onnx_export, "LARGEST", 10_000)
    with pytest.raises(ValueError, match=r"ends at 2 GB: take fewer bits"):
        export_onnx(small_model(), tmp_path / "small.onnx")
    assert list(tmp_path.iterdir()) == []


# Few bits


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("channels", [64, 40])
def test_blocks_are_rounded_to_the_nearest(bits, channels):
    torch.manual_seed(0)
    weight = torch.randn(6, channels)
    weight[2] = 0.0
    rounded, scale = round_blocks(weight, bits)
    assert rounded.dtype == torch.uint8 and rounded.shape == (6, 2, 32 * bits // 8)
    if bits == 4:
        rounded = torch.stack((rounded & 15, rounded >> 4), dim=-1).flatten(2)
    zero = 2 ** (bits - 1)
    again = (rounded.float() - zero) * scale[..., None]  # (6, 2, 32)
    error = (again.flatten(1)[:, :channels] - weight).abs()
    # Half a step, and a whole one at the end that has no number of its own.
    steps = scale.abs().repeat_interleave(32, dim=1)[:, :channels]
    assert (error <= 1.0001 * steps).all() and (error <= 0.5001 * steps).float().mean() > 0.9
    assert (again[2] == 0).all()


# The page


def test_the_player_of_the_page_plays_what_generate_adds(tmp_path):
    """In a Python that has neither this package nor PyTorch."""
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert f"in {len(code.strip().splitlines())} lines" in page
    code += "assert not {'tinyperceiver', 'torch', 'onnx'} & sys.modules.keys()\n"
    (tmp_path / "player.py").write_text(code, encoding="utf-8")

    def play(*arguments: object) -> list[int]:
        command = [sys.executable, "player.py", *map(str, arguments)]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=PATIENCE
        )
        return [int(token) for token in result.stdout.split()]

    model = small_model()
    export_onnx(model, tmp_path / "small.onnx")
    prompt = random_tokens(1, 9)
    for num_latents in (1, 4):
        expected = model.generate(prompt, max_new_tokens=40, num_latents=num_latents)
        found = play("small.onnx", num_latents, 40, *prompt[0].tolist())
        assert found == expected[0, 9:].tolist()

    # The command of the page, and what it says that this prints.
    export_onnx(from_pretrained(PerceiverAR, "tiny"), tmp_path / "tiny.onnx")
    (arguments,) = re.findall(r"python player.py (.*)", page)
    (printed,) = re.findall(r"^    ([\d ]+)$", page, re.MULTILINE)
    assert play(*arguments.split()) == [int(token) for token in printed.split()]
