"""Exercises of chapter 11."""

import torch

from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, VELOCITY
from tinyperceiver.teaching.sampling import (
    check_few_keys,
    check_keep_typical,
    check_my_filter,
    check_window_after,
)


# %% window_after: Which window?
# Write `window_after(n, num_latents, config, k)`. A prompt of `n` tokens, `num_latents` of them
# latent, has been continued by `k` tokens, sliding. Return how the window that ends with the last
# of them is made up: a pair `(latents, prefix)`, in tokens. `config` has `max_latents`, `max_prefix_len` and
# `max_seq_len`. As in `generate`, a prompt shorter than `num_latents` is latent altogether.
# %% stub
def window_after(n, num_latents, config, k):
    pass  # your code


# %% check
check_window_after(window_after)


# %% solution
def window_after(n, num_latents, config, k):
    latents = min(min(num_latents, n) + k, config.max_latents)
    # What is not latent is prefix, as far as there is room.
    return latents, min(n + k - latents, config.max_prefix_len)


# %% mistake: the oldest latent has to go somewhere
def window_after(n, num_latents, config, k):
    num_latents = min(num_latents, n)
    return min(num_latents + k, config.max_latents), n - num_latents


# %% mistake: more latents than tokens
def window_after(n, num_latents, config, k):
    latents = min(num_latents + k, config.max_latents)
    return latents, min(max(n + k - latents, 0), config.max_prefix_len)


# %% mistake: then the left-most token leaves
def window_after(n, num_latents, config, k):
    latents = min(min(num_latents, n) + k, config.max_latents)
    return latents, n + k - latents


# %% mistake: Which grows first
def window_after(n, num_latents, config, k):
    num_latents = min(num_latents, n)
    prefix = min(n - num_latents + k, config.max_prefix_len)
    return min(n + k - prefix, config.max_latents), prefix


# %% mistake: latents come first
def window_after(n, num_latents, config, k):
    latents = min(min(num_latents, n) + k, config.max_latents)
    return min(n + k - latents, config.max_prefix_len), latents


# %% keep_typical: As surprising as usual
# The likeliest token is often *less* surprising than music usually is. Typical sampling begins
# elsewhere {cite:p}`meister2023typical`. The mean surprise of a draw is $\bar s = -\sum_i p_i \ln p_i$.
# Order the tokens by how far their own surprise, $-\ln p_i$, is from $\bar s$, nearest first, and keep the
# smallest set from the front that has at least probability `p` together. Write
# `keep_typical(logits, p)`: logits `(..., V)`, with -inf in place of what is not kept. Some logits
# may be -inf already, and stay so.
# %% stub
def keep_typical(logits, p):
    pass  # your code


# %% check
check_keep_typical(keep_typical)


# %% solution
def keep_typical(logits, p):
    log_p = logits.log_softmax(-1)
    # 0 times infinity is no number: what is forbidden adds nothing to the mean.
    mean = -(log_p.exp() * log_p.clamp(min=-1e9)).sum(-1, keepdim=True)
    token = (-log_p - mean).abs().argsort(dim=-1, stable=True)
    probability = log_p.exp().gather(-1, token)
    before = probability.cumsum(-1) - probability  # as in top-p
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, token, before < p)
    return logits.masked_fill(~kept, float("-inf"))


# %% mistake: that is top-p
def keep_typical(logits, p):
    ordered, token = logits.sort(descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    ordered = ordered.masked_fill(before >= p, float("-inf"))
    return torch.empty_like(logits).scatter_(-1, token, ordered)


# %% mistake: the mean surprise is weighted
def keep_typical(logits, p):
    log_p = logits.log_softmax(-1)
    token = (-log_p + log_p.mean(-1, keepdim=True)).abs().argsort(dim=-1, stable=True)
    probability = log_p.exp().gather(-1, token)
    before = probability.cumsum(-1) - probability
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, token, before < p)
    return logits.masked_fill(~kept, float("-inf"))


# %% mistake: The token that crosses p belongs to the set
def keep_typical(logits, p):
    log_p = logits.log_softmax(-1)
    mean = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    token = (-log_p - mean).abs().argsort(dim=-1, stable=True)
    together = log_p.exp().gather(-1, token).cumsum(-1)
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, token, together < p)
    return logits.masked_fill(~kept, float("-inf"))


# %% mistake: NaN
def keep_typical(logits, p):
    log_p = logits.log_softmax(-1)
    mean = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    distance = (-log_p - mean).abs()
    token = distance.argsort(dim=-1, stable=True)
    probability = log_p.exp().gather(-1, token)
    before = probability.cumsum(-1) - probability
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, token, before < p)
    return (logits - 0 * distance).masked_fill(~kept, float("-inf"))


# %% few_keys: A player with few fingers
# A rule more for the grammar: no more than `most` keys down at once. Write
# `few_keys(allowed, is_down, most)`. `allowed`, `(V,)`, and `is_down`, `(128,)`, are NumPy arrays of
# bool: what a `Grammar` allows in a row, and its keys. Return `allowed` with more forbidden where the new rule
# demands it. Never forbid what the rule does not forbid, and leave no dead end: whatever is
# allowed now, something must be allowed after it. (The rule holds from the first token on: no hand is
# too full to begin with.)
# %% stub
def few_keys(allowed, is_down, most):
    pass  # your code


# %% check
check_few_keys(few_keys)


# %% solution
def few_keys(allowed, is_down, most):
    allowed = allowed.copy()
    if is_down.sum() >= most:
        allowed[:NOTE_OFF] = False
        allowed[VELOCITY:NUM_EVENTS] = False  # only a stroke may follow one
    return allowed


# %% mistake: dead end
def few_keys(allowed, is_down, most):
    if is_down.sum() >= most:
        allowed[:NOTE_OFF] = False
    return allowed


# %% mistake: a key may still be struck
def few_keys(allowed, is_down, most):
    if is_down.sum() > most:
        allowed[:NOTE_OFF] = False
        allowed[VELOCITY:NUM_EVENTS] = False
    return allowed


# %% mistake: waits and releases
def few_keys(allowed, is_down, most):
    if is_down.sum() >= most:
        off = is_down.copy()
        allowed[:] = False
        allowed[NOTE_OFF : 2 * NOTE_OFF] = off
    return allowed


# %% my_filter: A filter of your own
# *Open.* Write `my_filter(logits)`: logits `(B, V)` of events, without padding, with -inf in place of what is
# not kept, each row by itself. The checker gives it 1,920 contexts of the five pieces. The
# likeliest token must always stay. Of the composers' own tokens at most 3 % may be cut, and at
# most 11.8 tokens may be left on average. Top-p alone leaves 11.9 at that price, min-p alone 12.2,
# top-k alone more than 15. What would you cut if only these two numbers mattered? Then listen:
# should only these two matter?
# %% stub
def my_filter(logits):
    pass  # your code


# %% check
check_my_filter(my_filter)


# %% solution
def my_filter(logits):
    # Each token kept costs one, and saves its probability. So one price fits all
    # contexts: keep what is likelier than some bound, here 1 %. Its name is epsilon
    # sampling (Hewitt et al. 2022, in the further reading).
    log_p = logits.log_softmax(-1)
    is_best = log_p == log_p.amax(-1, keepdim=True)  # however unsure the model is
    return logits.masked_fill((log_p.exp() < 0.01) & ~is_best, float("-inf"))


# %% mistake: tokens are cut, more than 3 %
def my_filter(logits):
    least = logits.topk(10).values[..., -1:]
    return logits.masked_fill(logits < least, float("-inf"))


# %% mistake: tokens are left on average, more than 11.8
def my_filter(logits):
    least = logits.amax(-1, keepdim=True) - 4
    return logits.masked_fill(logits < least, float("-inf"))


# %% mistake: the likeliest token is cut
def my_filter(logits):
    p = logits.softmax(-1)
    return logits.masked_fill((p < 0.01) | (p > 0.9), float("-inf"))


# %% mistake: depends on the other rows of the batch
def my_filter(logits):
    least = logits.amax() - 11
    return logits.masked_fill(logits < least, float("-inf"))
