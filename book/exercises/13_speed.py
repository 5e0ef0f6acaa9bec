"""Exercises of chapter 13."""

from statistics import median

import torch

from tinyperceiver.teaching.speed import (
    check_compare,
    check_floor_ms,
    check_guess,
    check_roofline_ms,
    check_to_int8,
)


# %% floor_ms: The floor, for any shape
# *Warm-up.* Write `floor_ms(config, n, l, bits, bandwidth)`: the least milliseconds of a step, a
# number. `config` is a `PerceiverConfig`; the hybrid layer holds `n` positions, each other layer
# `l`. The weights of all products have `bits` bits. (A scale of 32 bits for 32 weights of 8 bits
# makes that 9.) The embedding, which is read for the logits, and all keys and values have four
# bytes a number. Leave out norms and the one bias. `bandwidth` is in GB/s, 1e9 bytes a
# second. A layer's attention has $4 D^2$ weights, its MLP twice the widening factor times $D^2$;
# the hybrid layer's has `cross_attention_widening_factor`.
# %% stub
def floor_ms(config, n, l, bits, bandwidth):
    pass  # your code


# %% check
check_floor_ms(floor_ms)


# %% solution
def floor_ms(config, n, l, bits, bandwidth):
    D, L = config.num_channels, config.num_self_attention_layers
    weights = (4 + 2 * config.cross_attention_widening_factor) * D**2
    weights += L * (4 + 2 * config.self_attention_widening_factor) * D**2
    held = 2 * D * (n + L * l)  # a key and a value of D numbers for each position
    count = weights * bits / 8 + 4 * (config.vocab_size * D + held)
    return count / bandwidth / 1e6  # 1e9 bytes a second are 1e6 a millisecond


# %% mistake: bits are counted as bytes
def floor_ms(config, n, l, bits, bandwidth):
    D, L = config.num_channels, config.num_self_attention_layers
    weights = (4 + 2 * config.cross_attention_widening_factor) * D**2
    weights += L * (4 + 2 * config.self_attention_widening_factor) * D**2
    held = 2 * D * (n + L * l)
    return (weights * bits + 4 * (config.vocab_size * D + held)) / bandwidth / 1e6


# %% mistake: keys *and* values
def floor_ms(config, n, l, bits, bandwidth):
    D, L = config.num_channels, config.num_self_attention_layers
    weights = (4 + 2 * config.cross_attention_widening_factor) * D**2
    weights += L * (4 + 2 * config.self_attention_widening_factor) * D**2
    count = weights * bits / 8 + 4 * (config.vocab_size * D + D * (n + L * l))
    return count / bandwidth / 1e6


# %% mistake: keys and values stay in float32
def floor_ms(config, n, l, bits, bandwidth):
    D, L = config.num_channels, config.num_self_attention_layers
    weights = (4 + 2 * config.cross_attention_widening_factor) * D**2
    weights += L * (4 + 2 * config.self_attention_widening_factor) * D**2
    held = 2 * D * (n + L * l)
    count = (weights + held) * bits / 8 + 4 * config.vocab_size * D
    return count / bandwidth / 1e6


# %% mistake: there are L + 1 layers
def floor_ms(config, n, l, bits, bandwidth):
    D, L = config.num_channels, config.num_self_attention_layers
    weights = L * (4 + 2 * config.self_attention_widening_factor) * D**2
    held = 2 * D * (n + L * l)
    count = weights * bits / 8 + 4 * (config.vocab_size * D + held)
    return count / bandwidth / 1e6


# %% mistake: only the hybrid layer holds all
def floor_ms(config, n, l, bits, bandwidth):
    D, L = config.num_channels, config.num_self_attention_layers
    weights = (4 + 2 * config.cross_attention_widening_factor) * D**2
    weights += L * (4 + 2 * config.self_attention_widening_factor) * D**2
    held = 2 * D * n * (L + 1)
    count = weights * bits / 8 + 4 * (config.vocab_size * D + held)
    return count / bandwidth / 1e6


# %% roofline_ms: Which side of the ridge?
# Write `roofline_ms(rows, inputs, outputs, bits, bandwidth, peak)`: the least milliseconds of a
# product of `rows` rows of `inputs` numbers with a weight, (outputs, inputs), a number. The weight
# has `bits` bits a number; the rows that go in and those that come out have four bytes a number.
# `bandwidth` is in GB/s, `peak` in G operations a second; a multiplication is one, an addition too.
# A machine reads and computes at the same time.
# %% stub
def roofline_ms(rows, inputs, outputs, bits, bandwidth, peak):
    pass  # your code


# %% check
check_roofline_ms(roofline_ms)


# %% solution
def roofline_ms(rows, inputs, outputs, bits, bandwidth, peak):
    weight = inputs * outputs * bits / 8  # read once, however many rows there are
    moved = weight + 4 * rows * (inputs + outputs)
    operations = 2 * rows * inputs * outputs
    return max(moved / bandwidth, operations / peak) / 1e6


# %% mistake: you add the two
def roofline_ms(rows, inputs, outputs, bits, bandwidth, peak):
    moved = inputs * outputs * bits / 8 + 4 * rows * (inputs + outputs)
    return (moved / bandwidth + 2 * rows * inputs * outputs / peak) / 1e6


# %% mistake: two operations a row
def roofline_ms(rows, inputs, outputs, bits, bandwidth, peak):
    moved = inputs * outputs * bits / 8 + 4 * rows * (inputs + outputs)
    return max(moved / bandwidth, rows * inputs * outputs / peak) / 1e6


# %% mistake: read once for all rows
def roofline_ms(rows, inputs, outputs, bits, bandwidth, peak):
    moved = rows * inputs * outputs * bits / 8 + 4 * rows * (inputs + outputs)
    return max(moved / bandwidth, 2 * rows * inputs * outputs / peak) / 1e6


# %% mistake: shorter of the two
def roofline_ms(rows, inputs, outputs, bits, bandwidth, peak):
    moved = inputs * outputs * bits / 8 + 4 * rows * (inputs + outputs)
    return min(moved / bandwidth, 2 * rows * inputs * outputs / peak) / 1e6


# %% to_int8: A scale for each output
# The blocks of this chapter have 32 weights. Here a block is a whole row.
# Write `to_int8(weight)` for a float tensor `weight`, (out, in). Return two tensors: `rounded`,
# (out, in), of `torch.int8`, and `scale`, (out,), so that `rounded * scale[:, None]` is as near to
# `weight` as 8 bits allow. The largest number of each row, by size, becomes 127 or -127; hence no
# weight is off by more than half a `scale`. A row may consist of zeros.
# %% stub
def to_int8(weight):
    pass  # your code


# %% check
check_to_int8(to_int8)


# %% solution
def to_int8(weight):
    scale = weight.abs().amax(dim=1) / 127
    scale = scale.clamp(min=1e-12)  # a row of zeros has no largest number to divide by
    return (weight / scale[:, None]).round().to(torch.int8), scale


# %% mistake: one scale for all
def to_int8(weight):
    scale = weight.abs().max() / 127
    return (weight / scale).round().to(torch.int8), scale


# %% mistake: a scale for each input
def to_int8(weight):
    scale = weight.abs().amax(dim=0).clamp(min=1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale


# %% mistake: cuts off what follows the point
def to_int8(weight):
    scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).to(torch.int8), scale


# %% mistake: changes its sign
def to_int8(weight):
    scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 128
    return (weight / scale[:, None]).round().to(torch.int32).to(torch.int8), scale


# %% mistake: a row of zeros
def to_int8(weight):
    scale = weight.abs().amax(dim=1) / 127
    rounded = (weight / scale[:, None]).round().nan_to_num().to(torch.int8)
    return rounded, scale / (scale > 0)


# %% compare: An honest timer
# Write `compare(works, rounds, clock)`. `works` is a dict from name to a function without
# arguments; `clock()` gives seconds, as `time.perf_counter` does. Return a dict from name to the
# seconds of one call. `rounds` calls of each are to count, at least two. The checker plays machines
# whose first call is slow, that become busy half-way, or that hiccup, and asks how many times as
# fast one work is as the other. `median` is imported.
# %% stub
def compare(works, rounds, clock):
    pass  # your code


# %% check
check_compare(compare)


# %% solution
def compare(works, rounds, clock):
    taken = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():  # in turn: what slows one slows the others
            begin = clock()
            work()
            taken[name].append(clock() - begin)
    return {name: median(times[1:]) for name, times in taken.items()}


# %% mistake: one work after the other
def compare(works, rounds, clock):
    seconds = {}
    for name, work in works.items():
        times = []
        for _ in range(rounds + 1):
            begin = clock()
            work()
            times.append(clock() - begin)
        seconds[name] = median(times[1:])
    return seconds


# %% mistake: a mean believes
def compare(works, rounds, clock):
    taken = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            begin = clock()
            work()
            taken[name].append(clock() - begin)
    return {name: sum(times[1:]) / rounds for name, times in taken.items()}


# %% mistake: warms up
def compare(works, rounds, clock):
    taken = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            begin = clock()
            work()
            taken[name].append(clock() - begin)
    return {name: median(times) for name, times in taken.items()}


# %% mistake: the least of the times
def compare(works, rounds, clock):
    taken = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            begin = clock()
            work()
            taken[name].append(clock() - begin)
    return {name: min(times[1:]) for name, times in taken.items()}


# %% mistake: enclose one work and nothing else
def compare(works, rounds, clock):
    taken = {name: [] for name in works}
    for _ in range(rounds + 1):
        begin = clock()
        for name, work in works.items():
            work()
            taken[name].append(clock() - begin)
    return {name: median(times[1:]) for name, times in taken.items()}


# %% guess: Several tokens for one reading
# *Open.* Four rows cost a product less than four times one. So let something cheap guess the next `k`
# tokens, let the model read all `k` at once, and keep those that it would have chosen itself: that
# is *speculative decoding* {cite:p}`leviathan2023speculative`, and the result is the same, only
# sooner. Write the cheap half: `guess(tokens, k)` gets a list of at least 64 token ids and returns
# `k` ids that may follow. There is no model to ask. The checker goes through three pieces, takes
# what the composer wrote as the judge, and counts how many tokens of each guess are right before
# the first wrong one: at least 0.25 on average, with `k` = 4.
# %% stub
def guess(tokens, k):
    pass  # your code


# %% check
check_guess(guess)


# %% solution
def guess(tokens, k):
    for length in (4, 3, 2, 1):  # the longest run that stood somewhere before
        tail = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):  # the latest such place
            if tokens[start : start + length] == tail:
                following = tokens[start + length : start + length + k]
                return (following * k)[:k]
    return tokens[-1:] * k


# %% mistake: almost none of your guesses
def guess(tokens, k):
    return tokens[-1:] * k


# %% mistake: asked for 4
def guess(tokens, k):
    return tokens[-1:]


# %% mistake: Music repeats itself
def guess(tokens, k):
    return [max(set(tokens), key=tokens.count), *tokens[-k:]][:k]


# %% mistake: where did the last few tokens
def guess(tokens, k):
    for start in range(len(tokens) - 2, -1, -1):
        if tokens[start] == tokens[-1]:
            return (tokens[start + 1 : start + 1 + k] * k)[:k]
    return tokens[-1:] * k
