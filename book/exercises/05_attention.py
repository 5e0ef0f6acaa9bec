"""Exercises of chapter 5."""

import torch

from tinyperceiver.teaching.attention import (
    check_attend_once,
    check_hears_the_future,
    check_slot,
    check_split_heads,
    check_window_mask,
)


# %% attend_once: One question
# *Warm-up.* Write attention for a single query: `query` is $(d)$, `keys` is $(n, d)$ and `values`
# is $(n, e)$, all float tensors; values may be wider or narrower than keys. Return the answer, a
# tensor $(e)$, with the scale $1 / \sqrt d$ and without a mask.
# %% stub
def attend_once(query, keys, values):
    pass  # your code


# %% check
check_attend_once(attend_once)


# %% solution
def attend_once(query, keys, values):
    scores = keys @ query / len(query) ** 0.5  # (n,): one for each key
    return scores.softmax(0) @ values


# %% mistake: the scale is missing
def attend_once(query, keys, values):
    return (keys @ query).softmax(0) @ values


# %% mistake: over the channels
def attend_once(query, keys, values):
    weights = (keys * query / len(query) ** 0.5).softmax(0).sum(-1)
    return weights @ values


# %% mistake: without a softmax
def attend_once(query, keys, values):
    return keys @ query / len(query) ** 0.5 @ values


# %% mistake: not by its square root
def attend_once(query, keys, values):
    return (keys @ query / len(query)).softmax(0) @ values


# %% mistake: the number of keys
def attend_once(query, keys, values):
    return (keys @ query / len(keys) ** 0.5).softmax(0) @ values


# %% mistake: the best key alone
def attend_once(query, keys, values):
    return values[(keys @ query).argmax()]


# %% mistake: a mixture of the values
def attend_once(query, keys, values):
    return (keys @ query / len(query) ** 0.5).softmax(0)


# %% window_mask: A short memory
# Some models save by looking back a limited way only {cite:p}`child2019sparse`. Return the mask,
# $(l, n)$ of True and False, for the last `l` of `n` positions, where a query sees at most `reach` keys: itself and
# the `reach - 1` before it. All three are whole numbers, at least 1; `l` is at most `n`, `reach`
# may exceed it. What is its cost in pairs, when $n$ grows and `reach` does not?
# %% stub
def window_mask(l, n, reach):
    pass  # your code


# %% check
check_window_mask(window_mask)


# %% solution
def window_mask(l, n, reach):
    key = torch.arange(n)
    query = key[n - l :, None]  # the last l positions
    # Fewer than n * reach pairs are left: the cost grows as n, no longer as its square.
    return (key <= query) & (key > query - reach)


# %% mistake: aligned at the left
def window_mask(l, n, reach):
    key, query = torch.arange(n), torch.arange(l)[:, None]
    return (key <= query) & (key > query - reach)


# %% mistake: off by one
def window_mask(l, n, reach):
    key = torch.arange(n)
    query = key[n - l :, None]
    return (key <= query) & (key >= query - reach)


# %% mistake: the whole past
def window_mask(l, n, reach):
    key = torch.arange(n)
    return key <= key[n - l :, None]


# %% mistake: lies in the future
def window_mask(l, n, reach):
    key = torch.arange(n)
    query = key[n - l :, None]
    return (key - query).abs() < reach


# %% mistake: turned round
def window_mask(l, n, reach):
    key = torch.arange(n)
    query = key[n - l :, None]
    return (key > query) | (key <= query - reach)


# %% hears_the_future: Find the leak
# `layer` is a function from $(n, D)$ to $(n, D)$, `x` an example of what goes in. Return True if
# some output depends on an input at a later position, else False. You cannot look into the layer;
# you can only ask it. Mind leaks at one place or in one channel only, and small ones: when an input
# changes by about 1, an output that leaks may change by 0.0001, while rounding, different at each
# call, stays below 0.000001.
# %% stub
def hears_the_future(layer, x):
    pass  # your code


# %% check
check_hears_the_future(hears_the_future)


# %% solution
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(1, len(x)):  # nothing stands before 0
        changed = x.clone()
        changed[t] += 1.0
        after = layer(changed)
        # Only what stands before t must not have heard of it. The largest difference:
        # in a sum, rounding adds up.
        if (after[:t] - before[:t]).abs().max() > 1e-5:
            return True
    return False


# %% mistake: compare only those before
def hears_the_future(layer, x):
    before = layer(x)
    changed = x.clone()
    changed[3] += 1.0
    return bool((layer(changed) - before).abs().max() > 1e-6)


# %% mistake: it misses
def hears_the_future(layer, x):
    before = layer(x)
    changed = x.clone()
    changed[-1] += 1.0
    return bool((layer(changed)[:-1] - before[:-1]).abs().max() > 1e-6)


# %% mistake: clone x
def hears_the_future(layer, x):
    for t in range(len(x)):
        changed = x
        changed[t] += 1.0
        if not torch.equal(layer(changed)[:t], layer(x)[:t]):
            return True
    return False


# %% mistake: small leak
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(len(x)):
        changed = x.clone()
        changed[t] += 1.0
        if (layer(changed) - before)[:t].abs().sum() > 0.01:
            return True
    return False


# %% mistake: 5 alone sees position 6
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(1, len(x) - 1):
        changed = x.clone()
        changed[t] += 1.0
        if (layer(changed) - before)[:t].abs().max() > 1e-5:
            return True
    return False


# %% mistake: 0 alone sees position 1
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(2, len(x)):
        changed = x.clone()
        changed[t] += 1.0
        if (layer(changed) - before)[:t].abs().max() > 1e-5:
            return True
    return False


# %% mistake: 2 alone sees position 5
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(1, len(x)):
        changed = x.clone()
        changed[t] += 1.0
        if (layer(changed) - before)[t - 1].abs().max() > 1e-5:
            return True
    return False


# %% mistake: the last channel alone
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(1, len(x)):
        changed = x.clone()
        changed[t, 0] += 1.0
        if (layer(changed) - before)[:t].abs().max() > 1e-5:
            return True
    return False


# %% mistake: takes from the next
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(1, len(x)):
        changed = x.clone()
        changed[t] += 1.0
        if (layer(changed) - before)[:t].sum().abs() > 1e-5:
            return True
    return False


# %% mistake: as rounding does
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(1, len(x)):
        changed = x.clone()
        changed[t] += 1.0
        if not torch.equal(layer(changed)[:t], before[:t]):
            return True
    return False


# %% mistake: 0 times NaN
def hears_the_future(layer, x):
    for t in range(1, len(x)):
        changed = x.clone()
        changed[t] = float("nan")
        if layer(changed)[:t].isnan().any():
            return True
    return False


# %% mistake: its changes add up
def hears_the_future(layer, x):
    before = layer(x)
    for t in range(len(x)):
        x[t] += 1.0
        if (layer(x)[:t] - before[:t]).abs().sum() > 1e-6:
            return True
    return False


# %% mistake: Are both outputs of the same x
def hears_the_future(layer, x):
    changed = x.clone()
    changed[-1] += 1.0
    return not torch.equal(layer(changed), layer(changed))


# %% mistake: return True or False
def hears_the_future(layer, x):
    changed = x.clone()
    changed[-1] += 1.0
    return (layer(changed) - layer(x))[:-1].abs().max()


# %% split_heads: Cut along the channels
# Split `x`, the queries, keys or values of a layer, $(B, n, D)$, into `num_heads` heads:
# $(B, H, n, d)$ with $d = D / H$. Head 0 gets the first $d$ channels of every position, head 1 the
# next $d$, and so on. Use `reshape` or `view`, not the method of the package.
# %% stub
def split_heads(x, num_heads):
    pass  # your code


# %% check
check_split_heads(split_heads)


# %% solution
def split_heads(x, num_heads):
    B, n, D = x.shape
    x = x.reshape(B, n, num_heads, D // num_heads)  # cuts each row into heads
    # Heads before positions: a matrix product works on the last two axes.
    return x.transpose(1, 2)  # (B, H, n, d)


# %% mistake: mixes positions
def split_heads(x, num_heads):
    B, n, D = x.shape
    return x.reshape(B, num_heads, n, D // num_heads)


# %% mistake: one channel in every
def split_heads(x, num_heads):
    B, n, D = x.shape
    return x.reshape(B, n, D // num_heads, num_heads).permute(0, 3, 1, 2)


# %% mistake: before the positions
def split_heads(x, num_heads):
    return x.unflatten(-1, (num_heads, -1))


# %% slot: A ring that keeps the beginning
# *Open.* Language models that have run past the length of their ring go wrong when their very
# first tokens leave it, and keep working when those stay {cite:p}`xiao2024sinks`: a softmax must
# give its weight to something, and those had always been in view. Write
# `slot(position, capacity, keep)`: the slot, 0 to `capacity - 1`, where a position (0, 1, 2, ...)
# is written, so that the first `keep` positions stay for ever and the oldest of the others is
# overwritten once all slots are full. `keep` is less than `capacity`, and may be 0. Many layouts
# are right. Then think: would you keep the first tokens of a piece of music, and which others?
# %% stub
def slot(position, capacity, keep):
    pass  # your code


# %% check
check_slot(slot)


# %% solution
def slot(position, capacity, keep):
    if position < keep:
        return position
    # The others go round in a ring of their own, behind those that stay.
    return keep + (position - keep) % (capacity - keep)


# %% mistake: must be kept
def slot(position, capacity, keep):
    return position % capacity


# %% mistake: is not the oldest
def slot(position, capacity, keep):
    if position < capacity:
        return position
    return keep + position % (capacity - keep)


# %% mistake: still empty
def slot(position, capacity, keep):
    return position if position < keep else keep


# %% mistake: slots are 0 to
def slot(position, capacity, keep):
    return position if position < keep else keep + position % capacity
