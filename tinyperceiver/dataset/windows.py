"""Windows of a token file, to train and to measure on.

Axis letters: B batch, n tokens in the window, m prefix, l latents; n = m + l.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tinyperceiver.dataset.token_file import DataError, TokenFile
from tinyperceiver.music.vocabulary import LONGEST_SHIFT, PAD, TIME_SHIFT, VELOCITY

__all__ = [
    "IGNORED",
    "Batch",
    "Windows",
    "count_windows",
    "fixed_windows",
    "targets_without_replacement",
    "transform",
]

IGNORED = -100  # a target that no loss is taken of, as PyTorch has it
GROUP = 256  # blocks that a batch without replacement draws from
PIANO = 21, 108  # lowest and highest MIDI pitch of a piano


class Batch(NamedTuple):
    """What a step of training reads."""

    tokens: Tensor  # ids, (B, n)
    targets: Tensor  # the token after each latent, or IGNORED, (B, l)
    pad_mask: Tensor | None  # True at padding before a piece, (B, n); None: no padding
    prefix_len: int  # m

    def split(self, rows_at_once: int) -> "list[Batch]":
        """The same rows in several batches, for less memory."""
        rows = range(0, len(self.tokens), rows_at_once)
        return [
            Batch(
                self.tokens[i : i + rows_at_once],
                self.targets[i : i + rows_at_once],
                None if self.pad_mask is None else self.pad_mask[i : i + rows_at_once],
                self.prefix_len,
            )
            for i in rows
        ]


def _check_lengths(data: TokenFile) -> None:
    if data.lengths.max() < 2:
        raise DataError(f"{data.path} has no piece of two tokens or more")


class Windows(Dataset):
    """Random windows of the pieces of a token file, each of one piece.

    `windows[step, rows]` returns those rows of the batch of a step. Every draw depends
    only on the seed, the step and the row. So a batch can be split among processes, and
    an interrupted run gets the same data again.

    All rows of a step have one prefix length, drawn from 0 ... max_prefix_len. Every
    position where a window fits is equally likely. A piece that is too short for a
    window counts as one position. It is padded on the left, where the model ignores
    padding. A piece that is too short for the latents is also padded on the right,
    where the causal mask hides the padding.

    With `targets`, only prefix lengths and transpositions are drawn. `targets` says
    which tokens each window predicts, and the window holds what comes before them. The
    other latents are context, and their own targets are ignored. Near the beginning of
    a piece, padding replaces the prefix.

    Args:
        data: pieces to draw from.
        num_latents: l.
        max_prefix_len: longest prefix m.
        seed: of the random draws.
        padding: the token id used as padding, in the model's vocabulary.
        transpose: a window is moved up or down by at most so many semitones, and by
            fewer where it would leave the piano's keys.
        stretch: its time is stretched or shortened by at most this fraction: 0.05 is
            5 %.
        targets: from `targets_without_replacement`: for each step and row the piece,
            the index of its first target and the index after its last. Without
            stretch.

    Raises:
        DataError: no piece has two tokens.
    """

    def __init__(
        self,
        data: TokenFile,
        num_latents: int,
        max_prefix_len: int,
        *,
        seed: int = 0,
        padding: int = PAD,
        transpose: int = 0,
        stretch: float = 0.0,
        targets: list[np.ndarray] | None = None,
    ) -> None:
        _check_lengths(data)
        self.data = data
        self.num_latents = num_latents
        self.max_prefix_len = max_prefix_len
        self.seed = seed
        self.padding = padding
        self.transpose = transpose
        self.stretch = stretch
        self.targets = targets

    def __getitem__(self, key: tuple[int, range]) -> Batch:
        step, rows = key
        prefix_len = int(self._rng(step).integers(self.max_prefix_len + 1))
        n = prefix_len + self.num_latents
        # How many windows of n tokens and the next one fit: at least one, padded.
        places = np.where(self.data.lengths > 1, self.data.lengths - n, 0)
        places = np.cumsum(np.where(self.data.lengths > 1, places.clip(min=1), 0))
        tokens = np.full((len(rows), n), self.padding)
        targets = np.full((len(rows), self.num_latents), IGNORED)
        num_pads = np.zeros(len(rows), dtype=np.int64)
        for i, row in enumerate(rows):
            rng = self._rng(step, 1 + row)  # 0 would repeat the prefix's draw
            if self.targets is None:
                place = rng.integers(places[-1])
                piece = int(np.searchsorted(places, place, side="right"))
                start = place - (places[piece - 1] if piece else 0)
                # Shortened time may need fewer tokens; hardly ever an eighth fewer.
                end = start + n + 1 + (n // 8 if self.stretch else 0)
                num_targets = self.num_latents
            else:
                piece, first, end = self.targets[step][row]
                start = max(end - n - 1, 0)
                num_targets = end - first
            window = self.data[piece][start:end].astype(np.int64)
            if self.transpose or self.stretch:
                window = transform(
                    window,
                    rng.integers(-self.transpose, self.transpose + 1),
                    1 + rng.uniform(-self.stretch, self.stretch),
                )[: n + 1]
            # Latents come first: what is too short has less prefix, then fewer latents.
            num_pads[i] = pads = min(n + 1 - len(window), prefix_len)
            tokens[i, pads : pads + len(window[:-1])] = window[:-1]
            after = window[1 + prefix_len - pads :]
            known = max(len(after) - num_targets, 0)  # context, though in the latents
            targets[i, known : len(after)] = after[known:]
        pad_mask = np.arange(n) < num_pads[:, None]
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(targets),
            torch.from_numpy(pad_mask) if pad_mask.any() else None,
            prefix_len,
        )

    def _rng(self, step: int, *row: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, step, *row))


def targets_without_replacement(
    data: TokenFile, stages: list[tuple[int, int, int]], *, seed: int = 0
) -> list[np.ndarray]:
    """Choose the targets of each step, so that each comes once before any comes again.

    An *epoch* holds each target once: each token that has another before it in its
    piece. For each epoch, pieces are cut anew into blocks of as many tokens as the most
    latents of any stage, and the blocks are shuffled. A stage takes 256 blocks at a
    time. It goes through their first windows, then through their second ones, and so
    on, so that the windows of a batch are of different blocks. The next stage, whose
    windows may be of another size, begins with the next 256 blocks: what is left of the
    last ones is skipped.

    Args:
        stages: one after the other, (steps, windows per step, latents per window).
        seed: another seed gives another order.

    Returns:
        For each step an array (windows, 3): the piece, the place of the first target in
        it, and the place after the last. Windows at the end of a block may have fewer
        targets than latents, but never none.

    Raises:
        DataError: no piece has two tokens.
    """
    _check_lengths(data)
    longest = max(num_latents for _, _, num_latents in stages)
    found, epoch, next_group = [], 0, 0
    for steps, batch_size, num_latents in stages:
        parts, missing = [], steps * batch_size
        while missing:
            rng = np.random.default_rng((seed, epoch, 0, 1))  # of no step and no row
            windows, groups = _epoch(data.lengths, longest, num_latents, rng)
            first = np.searchsorted(groups, next_group)
            parts.append(windows[first : first + missing])
            missing -= len(parts[-1])
            if missing:
                epoch, next_group = epoch + 1, 0
            else:
                next_group = groups[first + len(parts[-1]) - 1] + 1
        found += [*np.concatenate(parts).reshape(steps, batch_size, 3)]
    return found


def _epoch(
    lengths: np.ndarray, longest: int, num_latents: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of an epoch in order, (W, 3), and the group of each, (W,)."""
    num_targets = (lengths - 1).clip(min=0)
    num_blocks = -(-num_targets // longest)  # of each piece, rounded up
    piece, number = _count_each(num_blocks)
    # A piece need not fill its blocks: move them, so that they end elsewhere each time.
    shift = rng.integers(num_blocks * longest - num_targets + 1)
    first = 1 + number * longest - shift[piece]
    end = np.minimum(first + longest, lengths[piece])
    first = first.clip(min=1)
    order = rng.permutation(len(piece))
    piece, first, end = piece[order], first[order], end[order]

    block, part = _count_each(-(-(end - first) // num_latents))
    order = np.lexsort((part, block // GROUP))
    block, part = block[order], part[order]
    first = first[block] + part * num_latents
    end = np.minimum(first + num_latents, end[block])
    return np.stack((piece[block], first, end), axis=1), block // GROUP


def _count_each(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts 2, 0, 3: whose turn it is, 0 0 2 2 2, and which one, 0 1 0 1 2."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)


def transform(tokens: np.ndarray, semitones: int, factor: float) -> np.ndarray:
    """Move token ids, (length,), by `semitones`, and multiply their time by `factor`.

    Notes that would leave the keys of a piano keep all of them from moving so far. Time
    is rounded where events stand, not between them, so that errors do not add up.

    A factor other than 1 may change the number of tokens. Of a wait after the last
    event, which the end of the window may have cut, only whole seconds are kept.
    """
    tokens = tokens.copy()
    is_key = tokens < TIME_SHIFT
    if semitones and is_key.any():
        pitch = tokens[is_key] % 128
        lowest = min(PIANO[0] - pitch.min(), 0)
        highest = max(PIANO[1] - pitch.max(), 0)
        tokens[is_key] += np.clip(semitones, lowest, highest)
    if factor == 1 or not len(tokens):
        return tokens
    is_shift = (tokens >= TIME_SHIFT) & (tokens < VELOCITY)
    steps = np.cumsum(np.where(is_shift, tokens - TIME_SHIFT + 1, 0))
    events = np.flatnonzero(~is_shift)
    time = np.rint(steps[np.append(events, -1)] * factor).astype(np.int64)
    longest, rest = np.divmod(np.diff(time, prepend=0), LONGEST_SHIFT)
    sizes = longest + (rest > 0) + 1
    sizes[-1] = longest[-1]  # what stands after the last event
    after = np.cumsum(sizes)  # the place after each event
    stretched = np.full(after[-1], VELOCITY - 1)
    stretched[after[:-1] - 1] = tokens[events]
    has_rest = rest[:-1] > 0
    stretched[(after[:-1] - 2)[has_rest]] = TIME_SHIFT - 1 + rest[:-1][has_rest]
    return stretched


def count_windows(data: TokenFile, prefix_len: int, num_latents: int) -> np.ndarray:
    """How many windows each piece has for `fixed_windows` to choose from: (pieces,)."""
    room = (data.lengths - prefix_len - num_latents).clip(min=0)
    return -(-room // num_latents)  # rounded up


def fixed_windows(
    data: TokenFile, num_windows: int, prefix_len: int, num_latents: int
) -> Batch:
    """The same windows at every call, evenly spread, to measure nats per token on.

    They are chosen among those that begin a multiple of `num_latents` tokens after the
    start of a piece, and are whole: no padding.

    Raises:
        DataError: fewer than `num_windows` such windows.
    """
    n = prefix_len + num_latents
    places = np.cumsum(count_windows(data, prefix_len, num_latents))
    if places[-1] < num_windows:
        raise DataError(
            f"{data.path} has {places[-1]} windows of {n + 1} tokens, {num_latents} "
            f"apart, not {num_windows}: use more data, shorter windows or fewer of them"
        )
    windows = np.empty((num_windows, n + 1), dtype=np.int64)
    for i in range(num_windows):
        place = i * places[-1] // num_windows
        piece = int(np.searchsorted(places, place, side="right"))
        start = (place - (places[piece - 1] if piece else 0)) * num_latents
        windows[i] = data[piece][start : start + n + 1]
    whole = torch.from_numpy(windows)
    return Batch(whole[:, :-1], whole[:, -num_latents:], None, prefix_len)
