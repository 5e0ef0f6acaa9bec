"""Exercises of chapter 6."""

import torch

from tinyperceiver.model.attention import causal_mask
from tinyperceiver.teaching.hybrid import (
    check_audit,
    check_cheaper_mask,
    check_hybrid_mask,
    check_most_latents,
    check_readers,
)


# %% hybrid_mask: The mask by hand
# Write the mask without `causal_mask`: with two loops, or with one expression.
# `hybrid_mask(m, l)` gets the lengths of prefix and latents, `m >= 0` and `l >= 1`,
# and returns `l` rows of `m + l` values, `True` where the query sees the key. A list
# of lists will do.
# %% stub
def hybrid_mask(m, l):
    pass  # your code


# %% check
check_hybrid_mask(hybrid_mask)


# %% solution
def hybrid_mask(m, l):
    rows = []
    for i in range(l):
        place = i + m  # where query i stands in the window
        rows.append([j <= place for j in range(m + l)])
    return rows


# %% mistake: aligned at the left
def hybrid_mask(m, l):
    return [[j <= i for j in range(m + l)] for i in range(l)]


# %% mistake: does not see itself
def hybrid_mask(m, l):
    return [[j < i + m for j in range(m + l)] for i in range(l)]


# %% mistake: not (4, 12)
def hybrid_mask(m, l):
    return [[j <= i for j in range(m + l)] for i in range(m + l)]


# %% mistake: True and False are exchanged
def hybrid_mask(m, l):
    return [[j > i + m for j in range(m + l)] for i in range(l)]


# %% mistake: nothing is hidden
def hybrid_mask(m, l):
    return torch.ones(l, m + l, dtype=torch.bool)


# %% readers: Who reads this token?
# Now by columns. `readers(j, m, l)` gets the position `j` of a token in the window,
# counted from 0, and returns the list of the latents that may see it in layer 1.
# Latents are numbered from 0 to `l - 1`.
# %% stub
def readers(j, m, l):
    pass  # your code


# %% check
check_readers(readers)


# %% solution
def readers(j, m, l):
    # j <= i + m solved for i; a token of the prefix has all latents after it.
    return list(range(max(0, j - m), l))


# %% mistake: positions in the window
def readers(j, m, l):
    return list(range(max(j, m), m + l))


# %% mistake: it is the token itself
def readers(j, m, l):
    return list(range(max(0, j - m + 1), l))


# %% mistake: a column of the mask
def readers(j, m, l):
    return causal_mask(l, m + l)[:, j].tolist()


# %% mistake: there are only the latents 0 to 3
def readers(j, m, l):
    return list(range(j - m, l))


# %% mistake: more than once
def readers(j, m, l):
    return [i for _ in range(m + 1) for i in range(max(0, j - m), l)]


# %% most_latents: What a budget buys
# A window of `n` tokens, one hybrid layer and `layers` self-attention layers above
# it. `most_latents(n, layers, budget)` returns the largest `l` from 1 to `n` with
# which the whole stack compares at most `budget` pairs of query and key, and 0 if not
# even one latent fits. Hidden pairs are free. (The prefix shrinks as the latents
# grow: `m = n - l`.)
# %% stub
def most_latents(n, layers, budget):
    pass  # your code


# %% check
check_most_latents(most_latents)


# %% solution
def most_latents(n, layers, budget):
    best = 0
    for l in range(1, n + 1):
        triangle = l * (l + 1) // 2
        # Layer 1 also looks at the prefix; the layers above see latents alone.
        if l * (n - l) + triangle + layers * triangle <= budget:
            best = l
    return best


# %% mistake: the layers above layer 1 are not counted
def most_latents(n, layers, budget):
    costs = ((l, l * (n - l) + l * (l + 1) // 2) for l in range(1, n + 1))
    return max((l for l, cost in costs if cost <= budget), default=0)


# %% mistake: whole rectangles
def most_latents(n, layers, budget):
    costs = ((l, l * n + layers * l * l) for l in range(1, n + 1))
    return max((l for l, cost in costs if cost <= budget), default=0)


# %% mistake: charged for the prefix
def most_latents(n, layers, budget):
    best = 0
    for l in range(1, n + 1):
        if (layers + 1) * (l * (n - l) + l * (l + 1) // 2) <= budget:
            best = l
    return best


# %% mistake: return 0 then
def most_latents(n, layers, budget):
    best = None
    for l in range(1, n + 1):
        triangle = l * (l + 1) // 2
        if l * (n - l) + triangle + layers * triangle <= budget:
            best = l
    return best


# %% mistake: one latent more would still fit
def most_latents(n, layers, budget):
    best = 0
    for l in range(1, n + 1):
        triangle = l * (l + 1) // 2
        if l * (n - l) + triangle + layers * triangle < budget:
            best = l
    return best


# %% mistake: `layers` are those above layer 1
def most_latents(n, layers, budget):
    costs = ((l, l * (n - l) + layers * l * (l + 1) // 2) for l in range(1, n + 1))
    return max((l for l, cost in costs if cost <= budget), default=0)


# %% audit: Too much, too little
# `audit(layer, x, prefix)` gets a layer, latents `x`, (1, l, D), and a prefix, (1, m,
# D), tensors of random floats. `layer(x, prefix)` gives (1, l, D), for any l and m.
# You cannot look into it: try it. Return `"leaks"` if some output depends on a token
# that comes after it; if none does, `"deaf"` if some output does not depend on a token
# up to its own; else `"fine"`. Mind what a LayerNorm would not notice, and effects of a
# ten-thousandth. What moves by less than 1e-5 is rounding.
# %% stub
def audit(layer, x, prefix):
    pass  # your code


# %% check
check_audit(audit)


# %% solution
def audit(layer, x, prefix):
    m, window = prefix.size(1), torch.cat((prefix, x), dim=1)
    before, deaf = layer(x, prefix), False
    for j in range(window.size(1)):
        changed = window.clone()
        changed[:, j] *= -1  # adding 1 to all channels would not pass a LayerNorm
        difference = layer(changed[:, m:], changed[:, :m]) - before
        moved = difference[0].abs().amax(dim=-1) > 1e-5  # (l,)
        first = max(0, j - m)  # the first latent that may hear token j
        if moved[:first].any():
            return "leaks"
        deaf = deaf or not moved[first:].all()
    return "deaf" if deaf else "fine"


# %% mistake: An output may move with its own token
def audit(layer, x, prefix):
    before = layer(x, prefix)
    for t in range(x.size(1)):
        changed = x.clone()
        changed[:, t] *= -1
        if (layer(changed, prefix) - before)[:, : t + 1].abs().max() > 1e-5:
            return "leaks"
    return "fine"


# %% mistake: Changing only the last latent
def audit(layer, x, prefix):
    changed = x.clone()
    changed[:, -1] *= -1
    leak = (layer(changed, prefix) - layer(x, prefix))[:, :-1].abs().max() > 1e-5
    return "leaks" if leak else "fine"


# %% mistake: not at the nearest
def audit(layer, x, prefix):
    before = layer(x, prefix)
    for t in range(1, x.size(1)):
        changed = x.clone()
        changed[:, t] *= -1
        if (layer(changed, prefix) - before)[:, t - 1].abs().max() > 1e-5:
            return "leaks"
    return "fine"


# %% mistake: That leak is weak
def audit(layer, x, prefix):
    before = layer(x, prefix)
    for t in range(1, x.size(1)):
        changed = x.clone()
        changed[:, t] *= -1
        if (layer(changed, prefix) - before)[:, :t].abs().max() > 0.001:
            return "leaks"
    return "fine"


# %% mistake: behind a LayerNorm
def audit(layer, x, prefix):
    before = layer(x, prefix)
    for t in range(1, x.size(1)):
        changed = x.clone()
        changed[:, t] += 1.0
        if (layer(changed, prefix) - before)[:, :t].abs().max() > 1e-5:
            return "leaks"
    return "fine"


# %% mistake: aligned at the left
def audit(layer, x, prefix):
    for t in range(1, x.size(1)):
        cut = layer(x[:, :t], prefix) - layer(x, prefix)[:, :t]
        if cut.abs().max() > 1e-5:
            return "leaks"
    return "fine"


# %% mistake: tokens of the prefix as well
def audit(layer, x, prefix):
    before, deaf = layer(x, prefix), False
    for t in range(x.size(1)):
        changed = x.clone()
        changed[:, t] *= -1
        moved = (layer(changed, prefix) - before)[0].abs().amax(dim=-1) > 1e-5
        if moved[:t].any():
            return "leaks"
        deaf = deaf or not moved[t:].all()
    return "deaf" if deaf else "fine"


# %% mistake: not one of the words
def audit(layer, x, prefix):
    return False


# %% mistake: its own token is heard, too
def audit(layer, x, prefix):
    m, window = prefix.size(1), torch.cat((prefix, x), dim=1)
    before, deaf = layer(x, prefix), False
    for j in range(window.size(1)):
        changed = window.clone()
        changed[:, j] *= -1
        difference = layer(changed[:, m:], changed[:, :m]) - before
        moved = difference[0].abs().amax(dim=-1) > 1e-5
        if moved[: max(0, j - m)].any():
            return "leaks"
        deaf = deaf or not moved[max(0, j - m + 1) :].all()
    return "deaf" if deaf else "fine"


# %% mistake: A leak comes first
def audit(layer, x, prefix):
    m, window = prefix.size(1), torch.cat((prefix, x), dim=1)
    before, leak = layer(x, prefix), False
    for j in range(window.size(1)):
        changed = window.clone()
        changed[:, j] *= -1
        difference = layer(changed[:, m:], changed[:, :m]) - before
        moved = difference[0].abs().amax(dim=-1) > 1e-5
        if not moved[max(0, j - m) :].all():
            return "deaf"
        leak = leak or moved[: max(0, j - m)].any()
    return "leaks" if leak else "fine"


# %% mistake: by rounding alone
def audit(layer, x, prefix):
    m, window = prefix.size(1), torch.cat((prefix, x), dim=1)
    before, deaf = layer(x, prefix), False
    for j in range(window.size(1)):
        changed = window.clone()
        changed[:, j] *= -1
        moved = (layer(changed[:, m:], changed[:, :m]) != before)[0].any(dim=-1)
        if moved[: max(0, j - m)].any():
            return "leaks"
        deaf = deaf or not moved[max(0, j - m) :].all()
    return "deaf" if deaf else "fine"


# %% cheaper_mask: A cheaper mask (open)
# Must every latent look at the whole prefix? Invent a mask for layer 1, (l, m + l),
# that has at most half of the pairs of the hybrid mask and still (1) shows no latent
# the future, (2) lets every latent see itself and the token before it, and (3) leaves
# no token of the prefix without a reader. `m >= 64` and `8 <= l <= m`. There are many
# answers; the dullest lets the last latent read the whole prefix and the others no
# more of it than (2) asks. What does that do to the l questions of a window? What does
# yours let the model forget? Would it be faster, on a kernel that computes scores
# before it hides them?
# %% stub
def cheaper_mask(m, l):
    pass  # your code


# %% check
check_cheaper_mask(cheaper_mask)


# %% solution
def cheaper_mask(m, l):
    mask = causal_mask(l, m + l)
    place = torch.arange(m + l)
    for i in range(l):
        # Latents take turns with the prefix: every fourth token, and the last eight.
        is_turn = place % 4 == i % 4
        is_recent = place > i + m - 8
        mask[i] &= is_turn | is_recent
    return mask


# %% mistake: nobody reads
def cheaper_mask(m, l):
    place = torch.arange(m + l)
    return causal_mask(l, m + l) & (place > place[m:, None] - 16)


# %% mistake: does not see itself
def cheaper_mask(m, l):
    return causal_mask(l, m + l) & (torch.arange(m + l) % 2 == 0)


# %% mistake: of the pairs are left
def cheaper_mask(m, l):
    return causal_mask(l, m + l)


# %% mistake: the future leaks
def cheaper_mask(m, l):
    place = torch.arange(m + l)
    return (place % 4 == place[:l, None] % 4) | (place > place[m:, None] - 4)
