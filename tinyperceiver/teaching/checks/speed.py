"""Chapter 13: the exercises on what a token costs, and on how to measure it."""

from statistics import median

import torch

from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.teaching.checking import Case, Mistake, exercise, same

__all__ = ["compare", "floor_ms", "guess", "roofline_ms", "to_int8"]

_ODD = PerceiverConfig(
    vocab_size=100,
    max_seq_len=512,
    max_latents=128,
    num_channels=64,
    num_heads=4,
    num_self_attention_layers=3,
    cross_attention_widening_factor=2,
    self_attention_widening_factor=3,
)


@exercise(
    "The floor, for any shape",
    cases=[
        Case(PRESETS["released"], 4096, 1024, 32, 32.0, shape="the released shape"),
        Case(PRESETS["released"], 4096, 1024, 8, 32.0, shape="the released shape"),
        Case(PRESETS["released"], 6144, 1, 16, 20.0, shape="the released shape"),
        Case(_ODD, 300, 70, 16, 0.5, shape="another shape"),
    ],
    returns="a number",
    about="{shape}, n = {n:,}, l = {l:,}, {bits} bits, {bandwidth:g} GB/s:",
    wrong="it should be {expected:.3g} ms, not {got:.3g}.",
    praise="With 8 bits a full window costs 2.5 times what a step from one latent costs: few bits "
    "make keys and values the larger part.",
    tolerance=1e-3,
)
def floor_ms(config, n, l, bits, bandwidth):
    """
    *Warm-up.* Write `floor_ms(config, n, l, bits, bandwidth)`: the least milliseconds of a step, a
    number. `config` is a `PerceiverConfig`; the hybrid layer holds `n` positions, each other layer
    `l`. The weights of all products have `bits` bits. (A scale of 32 bits for 32 weights of 8 bits
    makes that 9.) The embedding, which is read for the logits, and all keys and values have four
    bytes a number. Leave out norms and the one bias. `bandwidth` is in GB/s, 1e9 bytes a second. A
    layer's attention has $4 D^2$ weights, its MLP twice the widening factor times $D^2$; the hybrid
    layer's has `cross_attention_widening_factor`.
    """
    D, L = config.num_channels, config.num_self_attention_layers
    weights = (4 + 2 * config.cross_attention_widening_factor) * D**2
    weights += L * (4 + 2 * config.self_attention_widening_factor) * D**2
    held = 2 * D * (n + L * l)  # a key and a value of D numbers for each position
    count = weights * bits / 8 + 4 * (config.vocab_size * D + held)
    return count / bandwidth / 1e6  # 1e9 bytes a second are 1e6 a millisecond


_COUNT = "weights * bits / 8 + 4 * (config.vocab_size * D + held)"
floor_ms.mistakes |= {
    "bits are counted as bytes.": {"bits / 8": "bits"},
    "the embedding is read too, for the logits.": {"config.vocab_size * D + ": ""},
    "the embedding stays in float32, whatever the bits of the products.": {
        _COUNT: "(weights + config.vocab_size * D) * bits / 8 + 4 * held"
    },
    "keys and values stay in float32, whatever the bits of the products.": {
        _COUNT: "(weights + held) * bits / 8 + 4 * config.vocab_size * D"
    },
    "half of what is held is missing: keys *and* values are read.": {"held = 2 * D": "held = D"},
    "only the hybrid layer holds all n positions; the others hold latents.": {
        "(n + L * l)": "n * (L + 1)"
    },
    "what the hybrid layer holds is missing: all n positions.": {"n + L * l": "L * l"},
    "the hybrid layer has products, too: there are L + 1 layers.": {
        "(4 + 2 * config.cross_attention_widening_factor) * D**2": "0"
    },
    "keys and values are read, too.": {" + held": ""},
    "{got:.2f} ms is near {expected:.2f}, but not it. GB is 1e9 bytes, not 2**30.": {
        "bandwidth / 1e6": "bandwidth / 2**30 * 1e3"
    },
}


@floor_ms.diagnose
def _(got, expected, *_):
    if any(same(got, expected * factor, 1e-3) for factor in (1000, 1e-3, 1e6, 1e-6)):
        return f"{got:.3g} is off by a power of ten. Milliseconds; and a GB is 1e9 bytes."


floor_ms.caught |= {"off by a power of ten": {"bandwidth / 1e6": "bandwidth / 1e9"}}


@exercise(
    "Which side of the ridge?",
    cases=[
        (1, 768, 3072, 32, 32.0, 150.0),
        (1024, 768, 3072, 32, 32.0, 150.0),
        (1, 3072, 768, 8, 32.0, 400.0),
        (512, 3072, 768, 16, 10.0, 2000.0),
        (8, 768, 768, 32, 32.0, 150.0),
    ],
    returns="a number",
    about="{rows} rows, {inputs} to {outputs}, {bits} bits:",
    wrong="it should be {expected:.4g} ms, not {got:.4g}.",
    praise="At 32 GB/s and 150 G operations a second a row costs its full price from 10 rows on; "
    "before that rows are nearly free.",
    tolerance=1e-3,
)
def roofline_ms(rows, inputs, outputs, bits, bandwidth, peak):
    """
    Write `roofline_ms(rows, inputs, outputs, bits, bandwidth, peak)`: the least milliseconds of a
    product of `rows` rows of `inputs` numbers with a weight, (outputs, inputs), a number. The
    weight has `bits` bits a number; the rows that go in and those that come out have four bytes a
    number. `bandwidth` is in GB/s, `peak` in G operations a second; a multiplication is one, an
    addition too. A machine reads and computes at the same time.
    """
    weight = inputs * outputs * bits / 8  # read once, however many rows there are
    moved = weight + 4 * rows * (inputs + outputs)
    operations = 2 * rows * inputs * outputs
    return max(moved / bandwidth, operations / peak) / 1e6


roofline_ms.mistakes |= {
    "you add the two; while a machine computes it reads on, and the longer of the two decides.": {
        "max(moved / bandwidth, operations / peak)": "(moved / bandwidth + operations / peak)"
    },
    "you take the shorter of the two times.": {"max(": "min("},
    "each weight costs two operations a row, a multiplication and an addition.": {
        "2 * rows": "rows"
    },
    "the operations grow with the number of rows.": {"2 * rows": "2"},
    "what goes in and what comes out is moved, too.": {
        "weight + 4 * rows * (inputs + outputs)": "weight"
    },
    "the weights are read once for all rows: that is the point of many rows.": {
        "= weight +": "= rows * weight +"
    },
}


def _problem(got, expected, weight):
    """What is wrong with a weight in 8 bits, a sentence or None."""
    rounded, scale = got
    if rounded.dtype != torch.int8:
        return "the first of the two should be a tensor of `torch.int8`."
    largest = weight.abs().amax(dim=1)
    if (scale == scale[0]).all() and (largest != largest[0]).any():
        return (
            "all scales are equal; where rows differ in size the small ones lose all their bits. "
            "Each output, a row, needs its own."
        )
    again = rounded.float() * scale.float()[:, None]
    if not again.isfinite().all():
        return "a row of zeros gives NaN: its largest number is 0, by which nothing can be divided."
    error, step = (again - weight).abs().amax(dim=1), largest / 127 + 1e-9  # (out)
    if (error > 1.5 * step).any():
        row = int((error / step).argmax())
        is_large = weight[row].abs() > 0.9 * largest[row]
        if (rounded[row].sign() != weight[row].sign())[is_large].any():
            return (
                "the largest weight of a row changes its sign: 128 does not fit into int8, which "
                "ends at 127, and wraps to -128."
            )
        return f"row {row} is off by {error[row]:.2g}, where its numbers reach {largest[row]:.2g}."
    if (error > 0.75 * step).any():
        return (
            "some weights are off by nearly a whole step of the grid: `.to(torch.int8)` cuts off "
            "what follows the point. Round first."
        )
    if (error > 0.502 * step).any():
        return (
            "the grid is coarser than it could be: let the largest weight of a row be 127, the "
            "last number of int8."
        )


def _weights():
    plain = torch.randn(6, 40)
    empty = plain.clone()
    empty[2] = 0
    return [(plain,), (plain * torch.logspace(-3, 2, 6)[:, None],), (empty,)]


@exercise(
    "A scale for each output",
    cases=_weights,
    returns="two tensors, (rounded, scale): integers like the weight, and a scale for each row",
    accepts=lambda *args: _problem(*args) is None,
    praise="No weight is off by more than 0.39% of the largest in its row; half a step of 1/127 "
    "would be 0.39%.",
)
def to_int8(weight):
    """
    The blocks of this chapter have 32 weights. Here a block is a whole row. Write
    `to_int8(weight)` for a float tensor `weight`, (out, in). Return two tensors: `rounded`,
    (out, in), of `torch.int8`, and `scale`, (out,), so that `rounded * scale[:, None]` is as near
    to `weight` as 8 bits allow. The largest number of each row, by size, becomes 127 or -127; hence
    no weight is off by more than half a `scale`. A row may consist of zeros.
    """
    scale = weight.abs().amax(dim=1) / 127
    scale = scale.clamp(min=1e-12)  # a row of zeros has no largest number to divide by
    return (weight / scale[:, None]).round().to(torch.int8), scale


to_int8.diagnose(_problem)
to_int8.mistakes |= {
    "there is one scale for all; where rows differ in size the small ones lose all their bits. "
    "Each output, a row, needs its own.": {"amax(dim=1)": "max()", "scale[:, None]": "scale"},
    "there is a scale for each input; a column of the weight. Each output, a row, needs its own.": {
        "dim=1": "dim=0",
        "scale[:, None]": "scale",
    },
}
to_int8.caught |= {
    "all scales are equal": {"amax(dim=1)": "max().expand(len(weight))"},
    "tensor of `torch.int8`": {".to(torch.int8)": ".long()"},
    "cuts off what follows the point": {".round()": ""},
    "changes its sign": {"/ 127": "/ 128", ".to(torch.int8)": ".int().to(torch.int8)"},
    "coarser than it could be": {"/ 127": "/ 100"},
    "is off by": {"torch.int8), scale": "torch.int8), 1.1 * scale"},
    "a row of zeros gives NaN": {
        "scale.clamp(min=1e-12)": "scale / (scale > 0)",
        ".round()": ".round().nan_to_num()",
    },
}


@exercise("An honest timer", returns="a dict from each name to its seconds")
def compare(works, rounds, clock):
    """
    Write `compare(works, rounds, clock)`. `works` is a dict from name to a function without
    arguments; `clock()` gives seconds, as `time.perf_counter` does. Return a dict from name to the
    seconds of one call. `rounds` calls of each are to count, at least two. The checker plays
    machines whose first call is slow, that become busy half-way, or that hiccup, and asks how many
    times as fast one work is as the other. `median` is imported.
    """
    taken = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():  # in turn: what slows one slows the others
            begin = clock()
            work()
            taken[name].append(clock() - begin)
    return {name: median(times[1:]) for name, times in taken.items()}


class _Machine:
    """A clock and two works whose times are known, on a machine that may be disturbed.

    slowdown: of (seconds that have passed, calls of this work, calls of both) -> factor.
    """

    def __init__(self, slowdown):
        self.now, self.order, self.slowdown = 0.0, [], slowdown

    def work(self, name, seconds):
        def run():
            self.order.append(name)
            count = self.order.count(name)
            self.now += seconds * self.slowdown(self.now, count, len(self.order))

        return run

    def timed(self, answer, rounds=21):
        """What the answer finds, and how many times as fast the new work is."""
        works = {"new": self.work("new", 1.0), "old": self.work("old", 1.25)}
        # A bound method would be copied with its machine, as arguments are.
        found = compare.expect(answer(works, rounds, lambda: self.now), {"new": 1.0, "old": 1.0})
        if set(found) != set(works):
            raise Mistake("return a dict from each name to its seconds.")
        if not min(found.values()) > 0:
            raise Mistake("a time is not positive: ask the clock before and after a call.")
        return found, found["old"] / found["new"]


@compare.judge
def _(answer):
    quiet = _Machine(lambda now, count, calls: 1.0)
    found, ratio = quiet.timed(answer)
    if not same(ratio, 1.25, 1e-3):
        raise Mistake(
            "on a quiet machine the old way takes 1.25 times as long as the new one; you find "
            f"{ratio:.3f}. The clock must enclose one work and nothing else."
        )
    if not same(found["new"], 1.0, 1e-3):
        raise Mistake(
            f"one call of the new work takes 1 second, and you say {found['new']:.3g}: give the "
            "time of one call."
        )
    cold, _ = _Machine(lambda now, count, calls: 30.0 if count == 1 else 1.0).timed(answer, 2)
    if not same(cold["new"], 1.0, 0.02):
        raise Mistake(
            f"where every first call is slow, two rounds give {cold['new']:.1f} seconds for a call "
            "of 1 second: the first call, which warms up, must not count."
        )
    if (calls := quiet.order.count("new")) < 22:
        raise Mistake(
            f"21 calls of each are to count, and one more must not; you make {calls} in all."
        )
    busy = _Machine(lambda now, count, calls: 1.0 if now < 26 else 3.0)  # and it stays busy
    _, ratio = busy.timed(answer)
    if len(set(busy.order[: len(busy.order) // 2])) == 1:
        raise Mistake(
            "you measure one work after the other. On a machine that became busy half-way the new "
            f"way seems {ratio:.2f} times as fast, and it is 1.25: let them take turns."
        )
    if not 1.15 < ratio < 1.4:
        raise Mistake(
            f"on a machine that became busy half-way you find {ratio:.2f}, not about 1.25."
        )
    nervous = _Machine(lambda now, count, calls: 20.0 if calls % 9 == 4 else 1.0)
    _, ratio = nervous.timed(answer)
    if not same(ratio, 1.25, 0.02):
        raise Mistake(
            f"where one call in nine is held up you find {ratio:.2f}, not 1.25: a mean believes "
            "every accident, a median does not."
        )
    found, _ = _Machine(lambda now, count, calls: 0.2 if count == 8 else 1.0).timed(answer)
    if found["new"] < 0.9:
        raise Mistake(
            "a single call that seems too fast decides: the least of the times is one measurement, "
            "and it may be the wrong one. Take the median."
        )
    return "It finds 1.25 on a quiet machine, a cold one, a busy one and a nervous one."


compare.caught |= {
    "one work after the other": {
        "for _ in range(rounds + 1):": "for name, work in works.items():",
        "for name, work in works.items():  # in turn: what slows one slows the others": "for _ in "
        "range(rounds + 1):",
    },
    "a mean believes": {"median(times[1:])": "sum(times[1:]) / rounds"},
    "which warms up": {"rounds + 1": "rounds", "times[1:]": "times"},
    "the least of the times": {"median(": "min("},
    "give the time of one call": {"median(times[1:])": "sum(times[1:])"},
    "you make 2 in all": {"rounds + 1": "2"},
    "not positive": {"clock() - begin": "begin - clock()"},
    "enclose one work and nothing else": {
        "            begin = clock()\n": "",
        "for name, work": "begin = clock()\n        for name, work",
    },
}

_GUESSED = 4  # tokens at a time


@exercise("Several tokens for one reading", returns="a list of 4 token ids")
def guess(tokens, k):
    """
    *Open.* Four rows cost a product less than four times one. So let something cheap guess the next
    `k` tokens, let the model read all `k` at once, and keep those that it would have chosen itself:
    that is *speculative decoding* {cite:p}`leviathan2023speculative`, and the result is the same,
    only sooner. Write the cheap half: `guess(tokens, k)` gets a list of at least 64 token ids and
    returns `k` ids that may follow. There is no model to ask. The checker goes through three
    pieces, takes what the composer wrote as the judge, and counts how many tokens of each guess are
    right before the first wrong one: at least 0.25 on average, with `k` = 4.
    """
    for length in (4, 3, 2, 1):  # the longest run that stood somewhere before
        tail = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):  # the latest such place
            if tokens[start : start + length] == tail:
                following = tokens[start + length : start + length + k]
                return (following * k)[:k]
    return tokens[-1:] * k


@guess.judge
def _(answer):
    kept = rounds = 0
    for name in ("joplin-maple-leaf-rag", "bach-prelude", "mozart-sonata"):
        tokens = encode_midi(load_piece(name))[:900]
        place = 64
        while place < len(tokens) - _GUESSED:
            guessed = guess.expect(answer(tokens[:place], _GUESSED), [0] * _GUESSED)
            if len(guessed) != _GUESSED:
                raise Mistake(
                    f"return {_GUESSED} token ids when asked for {_GUESSED}, not {len(guessed)}."
                )
            if not all(0 <= token < 388 for token in guessed):
                raise Mistake(f"{guessed} are not token ids, whole numbers 0 to 387.")
            agreed = 0
            while agreed < _GUESSED and guessed[agreed] == tokens[place + agreed]:
                agreed += 1
            kept, rounds, place = kept + agreed, rounds + 1, place + agreed + 1
    mean = kept / rounds
    if mean < 0.02:
        raise Mistake(
            f"almost none of your guesses are right ({mean:.2f} tokens each time). Are they what "
            "comes *after* the given tokens? And is the run that you look for so long that it "
            "hardly ever came before?"
        )
    if mean < 0.25:
        raise Mistake(
            f"each guess of {_GUESSED} is right for {mean:.2f} tokens on average; 0.25 can be "
            "reached. Music repeats itself: where did the last few tokens stand before, and what "
            "came then?"
        )
    return (
        f"Each guess is right for {mean:.2f} tokens on average: with a model that agreed with the "
        f"composers, one reading of its weights would give {1 + mean:.2f} tokens."
    )


guess.caught |= {
    "almost none of your guesses": lambda tokens, k: tokens[-1:] * k,
    "asked for 4": lambda tokens, k: tokens[-1:],
    "Music repeats itself": lambda tokens, k: [max(set(tokens), key=tokens.count), *tokens[-k:]][
        :k
    ],
    "where did the last few tokens": {"(4, 3, 2, 1)": "(1,)"},
    "are not token ids": lambda tokens, k: [388] * k,
}
