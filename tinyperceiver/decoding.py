"""Decoding at the speed of memory: `PerceiverAR`, arranged for one new token.

A step of decoding reads every weight, key and value once and does almost nothing with
them. Its time is that of reading, so here each is read once, in as few bits as wanted,
by the product that reads fastest. Axis letters: B batch, n tokens in the window, m
prefix, l latents, H heads, d channels per head, D = H * d channels, V vocabulary, R
rows of a product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, pad

from tinyperceiver.attention import attend
from tinyperceiver.model import DecoderLayer, PerceiverAR
from tinyperceiver.rotary import apply_rotation, rotation_at

__all__ = ["PRECISIONS", "Decoder", "pack"]

PRECISIONS = ("float32", "half", "int8")
BLOCK = 256  # queries at a time
FEW = 4  # rows up to which a product by halves reads faster
SPARE = 128  # empty places in a ring of values that is not full


def pack(
    weight: Tensor, precision: str, batch_size: int = 1
) -> Callable[[Tensor], Tensor]:
    """The product x -> x W^T, (R, in) -> (R, out), with W ready to be read fast.

    Args:
        weight: W, (out, in).
        precision: "float32" leaves the weight and its dtype as they are. "half" has 16
            bits a weight: float16 for a single row on a CPU, whose kernel for that
            reads twice as fast as the one for bfloat16; else bfloat16, where it is
            computed fast, and float16 on other GPUs. "int8", for CPUs, rounds weights
            and x to 8 bits, with a scale for each row of either.
        batch_size: rows of x in a step of decoding; x may have more.

    Returns:
        A function; what it returns may have fewer bits than x.
    """
    weight = weight.detach()
    on_cpu = weight.device.type == "cpu"
    if precision == "int8":
        if not on_cpu:
            raise ValueError(f"int8 is for CPUs: on {weight.device} use 'half'")
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127  # (out)
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        return lambda x: _product_int8(x, rounded, scale)
    if precision == "half":
        wide = torch.bfloat16
        if weight.is_cuda and not torch.cuda.is_bf16_supported(
            including_emulation=False
        ):
            wide = torch.float16
        few = weight.to(torch.float16 if on_cpu and batch_size == 1 else wide)
        return lambda x: (
            linear(x.to(few.dtype), few)
            if few.dtype == wide or x.size(0) == 1
            else linear(x.to(wide), weight.to(wide))
        )
    if precision != "float32":
        raise ValueError(f"precision must be one of {PRECISIONS}, not {precision!r}")
    if not on_cpu or weight.size(0) % 2:
        return lambda x: linear(x, weight)
    # The kernel for one matrix and one column reads at about half the speed of that for
    # several matrices. So W becomes two.
    halves = weight.contiguous().view(2, -1, weight.size(1))  # (2, out / 2, in)
    return lambda x: (
        torch.bmm(halves, x.mT.expand(2, -1, -1)).flatten(0, 1).mT
        if x.size(0) <= FEW
        else linear(x, weight)
    )


def _product_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x, (R, in), times a weight of 8 bits, (out, in), and its scale, (out)."""
    x_scale = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127  # (R, 1)
    rounded = (x / x_scale).round_().to(torch.int8)
    return torch._int_mm(rounded, weight.mT).float().mul_(x_scale).mul_(scale)


@dataclass
class _Layer:
    """A decoder layer with packed weights, and the keys and values it holds."""

    norm: nn.LayerNorm
    prefix_norm: nn.LayerNorm | None  # of the hybrid layer
    query: Callable[[Tensor], Tensor]
    key_value: Callable[[Tensor], Tensor]  # (R, D) -> (R, 2 D)
    output: Callable[[Tensor], Tensor]
    output_bias: Tensor | float
    mlp_norm: nn.LayerNorm
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]
    is_rotary: bool
    keys: Tensor  # (B * H, capacity, d)
    values: Tensor  # (B * H, d, room): a product with a column reads along memory

    def make_room(self, held: int) -> None:
        """Room for `held` values and few more: what lies far apart is read slowly."""
        room = self.values.size(2)
        if not held <= room <= held + SPARE:
            new = min(held + SPARE, self.keys.size(1))
            self.values = pad(self.values, (0, new - room))


class Decoder:
    """A model made ready to continue B prompts, token by token.

    `read` takes in prompts, `step` one more token of each; both give the logits of what
    comes next. Keys and values are held as in `KVCache`: the hybrid layer has those of
    the last `max_seq_len` tokens, the others have those of the last `max_latents`, and
    none is computed again. In float32 the logits are those of the model with a cache,
    up to rounding. Dropout is never applied. Some weights are packed when this is made,
    others are the model's own: while it is used the model must not change.

    Args:
        model: on any device; it stays as it is.
        batch_size: B.
        max_len: most tokens of a row, prompt included; no more room than that is taken.
            Without it the window slides, for ever.
        precision: of the weights, see `pack`; sums, keys and values have the model's
            own precision on a CPU.
        is_static: whether every step reads all places of the rings, the empty ones too,
            so that a CUDA graph can be recorded and replayed: on CUDA by default.

    Raises:
        ValueError: no such precision, or not for this device or this model's dtype.
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
        config = model.config
        dtype = model.embedding.weight.dtype
        is_exact = dtype in (torch.float32, torch.float64)
        if precision != "float32" and not is_exact:
            raise ValueError(
                f"precision={precision!r} packs the weights of a model in float32; "
                f"this one has {dtype}: take precision='float32', which leaves them "
                "so, or model.float()"
            )
        self.model, self.precision, self.batch_size = model, precision, batch_size
        self.num_heads = config.num_heads
        self.is_static = (
            model.embedding.weight.is_cuda if is_static is None else is_static
        )
        self.dtype = dtype
        longest = config.max_seq_len if max_len is None else max_len
        self.max_len = max_len
        self.room = 0  # for so many steps; none before a prompt
        self.capacity = min(config.max_seq_len, longest)  # of the hybrid layer
        self.latent_capacity = min(config.max_latents, longest)  # of all others
        self.layers = [self._pack_layer(model.hybrid_layer, is_rotary=True)]
        for i, layer in enumerate(model.layers):
            is_rotary = i < config.num_rotary_layers
            self.layers.append(self._pack_layer(layer, is_rotary=is_rotary))
        device = self.layers[0].keys.device
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

    def _pack_layer(self, layer: DecoderLayer, *, is_rotary: bool) -> _Layer:
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
        packed = {
            name: pack(weight, self.precision, self.batch_size)
            for name, weight in weights.items()
        }
        D, rows = self.model.config.num_channels, self.batch_size * self.num_heads
        held = heads.key.weight.detach()
        if held.is_cuda:  # keys and values as the product gives them
            held = packed["key_value"](held.new_zeros(1, D))
        # A static step reads empty places, too, and hides them: no NaN may stand there.
        new = held.new_zeros if self.is_static else held.new_empty
        return _Layer(
            norm=attention.norm,
            prefix_norm=prefix_norm,
            output_bias=0.0 if heads.output.bias is None else heads.output.bias,
            mlp_norm=layer.mlp.norm,
            is_rotary=is_rotary,
            keys=new(rows, capacity, D // self.num_heads),
            values=new(rows, D // self.num_heads, capacity),
            **packed,
        )

    @torch.inference_mode()
    def read(
        self, tokens: Tensor, prefix_len: int, pad_mask: Tensor | None = None
    ) -> Tensor:
        """Take in prompts, and forget all before: the arguments of the model's forward.

        tokens (B, n), pad_mask (B, n) -> logits of the next token, (B, V), float32.

        Raises:
            ValueError: as by the model; or B or n is not what this was made for.
        """
        self.model._check_window(tokens, prefix_len)
        if len(tokens) != self.batch_size:
            raise ValueError(
                f"this decoder is for {self.batch_size} rows, not {len(tokens)}"
            )
        if self.max_len is not None and tokens.size(1) > self.max_len:
            raise ValueError(
                f"{tokens.size(1)} tokens do not fit: max_len is {self.max_len}"
            )
        self.room = 0  # until all is read
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
            k, v = layer.key_value(context.flatten(0, 1)).chunk(2, dim=-1)
            k, v = self._split_heads(k), self._split_heads(v)  # (B, H, n or l, d)
            if layer is self.layers[-1]:  # of its results only the last is wanted
                x, h = x[:, -1:], h[:, -1:]
            l = x.size(1)
            q = self._split_heads(layer.query(h.flatten(0, 1)))  # (B, H, l, d)
            if layer.is_rotary:
                q = apply_rotation(q, tuple(part[:, -l:] for part in turn))
                k = apply_rotation(k, turn)
            if not self.is_static:
                layer.make_room(v.size(2))
            layer.keys[:, : k.size(2)] = k.flatten(0, 1)
            layer.values[:, :, : v.size(2)] = v.flatten(0, 1).mT
            heads = self._attend(q, k, v, pads).transpose(1, 2)  # (B, l, H, d)
            x = x + self._output(layer, heads.reshape(B * l, D)).view(B, l, D)
            x = x + self._mlp(layer, x.reshape(B * l, D)).view(B, l, D)

        self.seen.copy_(torch.tensor([[n], [n - prefix_len]]))
        self.position.copy_((first + n) * torch.ones_like(self.position))
        self.has_padding = pad_mask is not None
        self.padding.fill_(False)
        if self.has_padding:
            self.padding[:, 0, :n] = pad_mask
        self.room = float("inf") if self.max_len is None else self.max_len - n
        return self._logits(x[:, -1])

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """One more token of each row, (B,) -> logits of the next, (B, V), float32.

        From a recorded graph the result is overwritten by the next step.

        Raises:
            ValueError: no prompt was read, or `max_len` tokens were.
        """
        if self.room < 1:
            most = "" if self.max_len is None else f", of less than {self.max_len}"
            raise ValueError(f"no room for a token: read a prompt first{most}")
        self.room -= 1
        if self.graph is None:
            return self._step(tokens)
        self.graph_tokens.copy_(tokens)
        self.graph.replay()
        return self.graph_logits

    def _step(self, tokens: Tensor) -> Tensor:
        x = self.model.embedding(tokens.long())  # (B, D)
        rotation = rotation_at(self.position, x.size(1) // self.num_heads)
        for layer in self.layers:
            h = layer.norm(x)
            q = self._split_heads(layer.query(h))  # (B, H, 1, d)
            k, v = layer.key_value(h).chunk(2, dim=-1)
            k, v = self._split_heads(k), self._split_heads(v)  # (B, H, 1, d)
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
        layer.make_room(held)
        layer.keys.index_copy_(1, slot, k.flatten(0, 1).to(layer.keys.dtype))
        layer.values.index_copy_(2, slot, v.flatten(0, 1).mT.to(layer.values.dtype))
        if is_hybrid and (self.has_padding or self.is_static):
            self.padding.index_fill_(2, slot, False)
        keys, values, hidden = layer.keys[:, :held], layer.values[:, :, :held], None
        if self.is_static:  # all places, and the empty ones hidden
            hidden = torch.arange(capacity, device=seen.device) > seen  # (capacity)
            hidden = hidden | self.padding if is_hybrid else hidden
        elif is_hybrid and self.has_padding:
            hidden = self.padding[:, :, :held]  # (B, 1, held)
        B, H, _, d = q.shape
        # A column as the transpose of a row: with other strides the product is slow.
        q = (q * d**-0.5).to(keys.dtype).reshape(B * H, d)[:, None].mT
        scores = torch.bmm(keys, q).view(B, H, -1)  # (B, H, held)
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        weights = scores.softmax(-1, dtype=self.dtype).to(values.dtype)
        weights = weights.view(B * H, -1)[:, None].mT
        return torch.bmm(values, weights).view(B, H * d)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, pad_mask: Tensor | None
    ) -> Tensor:
        """What `attention.attend` gives; faster with few bits on a CPU."""
        l, n = q.size(2), k.size(2)
        if self.precision == "float32" or q.is_cuda or pad_mask is not None:
            return attend(q, k, v, pad_mask=pad_mask)
        # PyTorch's CPU kernel gains little from bfloat16, and computes masked scores.
        q, k, v = (
            part.bfloat16().contiguous() for part in (q * q.size(3) ** -0.5, k, v)
        )
        heads = torch.empty_like(q)
        for start in range(0, l, BLOCK):
            end = min(start + BLOCK, l)
            seen = n - l + end  # keys that the last query of the block sees
            scores = q[:, :, start:end] @ k[:, :, :seen].mT  # (B, H, block, seen)
            later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
            scores[..., seen - (end - start) :].masked_fill_(later, float("-inf"))
            heads[:, :, start:end] = scores.softmax(-1) @ v[:, :, :seen]
        return heads

    def _output(self, layer: _Layer, heads: Tensor) -> Tensor:
        return layer.output(heads) + layer.output_bias  # (R, D)

    def _mlp(self, layer: _Layer, x: Tensor) -> Tensor:
        return layer.down(gelu(layer.up(layer.mlp_norm(x))))  # (R, D)

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
                self._step(self.graph_tokens)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.graph_logits = self._step(self.graph_tokens)
