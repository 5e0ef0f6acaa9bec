"""The simplest model that could work: it counts which token follows which."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["NGramCounts", "NGramModel", "count_ngrams", "interpolate", "ngram_keys"]


def ngram_keys(tokens: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Write each run of n tokens as one number, whose digits in base V are the tokens.

    The last token is the last digit: it is `key % V`. The tokens before it are
    `key // V`.

    Args:
        tokens: ids 0 ... V - 1 of one piece, (length,).

    Returns:
        Keys in the order of the piece: int64, (length - n + 1,), none if it is shorter
        than n. With n = 0 each is 0, the key of the empty run.
    """
    keys = np.zeros(max(len(tokens) - n + 1, 0), dtype=np.int64)
    for i in range(n):
        keys = keys * vocab_size + tokens[i : i + len(keys)]
    return keys


class NGramCounts(NamedTuple):
    """The runs of n tokens that occur; a context is all of a run but its last token."""

    ngrams: np.ndarray  # keys of the different runs, sorted
    counts: np.ndarray  # how often each of them occurs
    contexts: np.ndarray  # keys of the different contexts, sorted
    totals: np.ndarray  # c(h): how often a token follows each of them
    distinct: np.ndarray  # u(h): how many different ones do


def count_ngrams(pieces: list[np.ndarray], n: int, vocab_size: int) -> NGramCounts:
    """Count n-grams within each piece, (length,) ids, never across two pieces."""
    keys = np.concatenate([ngram_keys(piece, n, vocab_size) for piece in pieces])
    ngrams, counts = np.unique(keys, return_counts=True)
    # Each run stands in `ngrams` once, so a context once for each of its followers.
    contexts, first, distinct = np.unique(
        ngrams // vocab_size, return_index=True, return_counts=True
    )
    return NGramCounts(
        ngrams, counts, contexts, np.add.reduceat(counts, first), distinct
    )


def _find(keys: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each key in the sorted `table`, and whether it is there.

    A key that is missing gets the index of a neighbour.
    """
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return place, table[place] == keys


def interpolate(
    table: NGramCounts, keys: np.ndarray, shorter: np.ndarray, vocab_size: int
) -> np.ndarray:
    """Return the probability of each n-gram's last token after the n - 1 before it.

    A context h was followed c(h) times, by u(h) different tokens. To these visits we
    add u(h) invented ones, in which the shorter context h' predicts the token:

        p(b | h) = (c(hb) + u(h) p(b | h')) / (c(h) + u(h))

    where h' is h without its oldest token. A context never met leaves p(b | h').
    Source: Witten and Bell 1991 (the third of their methods, C), in the interpolated
    form of Chen and Goodman 1999.

    Args:
        table: counts of n-grams.
        keys: which n-grams, any number of them.
        shorter: p(b | h') of each.

    Returns:
        p(b | h), of the shape of `keys`.
    """
    row, is_known = _find(keys // vocab_size, table.contexts)
    place, is_counted = _find(keys, table.ngrams)
    count, new = table.counts[place] * is_counted, table.distinct[row]
    longer = (count + new * shorter) / (table.totals[row] + new)
    # Of an unknown context, `row` was a neighbour's: what came of it goes.
    return np.where(is_known, longer, shorter)


class NGramModel:
    """Predicts a token from the order - 1 tokens before it, by counts.

    Args:
        order: the longest runs that are counted, 1 token or more.
        vocab_size: V, number of token ids.

    Raises:
        ValueError: `order` is below 1, or too long for keys of 63 bits.
    """

    def __init__(self, order: int, vocab_size: int) -> None:
        if order < 1 or vocab_size**order > 2**63:
            raise ValueError(f"no runs of {order} among {vocab_size} tokens")
        self.order = order
        self.vocab_size = vocab_size
        self.tables: list[NGramCounts] = []  # of runs of 1, 2, ... tokens

    def fit(self, pieces: Iterable[Sequence[int] | np.ndarray]) -> "NGramModel":
        """Count the n-grams of pieces, ids (length,) each, and return `self`.

        Raises:
            ValueError: there is no token, or one is not in 0 ... V - 1.
        """
        pieces = [self._ids(piece) for piece in pieces]
        longest = max(map(len, pieces), default=0)
        if longest == 0:
            raise ValueError("no tokens to count")
        lengths = range(1, min(self.order, longest) + 1)
        self.tables = [count_ngrams(pieces, n, self.vocab_size) for n in lengths]
        return self

    def probabilities(self, context: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the probability of each next token: `context`, (length,) -> (V,)."""
        context = self._ids(context)
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for back, table in enumerate(self.tables[: len(context) + 1]):
            last = ngram_keys(context[len(context) - back :], back, self.vocab_size)
            keys = last * self.vocab_size + np.arange(self.vocab_size)
            p = interpolate(table, keys, p, self.vocab_size)
        return p

    def nats(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the surprise at each token in nats: ids (length,) -> (length,)."""
        tokens = self._ids(tokens)
        p = np.full(len(tokens), 1 / self.vocab_size)
        for n, table in enumerate(self.tables, start=1):
            keys = ngram_keys(tokens, n, self.vocab_size)
            p[n - 1 :] = interpolate(table, keys, p[n - 1 :], self.vocab_size)
        return -np.log(p)

    def sample(
        self, num_tokens: int, rng: np.random.Generator, prompt: Sequence[int] = ()
    ) -> list[int]:
        """Draw `num_tokens` ids one after the other, to follow `prompt`."""
        tokens = self._ids(prompt).tolist()
        for _ in range(num_tokens):
            p = self.probabilities(tokens[max(len(tokens) - self.order + 1, 0) :])
            tokens.append(int(rng.choice(self.vocab_size, p=p)))
        return tokens[len(prompt) :]

    def _ids(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(tokens)
        if ids.size == 0:
            return np.empty(0, dtype=np.int64)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError("token ids are integers in one dimension")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(f"token ids are 0 ... {self.vocab_size - 1}")
        return ids.astype(np.int64)
