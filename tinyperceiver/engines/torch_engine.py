"""Decoding on GPUs: PyTorch, with the operations of a step recorded as one graph.

A step of decoding reads every weight, key and value once and does almost nothing with
them. Its time is that of reading. On a CPU ONNX Runtime reads fastest; on a GPU PyTorch
does, once its many small operations are recorded as one graph. Axis letters: B batch, n
tokens in the window, m prefix, l latents, H heads, d channels per head, D = H * d
channels, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from tinyperceiver.engines.decoder import Decoder
from tinyperceiver.model.attention import attend
from tinyperceiver.model.perceiver_ar import DecoderLayer, PerceiverAR
from tinyperceiver.model.rotary import apply_rotation, rotation_at

__all__ = ["GPU_PRECISIONS", "TorchDecoder"]

GPU_PRECISIONS = ("float32", "half")


@dataclass
class _Layer:
    """A decoder layer's weights in the wanted precision, and what it holds."""

    norm: nn.LayerNorm
    prefix_norm: nn.LayerNorm | None  # of the hybrid layer
    query: Tensor  # (D, D)
    key_value: Tensor  # (2 D, D)
    output: Tensor  # (D, D)
    output_bias: Tensor | float
    mlp_norm: nn.LayerNorm
    up: Tensor  # (width, D)
    down: Tensor  # (D, width)
    is_rotary: bool
    keys: Tensor  # (B * H, capacity, d)
    values: Tensor  # (B * H, d, capacity)


class TorchDecoder(Decoder):
    """The decoder for GPUs, run by PyTorch.

    In float32 the logits are those of the model with a cache, up to rounding. Some
    weights are copied when this is made, others are the model's own: while it is used
    the model must not change.

    Args:
        model: on any device.
        batch_size, max_len: as in `Decoder`.
        precision: "float32" leaves the weights and their dtype as they are. "half" has
            16 bits a weight, key and value: bfloat16, and float16 on GPUs that are slow
            at that.
        is_static: whether every step reads all places of the rings, the empty ones too,
            so that a CUDA graph can be recorded and replayed: on CUDA by default.

    Raises:
        ValueError: no such precision, or not for this model's dtype.
    """

    def __init__(
        self,
        model: PerceiverAR,
        *,
        batch_size: int = 1,
        max_len: int | None = None,
        precision: str = "float32",
        is_static: bool | None = None,
    ) -> None:
        if precision not in GPU_PRECISIONS:
            raise ValueError(
                f"precision must be one of {GPU_PRECISIONS}, not {precision!r}"
            )
        super().__init__(model, batch_size=batch_size, max_len=max_len)
        config, weight = model.config, model.embedding.weight
        self.dtype = weight.dtype
        self.product_dtype = weight.dtype
        if precision == "half":
            is_slow = weight.is_cuda and not torch.cuda.is_bf16_supported(
                including_emulation=False
            )
            self.product_dtype = torch.float16 if is_slow else torch.bfloat16
        self.num_heads = config.num_heads
        self.is_static = weight.is_cuda if is_static is None else is_static
        self.layers = [self._prepare_layer(model.hybrid_layer, is_rotary=True)]
        for i, layer in enumerate(model.layers):
            is_rotary = i < config.num_rotary_layers
            self.layers.append(self._prepare_layer(layer, is_rotary=is_rotary))
        device = weight.device
        # How many tokens the hybrid layer and the others have read, each row's next
        # position, and the padding that the hybrid layer holds. All stay where they are
        # in memory: a graph remembers places, not values.
        self.seen = torch.zeros(2, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(batch_size, 1, dtype=torch.long, device=device)
        self.padding = torch.zeros(
            batch_size, 1, self.capacity, dtype=torch.bool, device=device
        )
        self.has_padding = False
        self.graph = self.graph_tokens = self.graph_logits = None

    def _prepare_layer(self, layer: DecoderLayer, *, is_rotary: bool) -> _Layer:
        attention, heads = layer.attention, layer.attention.attention
        prefix_norm = getattr(attention, "prefix_norm", None)
        capacity = self.latent_capacity if prefix_norm is None else self.capacity
        weights = {
            "query": heads.query.weight,
            "key_value": torch.cat((heads.key.weight, heads.value.weight)),
            "output": heads.output.weight,
            "up": layer.mlp.up.weight,
            "down": layer.mlp.down.weight,
        }
        weights = {
            name: weight.detach().to(self.product_dtype)
            for name, weight in weights.items()
        }
        d = self.model.config.num_channels // self.num_heads
        rows, new_zeros = self.batch_size * self.num_heads, weights["query"].new_zeros
        # A static step reads empty places, too, and hides them: no NaN may be there.
        return _Layer(
            norm=attention.norm,
            prefix_norm=prefix_norm,
            output_bias=0.0 if heads.output.bias is None else heads.output.bias,
            mlp_norm=layer.mlp.norm,
            is_rotary=is_rotary,
            keys=new_zeros(rows, capacity, d),
            values=new_zeros(rows, d, capacity),
            **weights,
        )

    def _read(self, tokens: Tensor, prefix_len: int, pad_mask: Tensor | None) -> Tensor:
        if self.is_static and tokens.is_cuda and self.graph is None:
            self._record()
        B, n = tokens.shape
        first = 0 if pad_mask is None else -pad_mask.sum(dim=1, keepdim=True)  # (B, 1)
        place = torch.arange(n, device=tokens.device)
        position = (first + place[None]).clamp(min=0)  # (B or 1, n)
        embedded = self.model.embedding(tokens.long())  # (B, n, D)
        D = embedded.size(2)
        rotation = rotation_at(position, D // self.num_heads)
        latent_rotation = tuple(part[:, prefix_len:] for part in rotation)
        prefix, x = embedded[:, :prefix_len], embedded[:, prefix_len:]  # x (B, l, D)

        for layer in self.layers:
            h = context = layer.norm(x)  # (B, l, D)
            turn, pads = latent_rotation, None
            if layer.prefix_norm is not None:
                context = torch.cat((layer.prefix_norm(prefix), h), dim=1)  # (B, n, D)
                turn, pads = rotation, pad_mask
            both = self._product(context, layer.key_value)
            k, v = map(self._split_heads, both.chunk(2, dim=-1))  # (B, H, n or l, d)
            if layer is self.layers[-1]:  # of its results only the last is wanted
                x, h = x[:, -1:], h[:, -1:]
            l = x.size(1)
            q = self._split_heads(self._product(h, layer.query))  # (B, H, l, d)
            if layer.is_rotary:
                q = apply_rotation(q, tuple(part[:, -l:] for part in turn))
                k = apply_rotation(k, turn)
            layer.keys[:, : k.size(2)] = k.flatten(0, 1)
            layer.values[:, :, : v.size(2)] = v.flatten(0, 1).mT
            heads = attend(q, k, v, pad_mask=pads).transpose(1, 2)  # (B, l, H, d)
            x = x + self._output(layer, heads.reshape(B, l, D))
            x = x + self._mlp(layer, x)

        self.seen.copy_(torch.tensor([[n], [n - prefix_len]]))
        self.position.copy_((first + n) * torch.ones_like(self.position))
        self.has_padding = pad_mask is not None
        self.padding.fill_(False)
        if self.has_padding:
            self.padding[:, 0, :n] = pad_mask
        return self._logits(x[:, -1])

    def _step(self, tokens: Tensor) -> Tensor:
        if self.graph is None:
            return self._compute(tokens)
        self.graph_tokens.copy_(tokens)
        self.graph.replay()
        return self.graph_logits.clone()  # the next step writes to the same place

    def _compute(self, tokens: Tensor) -> Tensor:
        """The operations of a step; a CUDA graph records them once."""
        x = self.model.embedding(tokens.long())  # (B, D)
        rotation = rotation_at(self.position, x.size(1) // self.num_heads)
        for layer in self.layers:
            h = layer.norm(x)
            q = self._split_heads(self._product(h, layer.query))  # (B, H, 1, d)
            both = self._product(h, layer.key_value)
            k, v = map(self._split_heads, both.chunk(2, dim=-1))  # (B, H, 1, d)
            if layer.is_rotary:
                q, k = apply_rotation(q, rotation), apply_rotation(k, rotation)
            heads = self._attend_one(layer, q, k, v)  # (B, D)
            x = x + self._output(layer, heads)
            x = x + self._mlp(layer, x)
        self.seen += 1
        self.position += 1
        return self._logits(x)

    def _attend_one(self, layer: _Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Put one key and value into the ring and attend to all held: -> (B, D)."""
        is_hybrid, capacity = layer.prefix_norm is not None, layer.keys.size(1)
        seen = self.seen[0 if is_hybrid else 1]
        slot = seen % capacity
        held = capacity if self.is_static else min(int(seen) + 1, capacity)
        layer.keys.index_copy_(1, slot, k.flatten(0, 1))
        layer.values.index_copy_(2, slot, v.flatten(0, 1).mT)
        if is_hybrid and (self.has_padding or self.is_static):
            self.padding.index_fill_(2, slot, False)
        keys, values, hidden = layer.keys[:, :held], layer.values[:, :, :held], None
        if self.is_static:  # all places, and the empty ones hidden
            hidden = torch.arange(capacity, device=seen.device) > seen  # (capacity)
            hidden = hidden | self.padding if is_hybrid else hidden
        elif is_hybrid and self.has_padding:
            hidden = self.padding[:, :, :held]  # (B, 1, held)
        B, H, _, d = q.shape
        q = (q * d**-0.5).reshape(B * H, d, 1)
        scores = torch.bmm(keys, q).view(B, H, -1)  # (B, H, held)
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        weights = scores.softmax(-1, dtype=self.dtype).to(values.dtype)
        weights = weights.view(B * H, -1, 1)
        return torch.bmm(values, weights).view(B, H * d)

    def _output(self, layer: _Layer, heads: Tensor) -> Tensor:
        return self._product(heads, layer.output) + layer.output_bias

    def _mlp(self, layer: _Layer, x: Tensor) -> Tensor:
        h = gelu(self._product(layer.mlp_norm(x), layer.up))
        return self._product(h, layer.down)

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        return linear(x.to(weight.dtype), weight)

    def _logits(self, x: Tensor) -> Tensor:
        return (self.model.norm(x) @ self.model.embedding.weight.T).float()  # (B, V)

    def _split_heads(self, x: Tensor) -> Tensor:
        x = x.view(self.batch_size, -1, self.num_heads, x.size(-1) // self.num_heads)
        return x.transpose(1, 2)  # (B, H, n or l or 1, d)

    def _record(self) -> None:
        """Record a step as a CUDA graph; what the rings hold is lost."""
        self.graph_tokens = torch.zeros_like(self.position[:, 0])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # to choose kernels, and their memory
                self._compute(self.graph_tokens)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.graph_logits = self._compute(self.graph_tokens)
