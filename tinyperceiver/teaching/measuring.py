"""What can be measured of a trained model, and of the tokens that it makes."""

from collections.abc import Callable, Iterable, Sequence
from importlib import resources

import numpy as np
import torch
from torch import Tensor, nn

from tinyperceiver.model.attention import HybridAttention, attend
from tinyperceiver.model.rotary import Rotation, apply_rotation
from tinyperceiver.music.vocabulary import NOTE_OFF, STEPS_PER_SECOND, TIME_SHIFT
from tinyperceiver.teaching.music import played

# The shipped checkpoint


def tiny_weights() -> dict[str, Tensor]:
    """The weights of the shipped checkpoint "tiny", in float32, under our names."""
    from safetensors.torch import load

    file = resources.files("tinyperceiver") / "assets" / "tiny" / "model.safetensors"
    return {name: tensor.float() for name, tensor in load(file.read_bytes()).items()}


def trained_first_layer() -> tuple[Tensor, dict[str, Tensor]]:
    """From the checkpoint that ships: its embedding, (V, D), and its hybrid layer's weights.

    The weights are named as `HybridAttention(256, 4)` names them.
    """
    weights = tiny_weights()
    start = "hybrid_layer.attention."
    layer = {
        name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)
    }
    return weights["embedding.weight"], layer


@torch.inference_mode()
def attention_weights(
    layer: HybridAttention, x: Tensor, prefix: Tensor, rotation: Rotation
) -> Tensor:
    """The weights inside a hybrid layer, one batch row: (H, l, n)."""
    x = layer.norm(x)
    context = torch.cat((layer.prefix_norm(prefix), x), dim=1)
    inner, l, n = layer.attention, x.size(1), context.size(1)
    q = inner._split_heads(inner.query(x))
    k = inner._split_heads(inner.key(context))
    q = apply_rotation(q, tuple(part[:, -l:] for part in rotation))
    k = apply_rotation(k, rotation)
    # Values that name their own key: what attention mixes of them are its weights.
    names = torch.eye(n).expand(1, inner.num_heads, n, n)
    return attend(q, k, names)[0]


# Training


def bytes_kept(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, the weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Views of one storage count once; it is held, so that none takes its place.
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of()
    del loss
    return sum(storage.nbytes() for storage in kept.values())


# Music as numbers


# Name -> unit, of what `numbers_of` measures.
NUMBERS = {
    "notes": "per second",
    "pitch range": "semitones",
    "note length": "seconds",
    "keys down": "on average",
    "silence": "% of the time",
    "repetition": "% of 4-note runs",
    "stuck": "% of the notes",
    "loose": "% of note-offs",
}


STUCK_AFTER = 5  # seconds


def numbers_of(tokens: Sequence[int] | np.ndarray, begin: int) -> dict[str, float]:
    """Eight numbers of what tokens play from place `begin` on; in the units of `NUMBERS`.

    pitch range: from the 5th to the 95th percentile. note length: the median, of keys
    held as the tokens say, pedal included. repetition: runs of four pitches that came
    before. stuck: keys struck more than 5 seconds before the end and not lifted. loose:
    note-offs that lift no key.
    """
    music, ids = played(tokens), np.asarray(tokens)
    first, last = music.clock[begin], music.clock[-1]
    is_new = music.place >= begin
    start, end, pitch = music.start[is_new], music.end[is_new], music.pitch[is_new]
    seconds = max(last - first, 1 / STEPS_PER_SECOND)
    if not len(start):
        return dict.fromkeys(NUMBERS, 0.0) | {"silence": 100.0}
    # How many keys are down in each step of 10 ms.
    grid = np.zeros(round(last * STEPS_PER_SECOND) + 2)
    np.add.at(grid, np.rint(music.start * STEPS_PER_SECOND).astype(int), 1)
    np.add.at(grid, np.rint(music.end * STEPS_PER_SECOND).astype(int), -1)
    down = np.cumsum(grid)[round(first * STEPS_PER_SECOND) : -2]
    runs = [tuple(pitch[i : i + 4]) for i in range(len(pitch) - 3)]
    is_stuck = music.is_open[is_new] & (start < last - STUCK_AFTER)
    early = start < last - STUCK_AFTER
    offs = (ids >= NOTE_OFF) & (ids < TIME_SHIFT)
    offs[:begin] = False
    low, high = np.percentile(pitch, [5, 95])
    values = (
        len(start) / seconds,
        high - low,
        np.median(end - start),
        down.mean() if len(down) else 0,
        100 * (down == 0).mean() if len(down) else 0,
        100 * (1 - len(set(runs)) / max(len(runs), 1)) if runs else 0,
        100 * is_stuck.sum() / max(early.sum(), 1),
        100 * music.is_loose[offs].mean() if offs.any() else 0,
    )
    return dict(zip(NUMBERS, map(float, values), strict=True))


PROFILE_SECONDS = 5


def profiles(tokens: Sequence[int] | np.ndarray, begin: int) -> np.ndarray:
    """Which pitch classes are struck how often: (windows, 12), each row less its mean.

    The windows are 5 seconds long, from place `begin` on; what is left over at the end
    is left out.
    """
    music = played(tokens)
    since = music.start - music.clock[begin]
    number = int((music.clock[-1] - music.clock[begin]) // PROFILE_SECONDS)
    window = np.floor(since / PROFILE_SECONDS).astype(int)
    is_in = (music.place >= begin) & (window < number)
    counts = np.zeros((number, 12))
    np.add.at(counts, (window[is_in], music.pitch[is_in] % 12), 1)
    return counts - counts.mean(axis=1, keepdims=True)


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of profiles, row by row: (windows, 12) twice -> those with notes."""
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1)[size > 0] / size[size > 0]


def likeness_by_lag(pieces: Iterable[np.ndarray], lags: int) -> np.ndarray:
    """How alike the windows 1, 2, ... `lags` apart are: (pieces, lags).

    Each piece is a row of profiles. One too short for all lags is NaN throughout: else
    longer lags would be of other music.
    """
    rows = []
    for piece in pieces:
        row = [likeness(piece[lag:], piece[:-lag]) for lag in range(1, lags + 1)]
        is_whole = all(map(len, row))
        rows.append([p.mean() for p in row] if is_whole else [np.nan] * lags)
    return np.array(rows).reshape(-1, lags)


def longest_copy(tokens: list[int], pieces: dict[str, np.ndarray]) -> tuple[int, int, str]:
    """The longest run of `tokens` that stands in a piece: place, length, the piece's name."""
    text = "".join(map(chr, tokens))
    place, best, source = 0, 0, ""
    for name, piece in pieces.items():
        whole = "".join(map(chr, piece))
        start = 0
        while start + best < len(text):
            if text[start : start + best + 1] in whole:
                place, best, source = start, best + 1, name
            else:
                start += 1
    return place, best, source
