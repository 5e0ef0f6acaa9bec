"""How well a model predicts held-out music: nats per token on fixed windows.

Axis letters: n tokens in the window, m prefix, l latents; n = m + l.
"""

import math
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from tinyperceiver.dataset.token_file import DataError, TokenFile
from tinyperceiver.dataset.windows import Batch, count_windows, fixed_windows
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.training.step import nats_per_token

__all__ = [
    "Evaluation",
    "Gain",
    "Windowing",
    "evaluate",
    "fit_windows",
    "mean_and_error",
    "measure_gain",
]

# Of windows: their number, and the tokens of their prefix and latents, the largest first.
MOST, FEWEST = 64, 8
SIZES = 512, 256, 128, 64, 32, 16


class Windowing(NamedTuple):
    """Arguments of `fixed_windows`."""

    num_windows: int
    prefix_len: int  # m
    num_latents: int  # l


def fit_windows(
    config: PerceiverConfig,
    data: TokenFile,
    *,
    num_windows: int | None = None,
    prefix_len: int | None = None,
    num_latents: int | None = None,
) -> Windowing:
    """Choose windows to measure on that suit the model and the lengths of the pieces.

    A window has 512 tokens of prefix and 512 latents, or what the model takes if that is
    less. Both are halved until half of the pieces are long enough for a window and there
    are 8 windows. By default all windows are used, up to 64.

    Args:
        config: the shape of the model.
        data: the pieces.
        num_windows, prefix_len, num_latents: what is chosen already.

    Raises:
        DataError: no piece is long enough for the smallest window.
    """
    for size in SIZES:
        m = min(size, config.max_prefix_len) if prefix_len is None else prefix_len
        l = min(size, config.max_latents) if num_latents is None else num_latents
        counts = count_windows(data, m, l)
        if counts.sum() >= FEWEST and (counts > 0).mean() >= 0.5:
            break
    if not counts.any():
        raise DataError(
            f"{data.path} is too short to measure on: its longest piece has "
            f"{data.lengths.max()} tokens, and a window takes {m + l + 1}; prepare more "
            f"music, or longer pieces"
        )
    return Windowing(num_windows or min(MOST, int(counts.sum())), m, l)


class Evaluation(NamedTuple):
    """The result of `evaluate`: held-out nats, and the windows measured on."""

    nats: float  # per token
    error: float  # standard error of nats, by piece; NaN if there is one piece
    windows: int
    pieces: int
    prefix_len: int  # m, of each window
    num_latents: int  # l, of each window

    @property
    def tokens(self) -> int:
        """Number of predicted tokens."""
        return self.windows * self.num_latents


def evaluate(
    model: PerceiverAR,
    data: TokenFile,
    *,
    num_windows: int | None = None,
    prefix_len: int | None = None,
    num_latents: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure nats per token of a model, without dropout, always on the same windows.

    Args:
        model: on any device; its mode is not changed.
        data: pieces that it was not trained on, e.g. valid.bin.
        num_windows, prefix_len, num_latents: of the windows; by default what
            `fit_windows` chooses.
        progress: show a progress bar.

    Returns:
        The nats per token with their standard error, and the windows measured on.

    Raises:
        DataError: `data` holds tokens that the model does not know, or too few windows.
    """
    windows = fit_windows(
        model.config,
        data,
        num_windows=num_windows,
        prefix_len=prefix_len,
        num_latents=num_latents,
    )
    nats, piece = _measure(model, data, windows, progress)
    return Evaluation(
        *mean_and_error(nats, piece), len(nats), len(np.unique(piece)), *windows[1:]
    )


class Gain(NamedTuple):
    """Held-out nats of two models on the same windows, and what they differ by."""

    before: float  # nats per token
    after: float
    difference: float  # before - after
    error: (
        float  # standard error of the difference, by piece; NaN if there is one piece
    )
    pieces: int


def measure_gain(before: PerceiverAR, after: PerceiverAR, data: TokenFile) -> Gain:
    """Measure two models on the same windows, which both can read.

    Their difference is surer than either: most of what makes one window harder than
    another is the same for both.

    Raises:
        DataError: as `evaluate`.
    """
    fitting = (fit_windows(model.config, data) for model in (before, after))
    windows = min(fitting, key=lambda found: found.prefix_len + found.num_latents)
    first, piece = _measure(before, data, windows)
    second, _ = _measure(after, data, windows)
    difference = mean_and_error(first - second, piece)
    means = float(first.mean()), float(second.mean())
    return Gain(*means, *difference, len(np.unique(piece)))


def _measure(
    model: PerceiverAR, data: TokenFile, windows: Windowing, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Nats per token of each window, and the number of its piece: (windows,) each."""
    if (highest := data.tokens.max()) >= model.config.vocab_size:
        raise DataError(
            f"{data.path} holds token {highest}; the model knows 0 ... "
            f"{model.config.vocab_size - 1}"
        )
    device = next(model.parameters()).device
    rows = fixed_windows(data, *windows).split(1)
    nats = np.empty(len(rows))
    was_training = model.training
    model.eval()
    try:
        for i, row in enumerate(tqdm(rows, unit="window", disable=not progress)):
            here = Batch(
                row.tokens.to(device), row.targets.to(device), None, row.prefix_len
            )
            nats[i] = nats_per_token(model, here)
    finally:
        model.train(was_training)
    return nats, fixed_windows(_PieceNumbers(data), *windows).tokens[:, 0].numpy()


def mean_and_error(
    values: np.ndarray, piece: np.ndarray, counts: np.ndarray | None = None
) -> tuple[float, float]:
    """Mean over windows, and its standard error if pieces were drawn, not windows.

    Windows of one piece resemble one another, so they are no independent draws.
    Source: Cochran 1977, Sampling Techniques, chapter 6, the variance of a ratio.

    Args:
        values: of each window, (windows,).
        piece: which one each window is of, (windows,).
        counts: how many tokens each value is the mean of, (windows,), if they differ.

    Returns:
        The mean, and its error; NaN where there is one piece.
    """
    counts = np.ones(len(values)) if counts is None else counts
    mean = (values * counts).sum() / counts.sum()
    _, group = np.unique(piece, return_inverse=True)
    sums = np.bincount(group, (values - mean) * counts)
    number = len(sums)
    if number < 2:
        return float(mean), math.nan
    error = math.sqrt(number / (number - 1) * (sums**2).sum()) / counts.sum()
    return float(mean), float(error)


class _PieceNumbers:
    """A token file that holds, in place of each token, the number of its piece."""

    def __init__(self, data: TokenFile) -> None:
        self.path, self.lengths = data.path, data.lengths

    def __getitem__(self, piece: int) -> np.ndarray:
        return np.full(self.lengths[piece], piece)
