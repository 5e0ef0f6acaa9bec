"""Exercises of chapter 3."""

import numpy as np

from tinyperceiver.teaching.counting import (
    check_bigram_table,
    check_my_bigrams,
    check_perplexity,
    check_sample_at,
    check_smoothed,
)


# %% perplexity: As unsure as among how many?
# Write `perplexity(p)`. It gets a NumPy array of shape `(length,)`: the probabilities that a model
# gave to the tokens that really came, none of them 0. There may be thousands. It returns one
# number, the model's perplexity on those tokens.
# %% stub
def perplexity(p):
    pass  # your code


# %% check
check_perplexity(perplexity)


# %% solution
def perplexity(p):
    # The mean is taken of nats, because nats add up along a piece.
    return np.exp(-np.log(p).mean())


# %% mistake: these are nats per token
def perplexity(p):
    return -np.log(p).mean()


# %% mistake: you average 1 / p
def perplexity(p):
    return (1 / p).mean()


# %% mistake: the sign is turned round
def perplexity(p):
    return np.exp(np.log(p).mean())


# %% mistake: you sum the nats
def perplexity(p):
    return np.exp(-np.log(p).sum())


# %% mistake: below the smallest float
def perplexity(p):
    return np.prod(p) ** (-1 / len(p))


# %% mistake: log2 goes with 2
def perplexity(p):
    return np.exp(-np.log2(p).mean())


# %% mistake: There is no highest price
def perplexity(p):
    return np.exp(-np.log(np.maximum(p, 2e-3)).mean())


# %% bigram_table: Count without crossing
# Write `bigram_table(pieces, vocab_size)`. `pieces` is a list of NumPy arrays of token ids,
# one-dimensional and of different lengths. It returns an array of shape
# `(vocab_size, vocab_size)` whose entry `[a, b]` is the probability that b comes after a,
# counted within the pieces and not smoothed. A row of a token that nothing ever follows is
# all zeros.
# %% stub
def bigram_table(pieces, vocab_size):
    pass  # your code


# %% check
check_bigram_table(bigram_table)


# %% solution
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:  # one by one, so that no pair reaches across
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    # Rows without a count are divided by 1 and stay zero.
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


# %% mistake: you count across pieces
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    tokens = np.concatenate(pieces)
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


# %% mistake: these are counts
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    return counts


# %% mistake: off by one
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-2], piece[1:-1]), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


# %% mistake: adds only once for equal indices
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        counts[piece[:-1], piece[1:]] += 1
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


# %% mistake: rows and columns are exchanged
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[1:], piece[:-1]), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


# %% mistake: the columns sum to 1
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    return counts / np.maximum(counts.sum(0), 1)


# %% mistake: lie across the columns
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    return counts / np.maximum(counts.sum(1), 1)


# %% mistake: the last of a piece has no follower
def bigram_table(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    met = np.bincount(np.concatenate(pieces), minlength=vocab_size)
    return counts / np.maximum(met[:, None], 1)


# %% mistake: you smooth
def bigram_table(pieces, vocab_size):
    counts = np.ones((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    return counts / counts.sum(1, keepdims=True)


# %% smoothed: Make room for the new
# Write `smoothed(counts, shorter)` for one context. `counts`, an integer array `(V,)`, says how
# often each token followed the context; `shorter`, `(V,)` and of sum 1, holds the probabilities
# after the context without its oldest token. It returns the `(V,)` probabilities of Witten and
# Bell, interpolated. A context that was never met has counts of 0 everywhere.
# %% stub
def smoothed(counts, shorter):
    pass  # your code


# %% check
check_smoothed(smoothed)


# %% solution
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    if total == 0:  # 0 / 0 otherwise, where the answer is: forget the oldest token
        return shorter
    return (counts + new * shorter) / (total + new)


# %% mistake: sum to
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    return (counts + new * shorter) / total if total else shorter


# %% mistake: u counts different tokens
def smoothed(counts, shorter):
    total = counts.sum()
    return (counts + total * shorter) / (2 * total) if total else shorter


# %% mistake: no count at all
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    return (counts + new * shorter) / (total + new)


# %% mistake: share as `shorter` says
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    if total == 0:
        return shorter
    return (counts + new / len(counts)) / (total + new)


# %% mistake: gives zeros
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    return (counts + new * shorter) / max(total + new, 1)


# %% mistake: only among the tokens never met
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    if total == 0:
        return shorter
    unmet = shorter * (counts == 0)
    return (counts + new * unmet / max(unmet.sum(), 1e-9)) / (total + new)


# %% mistake: the tokens met exactly once
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts == 1).sum()
    return (counts + new * shorter) / (total + new) if total else shorter


# %% mistake: the tokens that were not met
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts == 0).sum()
    return (counts + new * shorter) / (total + new) if total else shorter


# %% mistake: one invented visit
def smoothed(counts, shorter):
    total = counts.sum()
    return (counts + shorter) / (total + 1) if total else shorter


# %% mistake: changes `shorter`
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    if total == 0:
        return np.full(len(counts), 1 / len(counts))
    return (counts + new * shorter) / (total + new)


# %% mistake: u among c + u
def smoothed(counts, shorter):
    total, new = counts.sum(), (counts > 0).sum()
    if total == 0:
        return shorter
    return (1 - new / total) * counts / total + new / total * shorter


# %% sample_at: A cooler hand
# Write `sample_at(p, temperature, rng)`. It gets the probabilities `p`, `(V,)`, some of which may
# be 0, a temperature T above 0, which may be as small as 0.005, and a NumPy generator. It returns
# one token id, an integer, drawn with `rng` from probabilities proportional to $p_i^{1/T}$:
# bolder than `p` at a T below 1, more timid above.
# %% stub
def sample_at(p, temperature, rng):
    pass  # your code


# %% check
check_sample_at(sample_at)


# %% solution
def sample_at(p, temperature, rng):
    # A power needs no logarithm of 0; with the largest at 1, not all can vanish.
    weights = (p / p.max()) ** (1 / temperature)
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: the wrong way round
def sample_at(p, temperature, rng):
    weights = p**temperature
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: you divide probabilities
def sample_at(p, temperature, rng):
    weights = np.exp(p / temperature)
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: changes nothing
def sample_at(p, temperature, rng):
    return int(rng.choice(len(p), p=(p / temperature) / (p / temperature).sum()))


# %% mistake: do not take the likeliest
def sample_at(p, temperature, rng):
    return int(np.argmax(p ** (1 / temperature)))


# %% mistake: tokens of probability 0 are drawn
def sample_at(p, temperature, rng):
    scores = np.log(p + 1e-9) / temperature
    weights = np.exp(scores - scores.max())
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: below the smallest float
def sample_at(p, temperature, rng):
    weights = p ** (1 / temperature)
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: a generator of your own
def sample_at(p, temperature, rng):
    weights = (p / p.max()) ** (1 / temperature)
    return int(np.random.default_rng().choice(len(p), p=weights / weights.sum()))


# %% mistake: several likeliest tokens still come alike
def sample_at(p, temperature, rng):
    if temperature < 0.05:
        return int(p.argmax())
    weights = p ** (1 / temperature)
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: at T = 0.2 came out as
def sample_at(p, temperature, rng):
    weights = (p / p.max()) ** (1 / max(temperature, 0.4))
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: should come nearly always
def sample_at(p, temperature, rng):
    weights = (p / p.max()) ** (1 / max(temperature, 0.02))
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% mistake: at T = 0.005 tokens of probability 0 are drawn
def sample_at(p, temperature, rng):
    weights = p ** (1 / temperature)
    if weights.sum() == 0:
        return int(rng.integers(len(p)))
    return int(rng.choice(len(p), p=weights / weights.sum()))


# %% my_bigrams: Open: beat the number
# Write `my_bigrams(pieces, vocab_size)`: from `pieces`, arrays of token ids as in 3.2, and from
# nothing else, it returns an array `(vocab_size, vocab_size)` of smoothed probabilities, `[a, b]`
# that of b after a. The check fits it five times on four of the shipped pieces, measures the
# fifth, and compares it with Witten and Bell's 4.914 nats; 4.5 is possible. One idea, called
# *absolute discounting* {cite:p}`ney1994structuring`: take the same 0.9 off every count above 0,
# and share out what you took as the unigrams say. Others: count each piece again some keys higher and lower; use what you know of the encoder.
# %% stub
def my_bigrams(pieces, vocab_size):
    pass  # your code


# %% check
check_my_bigrams(my_bigrams)


# %% solution
def my_bigrams(pieces, vocab_size):
    # Music is much the same some keys higher or lower: count each piece eleven times,
    # moved by -5 ... 5 keys, and patterns met once on one key are known on all.
    moved = []
    for piece in pieces:
        for shift in range(-5, 6):
            moved.append(np.where(piece < 256, piece + shift, piece))
    counts = np.zeros((vocab_size, vocab_size))
    for piece in moved:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)

    alone = counts.sum(0) + 0.5  # unigrams; nobody gets 0
    alone /= alone.sum()
    off = 0.9
    taken = off * (counts > 0).sum(1, keepdims=True)
    total = counts.sum(1, keepdims=True)
    p = (np.maximum(counts - off, 0) + taken * alone) / np.maximum(total, 1)
    return np.where(total > 0, p, alone)  # a token never met: unigrams


# %% mistake: the same table whichever
def my_bigrams(pieces, vocab_size):
    return np.full((vocab_size, vocab_size), 1 / vocab_size)


# %% mistake: Every row must sum to 1
def my_bigrams(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    return (counts + 0.1) / np.maximum(counts.sum(1, keepdims=True), 1)


# %% mistake: the probability 0
def my_bigrams(pieces, vocab_size):
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    counts[counts.sum(1) == 0] = 1
    return counts / counts.sum(1, keepdims=True)


# %% mistake: Witten and Bell have
def my_bigrams(pieces, vocab_size):
    counts = np.ones((vocab_size, vocab_size))
    for piece in pieces:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    return counts / counts.sum(1, keepdims=True)
