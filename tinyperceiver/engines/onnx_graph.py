"""A `PerceiverAR` as an ONNX graph: tokens in, logits of the next token out.

The graph is a pure function. It also takes the keys and values of earlier tokens, and
gives those of the new ones, which the caller puts into its rings. The page "The model
in one file" of the book, `book/exported.md`, describes all inputs and outputs.

Axis letters: B batch, n new tokens, m new prefix tokens, l new latents, N places in the
hybrid layer's ring, M places in the ring of every other layer, H heads, d channels per
head, D = H * d channels, V vocabulary; n = m + l.
"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tinyperceiver.model.perceiver_ar import DecoderLayer, PerceiverAR
from tinyperceiver.model.rotary import BASE

if TYPE_CHECKING:
    import onnx

__all__ = ["BITS", "HIDDEN", "Graph"]

BITS = (32, 16, 8, 4)
HIDDEN = -1e9  # added to a score, it makes the weight 0
BLOCK = 32  # weights that share a scale, in 8 and 4 bits
OPSET, IR_VERSION = 21, 10  # ONNX Runtime reads them since version 1.20
SMALL = 1024  # bytes of a constant that is always kept in the graph itself


class Graph:
    """The graph of a model, and its weights.

    Args:
        model: any `PerceiverAR`, on any device; it stays as it is.
        bits: of each weight of a matrix. 32 computes what the model computes. With 16
            the weights are stored in float16 and computed with in float32. With 8 and
            4, blocks of 32 weights share a scale, and products are computed in 8 bits,
            by ONNX Runtime's operator `MatMulNBits`. The hybrid layer never has fewer
            than 8: most of what 4 bits cost is lost there.
        attention_weights: whether the graph also gives those of the hybrid layer.

    Attributes:
        weights: name -> array, all constants of the graph.

    Raises:
        ValueError: no such number of bits.
    """

    def __init__(
        self, model: PerceiverAR, bits: int = 32, attention_weights: bool = False
    ) -> None:
        if bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, not {bits!r}")
        self.config, self.bits = model.config, bits
        self.attention_weights = attention_weights
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self._constants: dict[tuple, str] = {}
        self._build(model)

    def to_proto(self, *, is_whole: bool) -> "onnx.ModelProto":
        """The graph in ONNX's own format.

        Args:
            is_whole: whether it holds its weights. Else those of more than a few bytes
                are only named, and ONNX Runtime must be given `weights`.
        """
        from onnx import TensorProto, helper

        constants = []
        for name, array in self.weights.items():
            dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = TensorProto(name=name, data_type=dtype, dims=array.shape)
            if is_whole or array.nbytes <= SMALL:
                tensor.raw_data = array.tobytes()
            else:
                tensor.data_location = TensorProto.EXTERNAL
                place = {"location": "memory", "offset": 0, "length": array.nbytes}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
            constants.append(tensor)
        inputs, outputs = self._inputs_and_outputs()
        graph = helper.make_graph(
            self.nodes, "PerceiverAR", inputs, outputs, constants, __doc__
        )
        proto = helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("com.microsoft", 1),
            ],
            producer_name="tinyperceiver",
        )
        facts = {"config": json.dumps(asdict(self.config)), "bits": str(self.bits)}
        helper.set_model_props(proto, facts)
        return proto

    def _inputs_and_outputs(self) -> tuple[list, list]:
        from onnx import TensorProto, helper

        def value(
            name: str, shape: list, kind: int = TensorProto.FLOAT
        ) -> "onnx.ValueInfoProto":
            return helper.make_tensor_value_info(name, kind, shape)

        config = self.config
        H, d = config.num_heads, config.num_channels // config.num_heads
        whole = TensorProto.INT64
        inputs = [
            value("tokens", ["B", "n"], whole),
            value("prefix_len", [1], whole),
            value("position", ["B", "n"], whole),
            value("mask", ["B", "N + n"]),
            value("latent_mask", ["M + l"]),
        ]
        outputs = [value("logits", ["B", config.vocab_size])]
        for i in range(1 + config.num_self_attention_layers):
            held, new = ("N", "n") if i == 0 else ("M", "l")
            inputs.append(value(f"key_{i}", ["B", H, d, held]))
            inputs.append(value(f"value_{i}", ["B", H, held, d]))
            outputs.append(value(f"new_key_{i}", ["B", H, d, new]))
            outputs.append(value(f"new_value_{i}", ["B", H, new, d]))
        if self.attention_weights:
            outputs.append(value("attention_weights", ["B", H, "l", "N + n"]))
        return inputs, outputs

    def _build(self, model: PerceiverAR) -> None:
        config = self.config
        zero, one = self._constant(0), self._constant(1)
        size = self._op("Squeeze", self._op("Shape", "tokens", start=1, end=2))
        place = self._op("Range", zero, size, one)  # (n)
        latent_place = self._from("prefix_len", place, axis=0)  # (l)
        is_later = self._op(
            "Less", self._op("Unsqueeze", latent_place, self._constant([1])), place
        )  # (l, n)
        causal = self._op(
            "Where",
            is_later,
            self._constant(np.float32(HIDDEN)),
            self._constant(np.float32(0)),
        )
        rotation = self._rotation()  # cosines and sines, each (B, 1, n, d)
        embedding = self._stored("embedding", model.embedding.weight)
        embedded = self._op("Gather", embedding, "tokens")  # (B, n, D)
        context = self._hybrid_norm(model, embedded)  # (B, n, D)
        x, h = (
            self._from("prefix_len", part, axis=1) for part in (embedded, context)
        )  # (B, l, D)
        mask = self._op("Unsqueeze", "mask", self._constant([1, 2]))  # (B, 1, 1, N + n)
        latent_turn = [self._from("prefix_len", part, axis=2) for part in rotation]
        last = self._constant([-1])

        layers = [model.hybrid_layer, *model.layers]
        for i, layer in enumerate(layers):
            key_turn, query_turn = rotation, latent_turn
            if i > 0:
                h = context = self._norm(f"norm_{i}", layer.attention.norm, x)
                key_turn, mask = latent_turn, "latent_mask"
                if i == 1:
                    causal = self._from("prefix_len", causal, axis=1)  # (l, l)
            if i == len(layers) - 1:  # of its results only the last is wanted
                x, h = (self._from(last, part, axis=1) for part in (x, h))
                causal = self._from(last, causal, axis=0)
                query_turn = [self._from(last, part, axis=2) for part in query_turn]
            if i > config.num_rotary_layers:
                key_turn = query_turn = None
            masks, turns = (causal, mask), (query_turn, key_turn)
            x = self._op("Add", x, self._attention(i, layer, h, context, masks, turns))
            x = self._op("Add", x, self._mlp(i, layer, x))
        x = self._op("Squeeze", x, self._constant([1]))  # (B, D)
        x = self._norm("norm", model.norm, x)
        self._op("Gemm", x, embedding, transB=1, outputs=["logits"])

    def _rotation(self) -> list[str]:
        d = self.config.num_channels // self.config.num_heads
        # As `rotation_at`: speeds in float32, and angles with more digits.
        pair = torch.arange(0, d, 2, dtype=torch.float32)
        speed = (BASE ** (-pair / d)).double().repeat_interleave(2)  # (d)
        position = self._op("Unsqueeze", "position", self._constant([1, 3]))
        position = self._op("Cast", position, to=np.float64)  # (B, 1, n, 1)
        angle = self._op("Mul", position, self._constant(speed.numpy()))
        return [
            self._op("Cast", self._op(function, angle), to=np.float32)
            for function in ("Cos", "Sin")
        ]

    def _turned(self, x: str, turn: list[str] | None) -> str:
        """(B, H, n, d), its pairs of channels rotated."""
        if turn is None:
            return x
        # (even, odd) @ [[0, 1], [-1, 0]] = (-odd, even)
        quarter = np.array([[0, 1], [-1, 0]], dtype=np.float32)
        d = self.config.num_channels // self.config.num_heads
        quarter = self._constant(np.kron(np.eye(d // 2, dtype=np.float32), quarter))
        cos, sin = turn
        turned = self._op("Mul", self._op("MatMul", x, quarter), sin)
        return self._op("Add", self._op("Mul", x, cos), turned)

    def _hybrid_norm(self, model: PerceiverAR, x: str) -> str:
        """(B, n, D), normalised: the prefix by one norm, the latents by another."""
        layer = model.hybrid_layer.attention
        zero, axis = self._constant([0]), self._constant([1])
        prefix = self._op("Slice", x, zero, "prefix_len", axis)  # (B, m, D)
        latents = self._from("prefix_len", x, axis=1)  # (B, l, D)
        prefix = self._norm("prefix_norm", layer.prefix_norm, prefix)
        latents = self._norm("norm_0", layer.norm, latents)
        return self._op("Concat", prefix, latents, axis=1)

    def _attention(
        self,
        i: int,
        layer: DecoderLayer,
        h: str,
        context: str,
        masks: tuple[str, str],
        turns: tuple[list[str] | None, list[str] | None],
    ) -> str:
        """Layer i's attention from h, (B, l, D), to what is held and to `context`."""
        heads = layer.attention.attention
        D, d = self.config.num_channels, self.config.num_channels // heads.num_heads
        query = heads.query.weight.float() * d**-0.5
        q = self._split_heads(self._product(f"query_{i}", query, h))  # (B, H, l, d)
        both = torch.cat((heads.key.weight, heads.value.weight))
        both = self._product(f"key_value_{i}", both, context)
        k, v = map(self._split_heads, self._op("Split", both, axis=-1, outputs=2))
        q, k = self._turned(q, turns[0]), self._turned(k, turns[1])
        k = self._op("Transpose", k, perm=[0, 1, 3, 2], outputs=[f"new_key_{i}"])
        v = self._op("Identity", v, outputs=[f"new_value_{i}"])

        # What is held and what is new share one softmax.
        causal, mask = masks
        held = self._op("MatMul", q, f"key_{i}")  # (B, H, l, N or M)
        new = self._op("Add", self._op("MatMul", q, k), causal)
        scores = self._op("Add", self._op("Concat", held, new, axis=-1), mask)
        name = "attention_weights" if i == 0 and self.attention_weights else None
        weights = self._op("Softmax", scores, axis=-1, outputs=name and [name])
        sizes = [self._op("Shape", part, start=3) for part in (f"key_{i}", k)]
        sizes = self._op("Concat", *sizes, axis=0)
        held, new = self._op("Split", weights, sizes, axis=-1, outputs=2)
        x = self._op(
            "Add", self._op("MatMul", held, f"value_{i}"), self._op("MatMul", new, v)
        )  # (B, H, l, d)
        x = self._op("Transpose", x, perm=[0, 2, 1, 3])
        x = self._op("Reshape", x, self._constant([0, -1, D]))  # (B, l, D)
        x = self._product(f"output_{i}", heads.output.weight, x)
        if heads.output.bias is None:
            return x
        bias = self._stored(f"output_{i}.bias", heads.output.bias, bits=32)
        return self._op("Add", x, bias)

    def _mlp(self, i: int, layer: DecoderLayer, x: str) -> str:
        h = self._norm(f"mlp_norm_{i}", layer.mlp.norm, x)
        h = self._op("Gelu", self._product(f"up_{i}", layer.mlp.up.weight, h))
        return self._product(f"down_{i}", layer.mlp.down.weight, h)

    def _split_heads(self, x: str) -> str:
        H, D = self.config.num_heads, self.config.num_channels
        x = self._op("Reshape", x, self._constant([0, -1, H, D // H]))
        return self._op("Transpose", x, perm=[0, 2, 1, 3])  # (B, H, n or l, d)

    def _norm(self, name: str, norm: nn.LayerNorm, x: str) -> str:
        weight = self._stored(f"{name}.weight", norm.weight, bits=32)
        bias = self._stored(f"{name}.bias", norm.bias, bits=32)
        return self._op("LayerNormalization", x, weight, bias, epsilon=norm.eps)

    def _product(self, name: str, weight: Tensor, x: str) -> str:
        """x W^T with W = `weight`, (out, in), in the graph's bits."""
        if self.bits >= 16:
            return self._op("MatMul", x, self._stored(name, weight.detach().T))
        bits = 8 if name.endswith("_0") else self.bits
        rounded, scale = round_blocks(weight.detach().float().cpu(), bits)
        self.weights[name] = rounded.numpy()
        self.weights[f"{name}.scale"] = scale.numpy()
        return self._op(
            "MatMulNBits",
            x,
            name,
            f"{name}.scale",
            domain="com.microsoft",
            K=weight.size(1),
            N=weight.size(0),
            bits=bits,
            block_size=BLOCK,
            accuracy_level=4,  # x in 8 bits, too
        )

    def _stored(self, name: str, weight: Tensor, bits: int | None = None) -> str:
        """A weight to compute with in float32; `bits` is how it is kept."""
        weight = weight.detach().cpu()
        if (bits or self.bits) == 32:
            self.weights[name] = weight.float().contiguous().numpy()
            return name
        self.weights[name] = weight.half().contiguous().numpy()
        return self._op("Cast", name, to=np.float32)

    def _from(self, start: str, x: str, *, axis: int) -> str:
        """x from `start` to its end, along an axis."""
        return self._op(
            "Slice",
            x,
            start,
            self._constant([np.iinfo(np.int64).max]),
            self._constant([axis]),
        )

    def _constant(self, value: object) -> str:
        array = np.asarray(value)
        key = array.dtype, array.shape, array.tobytes()
        name = self._constants.setdefault(key, f"constant_{len(self._constants)}")
        self.weights[name] = array
        return name

    def _op(
        self,
        kind: str,
        *inputs: str,
        outputs: int | list[str] | None = None,
        domain: str = "",
        **attributes: object,
    ) -> str | list[str]:
        """Add an operation; returns the names of what it gives, or the only one."""
        from onnx import helper

        if not isinstance(outputs, list):
            outputs = [f"{kind}_{len(self.nodes)}_{j}" for j in range(outputs or 1)]
        if kind == "Split" and len(inputs) == 1:
            attributes["num_outputs"] = len(outputs)
        if "to" in attributes:
            dtype = np.dtype(attributes["to"])
            attributes["to"] = helper.np_dtype_to_tensor_dtype(dtype)
        node = helper.make_node(kind, inputs, outputs, domain=domain, **attributes)
        self.nodes.append(node)
        return outputs[0] if len(outputs) == 1 else outputs


def round_blocks(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A weight in 8 or 4 bits, as `MatMulNBits` reads it.

    Each block of 32 weights of a row has a scale. The largest of them, in magnitude,
    becomes -2^(bits - 1) times that scale, and all are rounded to a multiple of it.

    weight (out, in), float32 -> (out, blocks, 32 * bits / 8), uint8, which holds each
    multiple plus 2^(bits - 1), and scales (out, blocks).
    """
    out, channels = weight.shape
    blocks = -(-channels // BLOCK)
    weight = nn.functional.pad(weight, (0, blocks * BLOCK - channels))
    weight = weight.view(out, blocks, BLOCK)
    zero = 2 ** (bits - 1)
    largest = weight.gather(2, weight.abs().argmax(dim=2, keepdim=True))
    scale = largest / -zero  # (out, blocks, 1)
    scale[scale == 0] = 1.0
    rounded = (weight / scale).round_().add_(zero).clamp_(0, 2 * zero - 1)
    rounded = rounded.to(torch.uint8)
    if bits == 4:  # two of them in a byte, the first in the lower half
        rounded = rounded[..., 0::2] | rounded[..., 1::2] << 4
    return rounded, scale[..., 0].contiguous()
