"""Exercises of chapter 10."""

import numpy as np

from tinyperceiver.teaching.counting import EDGES, KINDS
from tinyperceiver.teaching.learnt import (
    check_longest_shared,
    check_nats_by_kind,
    check_standard_error,
    check_tell_apart,
    check_weight_by_distance,
    played,
)


# %% nats_by_kind: Where do they go?
# Write `nats_by_kind(tokens, nats)`. Both are NumPy arrays of shape `(length,)`: token ids, and
# what each of them cost. Return a dict from the name of a kind, as in `KINDS` (`"note on"`,
# `"note off"`, `"time shift"`, `"velocity"`), to the mean nats of the tokens of that kind. Leave
# out kinds that do not come. `EDGES` has the first id of each kind, and 388 at the end.
# %% stub
def nats_by_kind(tokens, nats):
    pass  # your code


# %% check
check_nats_by_kind(nats_by_kind)


# %% solution
def nats_by_kind(tokens, nats):
    means = {}
    for k, name in enumerate(KINDS):
        of_kind = (tokens >= EDGES[k]) & (tokens < EDGES[k + 1])
        if of_kind.any():  # the mean of nothing is no number
            means[name] = nats[of_kind].mean()
    return means


# %% mistake: counts with the kind before it
def nats_by_kind(tokens, nats):
    kind = np.searchsorted(EDGES[1:-1], tokens)
    return {KINDS[k]: nats[kind == k].mean() for k in np.unique(kind)}


# %% mistake: divide by the number of all tokens
def nats_by_kind(tokens, nats):
    kind = np.searchsorted(EDGES[1:-1], tokens, side="right")
    return {KINDS[k]: nats[kind == k].sum() / len(nats) for k in np.unique(kind)}


# %% mistake: charged to the token before
def nats_by_kind(tokens, nats):
    kind = np.searchsorted(EDGES[1:-1], tokens[:-1], side="right")
    return {KINDS[k]: nats[1:][kind == k].mean() for k in np.unique(kind)}


# %% mistake: leave out kinds that do not come
def nats_by_kind(tokens, nats):
    kind = np.searchsorted(EDGES[1:-1], tokens, side="right")
    return {name: nats[kind == k].sum() / max((kind == k).sum(), 1)
            for k, name in enumerate(KINDS)}  # fmt: skip


# %% standard_error: How sure?
# Write `standard_error(nats)`. `nats` is an array of shape `(windows, l)`: the price of each of l
# targets in each window, at least two windows. The windows were drawn one by one. Return the
# standard error of the mean nats per token, one number.
# %% stub
def standard_error(nats):
    pass  # your code


# %% check
check_standard_error(standard_error)


# %% solution
def standard_error(nats):
    # One number per window: the tokens in it are not independent of each other.
    means = nats.mean(axis=1)
    return means.std(ddof=1) / np.sqrt(len(means))


# %% mistake: as if each had been drawn by itself
def standard_error(nats):
    return nats.std(ddof=1) / np.sqrt(nats.size)


# %% mistake: one less than their number
def standard_error(nats):
    return nats.mean(axis=1).std() / np.sqrt(len(nats))


# %% mistake: this is the deviation of the windows
def standard_error(nats):
    return nats.mean(axis=1).std(ddof=1)


# %% mistake: but the square root that of tokens
def standard_error(nats):
    return nats.mean(axis=1).std(ddof=1) / np.sqrt(nats.size)


# %% weight_by_distance: How far back?
# Write `weight_by_distance(weights)`. `weights` is an array of shape `(H, l, n)`: for each head
# and each of l latents its weights on n keys. The latents are the *last* l of the n positions, and
# weights on later positions are 0. Return an array of shape `(H, n)`: entry `[h, t]` is the mean
# weight of head h on the key t positions back (t = 0 is the latent's own), over those latents
# that have a key so far back.
# %% stub
def weight_by_distance(weights):
    pass  # your code


# %% check
check_weight_by_distance(weight_by_distance)


# %% solution
def weight_by_distance(weights):
    heads, l, n = weights.shape
    means = np.zeros((heads, n))
    for back in range(n):
        # Latent i stands at position n - l + i: the first may have no key so far back.
        i = np.arange(max(0, back - (n - l)), l)
        means[:, back] = weights[:, i, n - l + i - back].mean(axis=1)
    return means


# %% mistake: you divide by all latents
def weight_by_distance(weights):
    heads, l, n = weights.shape
    sums = np.zeros((heads, n))
    for i in range(l):
        for j in range(n - l + i + 1):
            sums[:, n - l + i - j] += weights[:, i, j]
    return sums / l


# %% mistake: you let latent 0 stand at position 0
def weight_by_distance(weights):
    heads, l, n = weights.shape
    sums, count = np.zeros((heads, n)), np.zeros(n)
    for i in range(l):
        for j in range(n):
            sums[:, abs(i - j)] += weights[:, i, j]
            count[abs(i - j)] += 1
    return sums / np.maximum(count, 1)


# %% mistake: you average by position
def weight_by_distance(weights):
    return weights.mean(axis=1)


# %% mistake: the order is turned round
def weight_by_distance(weights):
    heads, l, n = weights.shape
    means = np.zeros((heads, n))
    for back in range(n):
        i = np.arange(max(0, back - (n - l)), l)
        means[:, n - 1 - back] = weights[:, i, n - l + i - back].mean(axis=1)
    return means


# %% longest_shared: Caught by halving
# Write `longest_shared(a, b)`. `a` and `b` are lists of token ids, perhaps of thousands, perhaps
# empty. Return the length of the longest run of tokens that stands in both, in one piece and
# anywhere; 0 if they share nothing. Two lists of 4,000 tokens should take less than 5 seconds.
# %% stub
def longest_shared(a, b):
    pass  # your code


# %% check
check_longest_shared(longest_shared)


# %% solution
def longest_shared(a, b):
    def is_shared(k):
        runs = {tuple(b[i : i + k]) for i in range(len(b) - k + 1)}
        return any(tuple(a[i : i + k]) in runs for i in range(len(a) - k + 1))

    low, high = 0, min(len(a), len(b))
    while low < high:
        k = (low + high + 1) // 2  # rounded up, or low = high - 1 would never end
        if is_shared(k):
            low = k
        else:
            high = k - 1
    return low


# %% mistake: A quotation stands in one piece
def longest_shared(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


# %% mistake: the different tokens that both have
def longest_shared(a, b):
    return len(set(a) & set(b))


# %% mistake: Is there a longest run that you try
def longest_shared(a, b):
    for k in range(min(len(a), len(b), 100), 0, -1):
        runs = {tuple(b[i : i + k]) for i in range(len(b) - k + 1)}
        if any(tuple(a[i : i + k]) in runs for i in range(len(a) - k + 1)):
            return k
    return 0


# %% mistake: from the beginning of both alone
def longest_shared(a, b):
    k = 0
    while k < min(len(a), len(b)) and a[k] == b[k]:
        k += 1
    return k


# %% tell_apart: Who plays?
# *Open.* Write `tell_apart(tokens)`: a number that is higher for what the network plays than for
# what composers wrote. It gets a list of 320 token ids, an excerpt of one of the five pieces or one
# of the twenty recorded takes that continue them, and knows nothing else. The checker compares all
# pairs of one of each: in three quarters of them the network's excerpt should have the higher
# score. `played(tokens)` gives you the notes.
# %% stub
def tell_apart(tokens):
    pass  # your code


# %% check
check_tell_apart(tell_apart)


# %% solution
def tell_apart(tokens):
    music = played(tokens)
    pitch = music.pitch.tolist()
    runs = [tuple(pitch[i : i + 4]) for i in range(len(pitch) - 3)]
    repeated = 1 - len(set(runs)) / max(
        len(runs), 1
    )  # composers come back to what they said
    # In the second half, when all keys have been heard: who lifts one that is not down?
    loose = music.is_loose[len(tokens) // 2 :].mean()
    return loose - repeated


# %% mistake: every excerpt gets the same score
def tell_apart(tokens):
    return len(tokens)


# %% mistake: the wrong way round
def tell_apart(tokens):
    pitch = played(tokens).pitch.tolist()
    runs = [tuple(pitch[i : i + 4]) for i in range(len(pitch) - 3)]
    return 1 - len(set(runs)) / max(len(runs), 1)


# %% mistake: a coin has 50 %
def tell_apart(tokens):
    return played(tokens).pitch.mean()
