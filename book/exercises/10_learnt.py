"""Exercises of chapter 10."""

import numpy as np

from tinyperceiver.teaching.learnt import (
    check_longest_shared,
    check_nats_by_kind,
    check_standard_error,
    check_tell_apart,
    check_weight_by_distance,
)
from tinyperceiver.teaching.music import EDGES, KINDS, played


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


# %% mistake: but the deviation that of tokens
def standard_error(nats):
    return nats.std(ddof=1) / np.sqrt(len(nats))


# %% mistake: over the wrong axis
def standard_error(nats):
    return nats.mean(axis=0).std(ddof=1) / np.sqrt(nats.shape[1])


# %% mistake: this is twice the error
def standard_error(nats):
    return 2 * nats.mean(axis=1).std(ddof=1) / np.sqrt(len(nats))


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


# %% mistake: you average the columns and turn them round
def weight_by_distance(weights):
    return weights.mean(axis=1)[:, ::-1]


# %% mistake: the order is turned round
def weight_by_distance(weights):
    heads, l, n = weights.shape
    means = np.zeros((heads, n))
    for back in range(n):
        i = np.arange(max(0, back - (n - l)), l)
        means[:, n - 1 - back] = weights[:, i, n - l + i - back].mean(axis=1)
    return means


# %% mistake: you average over the heads
def weight_by_distance(weights):
    heads, l, n = weights.shape
    mean = weights.mean(axis=0)
    by_distance = [np.diagonal(mean, n - l - back).mean() for back in range(n)]
    return np.tile(by_distance, (heads, 1))


# %% mistake: the last latent alone
def weight_by_distance(weights):
    return weights[:, -1, ::-1]


# %% mistake: one too small
def weight_by_distance(weights):
    heads, l, n = weights.shape
    means = np.zeros((heads, n))
    for back in range(1, n):
        means[:, back - 1] = np.diagonal(weights, n - l - back, 1, 2).mean(axis=-1)
    return means


# %% mistake: one too large
def weight_by_distance(weights):
    heads, l, n = weights.shape
    means = np.zeros((heads, n))
    for back in range(n - 1):
        means[:, back + 1] = np.diagonal(weights, n - l - back, 1, 2).mean(axis=-1)
    return means


# %% longest_shared: Caught by halving
# Write `longest_shared(a, b)`. `a` and `b` are lists of token ids, perhaps of thousands, perhaps
# empty. Return the length of the longest run of tokens that stands in both, in one piece and
# anywhere; 0 if they share nothing. To try all pairs of places takes 16 million looks for two lists
# of 4,000; the checker allows 300,000 into each (a slice `a[i:j]` is one look). The idea that makes
# the record's search quick helps: if a run of k tokens is shared, so is each shorter one. (Chapter
# 3's `ngram_keys` has room for runs of seven; longer ones may get the same number.)
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


# %% mistake: more than 300,000 looks
def longest_shared(a, b):
    best = 0
    for i in range(len(a)):
        for j in range(len(b)):
            k = 0
            while i + k < len(a) and j + k < len(b) and a[i + k] == b[j + k]:
                k += 1
            best = max(best, k)
    return best


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


# %% mistake: Off by one
def longest_shared(a, b):
    for k in range(min(len(a), len(b), 700), 0, -1):
        runs = {tuple(b[i : i + k]) for i in range(len(b) - k)}
        if any(tuple(a[i : i + k]) in runs for i in range(len(a) - k)):
            return k
    return 0


# %% mistake: Is there a shortest run
def longest_shared(a, b):
    runs = {tuple(b[i : i + 6]) for i in range(len(b) - 5)}
    starts = [i for i in range(len(a) - 5) if tuple(a[i : i + 6]) in runs]
    return 6 if starts else 0


# %% mistake: Do you search in text
def longest_shared(a, b):
    text, low, high = " ".join(map(str, b)), 0, min(len(a), len(b))
    while low < high:
        k = (low + high + 1) // 2
        if any(" ".join(map(str, a[i : i + k])) in text for i in range(len(a) - k + 1)):
            low = k
        else:
            high = k - 1
    return low


# %% mistake: do different runs get the same number
def longest_shared(a, b):
    def keys(tokens, k):
        found = np.zeros(len(tokens) - k + 1, dtype=np.int64)
        for i in range(k):
            found = found * 388 + np.array(tokens[i : i + len(found)], dtype=np.int64)
        return found

    low, high = 0, min(len(a), len(b))
    while low < high:
        k = (low + high + 1) // 2
        if len(np.intersect1d(keys(a, k), keys(b, k))):
            low = k
        else:
            high = k - 1
    return low


# %% tell_apart: Who plays?
# *Open.* Write `tell_apart(tokens)`: a number that is higher for what the network plays than for
# what composers wrote. It gets a list of 200 token ids: an excerpt of one of the five pieces,
# which may begin anywhere, or the beginning of one of the twenty recorded takes that continue them,
# without the prompt. The note-offs have been taken out, so that its slips do not give the network
# away; each excerpt is moved up or down by some keys, so that it stands in no piece. Of all pairs
# of one of each, in three quarters the network's excerpt should have the higher score.
# `played(tokens)` gives you the notes that go down: `start` in seconds, `pitch`, `place`.
# %% stub
def tell_apart(tokens):
    pass  # your code


# %% check
check_tell_apart(tell_apart)


# %% solution
def tell_apart(tokens):
    # Composers come back to what they said: runs of three pitches that are not new.
    pitch = played(tokens).pitch.tolist()
    runs = [tuple(pitch[i : i + 3]) for i in range(len(pitch) - 2)]
    return len(set(runs)) / max(len(runs), 1)


# %% mistake: every excerpt gets the same score
def tell_apart(tokens):
    music = played(tokens)  # there is no note-off that could be loose
    return music.is_loose.mean()


# %% mistake: the wrong way round
def tell_apart(tokens):
    pitch = played(tokens).pitch.tolist()
    runs = [tuple(pitch[i : i + 4]) for i in range(len(pitch) - 3)]
    return 1 - len(set(runs)) / max(len(runs), 1)


# %% mistake: a coin has 50 %
def tell_apart(tokens):
    return played(tokens).pitch.mean()
