"""Decoding on CPUs: the exported graph, run by ONNX Runtime, and the rings it reads.

Axis letters: B batch, n tokens, m prefix, l latents, N places of a ring, H heads, d
channels per head, V vocabulary; n = m + l.
"""

import threading
import weakref
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tinyperceiver.engines.decoder import Decoder
from tinyperceiver.engines.onnx_graph import HIDDEN, Graph
from tinyperceiver.model.perceiver_ar import PerceiverAR

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["CPU_PRECISIONS", "OnnxDecoder"]

CPU_PRECISIONS = {"float32": 32, "int8": 8, "int4": 4}  # bits of a weight
ROWS = 512  # latents of all prompts that are read at once
SPARE = 64  # places by which a ring grows, at least

# A session has the weights of its model, packed as its processor reads them best.
_sessions: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_lock = threading.Lock()  # two threads must not pack the same weights


def session_of(model: PerceiverAR, bits: int) -> "InferenceSession":
    """The model's graph, ready to run; made anew when the model has changed."""
    weights = [weight.detach() for weight in model.parameters()]
    # A version counts changes, but not those by way of `.data`: most of these change a
    # sum. In 16 bits a sum would be too coarse to tell.
    version = [0 if w.is_inference() else w._version for w in model.parameters()]
    place = [(w.dtype, w.data_ptr()) for w in weights]
    sums = [w.float().sum() for w in weights]
    state = torch.get_num_threads(), version, place, torch.stack(sums).tolist()
    with _lock:
        sessions = _sessions.setdefault(model, {})
        if bits not in sessions or sessions[bits][0] != state:
            sessions.pop(bits, None)  # to free its memory before more is taken
            sessions[bits] = state, _make_session(Graph(model, bits))
        return sessions[bits][1]


def _make_session(graph: Graph) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    proto = graph.to_proto(is_whole=False)
    named = [tensor.name for tensor in proto.graph.initializer if tensor.external_data]
    arrays = [
        onnxruntime.OrtValue.ortvalue_from_numpy(graph.weights[name]) for name in named
    ]
    options.add_external_initializers(named, arrays)
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class _Rings:
    """Keys and values of layers that hold the same places, and which may be seen.

    A ring has room for what it holds and little more, up to its capacity: places that
    are empty are read, too. When it is full, the newest overwrites the oldest.
    """

    def __init__(self, layers: int, heads: int, head_dim: int, capacity: int) -> None:
        self.layers, self.heads, self.head_dim = layers, heads, head_dim
        self.capacity = capacity

    def clear(self, batch_size: int, rows: int) -> None:
        """Forget all; `rows` is 1 if all prompts see the same places, else B."""
        shape = self.layers, batch_size, self.heads
        self.seen = self.room = 0
        self.keys = torch.zeros(*shape, self.head_dim, 0)  # (layers, B, H, d, room)
        self.values = torch.zeros(*shape, 0, self.head_dim)  # (layers, B, H, room, d)
        # Added to the scores; the last is that of the new token.
        self.mask = torch.zeros(rows, 1)  # (rows, room + 1)

    def grow(self, room: int) -> None:
        """Make room for so many places."""
        more = room - self.room
        self.keys = pad(self.keys, (0, more))
        self.values = pad(self.values, (0, 0, 0, more))
        self.mask = torch.cat(
            (
                self.mask[:, :-1],
                self.mask.new_full((len(self.mask), more), HIDDEN),
                self.mask[:, -1:],
            ),
            dim=1,
        )
        self.room = room

    def with_spare(self, places: int) -> int:
        """So many places and some more: to grow copies all, and empty ones are read."""
        return min(places + max(SPARE, places // 8), self.capacity)

    def append(self, keys: list, values: list, mask: Tensor, room: int) -> None:
        """Put those of a prompt's next tokens into the next places.

        keys: of each layer (B, H, d, new), values: (B, H, new, d), mask (rows, new).
        """
        if room > self.room:
            self.grow(room)
        places = slice(self.seen, self.seen + mask.size(1))
        for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
            self.keys[layer, ..., places] = torch.from_numpy(key)
            self.values[layer, ..., places, :] = torch.from_numpy(value)
        self.mask[:, places] = mask
        self.seen += mask.size(1)

    def open(self) -> bool:
        """Choose the place of a new token; whether the rings have moved in memory."""
        moved = self.seen == self.room < self.capacity
        if moved:
            self.grow(self.with_spare(self.room))
        self.slot = self.seen % self.capacity
        self.mask[:, self.slot] = HIDDEN  # what was there is too old to be seen
        return moved

    def close(self, keys: Tensor, values: Tensor) -> None:
        """Put a new token there: (layers, B, H, d, 1) and (layers, B, H, 1, d)."""
        self.keys[..., self.slot] = keys[..., 0]
        self.values[..., self.slot, :] = values[..., 0, :]
        self.mask[:, self.slot] = 0.0
        self.seen += 1


class OnnxDecoder(Decoder):
    """The decoder for CPUs, run by ONNX Runtime.

    All is computed in float32, whatever the model's dtype; with "float32" the logits
    are those of the model with a cache, up to rounding. A decoder keeps the weights
    that the model had when it was made. It refuses tokens outside the vocabulary.

    Args:
        model: on a CPU.
        batch_size, max_len: as in `Decoder`.
        precision: of the weights, "float32", "int8" or "int4", see `Graph`.

    Raises:
        ValueError: no such precision.
    """

    def __init__(
        self,
        model: PerceiverAR,
        *,
        batch_size: int = 1,
        max_len: int | None = None,
        precision: str = "float32",
    ) -> None:
        if precision not in CPU_PRECISIONS:
            raise ValueError(
                f"precision must be one of {tuple(CPU_PRECISIONS)} on a CPU, not "
                f"{precision!r}"
            )
        super().__init__(model, batch_size=batch_size, max_len=max_len)
        config = model.config
        self.session = session_of(model, CPU_PRECISIONS[precision])
        H, d = config.num_heads, config.num_channels // config.num_heads
        layers = config.num_self_attention_layers
        self.hybrid = _Rings(1, H, d, self.capacity)
        self.latent = _Rings(layers, H, d, self.latent_capacity)
        # What a step reads and writes, always at the same places in memory.
        self.tokens = torch.zeros(batch_size, 1, dtype=torch.long)
        self.position = torch.zeros(batch_size, 1, dtype=torch.long)
        self.prefix_len = torch.zeros(1, dtype=torch.long)
        self.logits = torch.zeros(batch_size, config.vocab_size)
        self.new = [
            (torch.zeros(n, batch_size, H, d, 1), torch.zeros(n, batch_size, H, 1, d))
            for n in (1, layers)
        ]

    def _read(self, tokens: Tensor, prefix_len: int, pad_mask: Tensor | None) -> Tensor:
        self._check_tokens(tokens)
        B, n = tokens.shape
        hidden = torch.zeros(B, n)
        position = torch.arange(n).expand(B, n)
        if pad_mask is not None:
            hidden.masked_fill_(pad_mask, HIDDEN)
            position = (position - pad_mask.sum(dim=1, keepdim=True)).clamp(min=0)
        self.hybrid.clear(B, B)
        self.latent.clear(B, 1)
        # In parts, since each latent looks at all before it: a part sees only those.
        length = max(1, ROWS // B)
        ends = [*range(prefix_len + length, n, length), n]
        for start, end in zip([0, *ends], ends, strict=False):
            part = slice(start, end)
            logits = self._read_part(
                tokens[:, part].long(),
                prefix_len if start == 0 else 0,
                position[:, part],
                hidden[:, part],
                n,
            )
        self.position.copy_(position[:, -1:] + 1)
        self.binding = None  # the rings are new
        return logits

    def _read_part(
        self, tokens: Tensor, prefix_len: int, position: Tensor, hidden: Tensor, n: int
    ) -> Tensor:
        l = tokens.size(1) - prefix_len
        latent_mask = pad(self.latent.mask[0, :-1], (0, l))
        inputs = {
            "tokens": tokens,
            "prefix_len": torch.tensor([prefix_len]),
            "position": position,
            "mask": torch.cat((self.hybrid.mask[:, :-1], hidden), dim=1),
            "latent_mask": latent_mask,
        }
        for i, (key, value) in enumerate(self._held()):
            inputs |= {f"key_{i}": key, f"value_{i}": value}
        outputs = self.session.run(
            None, {name: array.contiguous().numpy() for name, array in inputs.items()}
        )
        keys, values = outputs[1::2], outputs[2::2]
        self.hybrid.append(keys[:1], values[:1], hidden, self.hybrid.with_spare(n))
        held = self.latent.seen + l
        is_last = self.hybrid.seen == n
        room = self.latent.with_spare(held) if is_last else held
        self.latent.append(keys[1:], values[1:], latent_mask[None, -l:], room)
        return torch.from_numpy(outputs[0])

    def _check_tokens(self, tokens: Tensor) -> None:
        size = self.model.config.vocab_size
        wrong = tokens[(tokens < 0) | (tokens >= size)]
        if len(wrong):  # -1 would be read as the last
            raise ValueError(f"token {wrong[0]} is not in the vocabulary of {size}")

    def _held(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer."""
        rings = self.hybrid, self.latent
        return [
            pair for ring in rings for pair in zip(ring.keys, ring.values, strict=True)
        ]

    def _step(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        tokens = tokens.reshape(self.batch_size, 1)
        moved = [rings.open() for rings in (self.hybrid, self.latent)]
        if self.binding is None or any(moved):
            self._bind()
        self.tokens.copy_(tokens)
        self.session.run_with_iobinding(self.binding)
        for rings, new in zip((self.hybrid, self.latent), self.new, strict=True):
            rings.close(*new)
        self.position += 1
        return self.logits.clone()

    def _bind(self) -> None:
        """Let the session read and write where the tensors are."""
        inputs = {
            "tokens": self.tokens,
            "prefix_len": self.prefix_len,
            "position": self.position,
            "mask": self.hybrid.mask,
            "latent_mask": self.latent.mask[0],
        }
        outputs = {"logits": self.logits}
        new = [pair for pairs in self.new for pair in zip(*pairs, strict=True)]
        for i, (held, made) in enumerate(zip(self._held(), new, strict=True)):
            inputs |= {f"key_{i}": held[0], f"value_{i}": held[1]}
            outputs |= {f"new_key_{i}": made[0], f"new_value_{i}": made[1]}
        self.binding = self.session.io_binding()
        for bind, tensors in (
            (self.binding.bind_input, inputs),
            (self.binding.bind_output, outputs),
        ):
            for name, tensor in tensors.items():
                kind = np.int64 if tensor.dtype == torch.long else np.float32
                bind(name, "cpu", 0, kind, tuple(tensor.shape), tensor.data_ptr())
