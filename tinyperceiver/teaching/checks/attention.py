"""Chapter 5: the exercises on attention."""

import torch

from tinyperceiver.teaching.checking import Case, Mistake, exercise

__all__ = ["attend_once", "hears_the_future", "slot", "split_heads", "window_mask"]


def _questions():
    """A query, (d), keys, (n, d), and values, (n, e)."""
    for n, d, e, size in ((1, 4, 3, 1), (5, 4, 3, 1), (6, 16, 2, 1), (4, 2, 4, 6)):
        words = {}
        if n == 1:
            words["wrong"] = (
                "with a single key the weight is 1 and the answer is its value, {expected}. Yours "
                "is {got}: do the weights sum to 1, and is all in float32?"
            )
        yield Case(size * torch.randn(d), torch.randn(n, d), torch.randn(n, e), **words)


@exercise(
    "One question",
    cases=_questions,
    returns="a mixture of the values",
    wrong="for d = {query.shape[0]} and n = {keys.shape[0]} it returns {got} where {expected} is "
    "right. Print the weights: are there n of them, do they sum to 1, and which scale did their "
    "scores have?",
    praise="With one key you return its value, and the weights of any query sum to 1.",
    tolerance=1e-4,
)
def attend_once(query, keys, values):
    """
    *Warm-up.* Write attention for a single query: `query` is $(d)$, `keys` is $(n, d)$ and
    `values` is $(n, e)$, all float tensors; values may be wider or narrower than keys. Return the
    answer, a tensor $(e)$, with the scale $1 / \\sqrt d$ and without a mask.
    """
    scores = keys @ query / len(query) ** 0.5  # (n,): one for each key
    return scores.softmax(0) @ values


attend_once.mistakes |= {
    "the scale is missing: the scores are not divided by the square root of d, so that the softmax "
    "is too sharp.": {" / len(query) ** 0.5": ""},
    "the scores are divided by d, not by its square root, so that the softmax is too flat.": {
        " ** 0.5": ""
    },
    "the scores are used without a softmax: they may be negative, and do not sum to 1.": {
        ".softmax(0)": ""
    },
    "the scores are divided by their sum. That is no softmax: take their exponentials first.": {
        ".softmax(0)": " / scores.sum()"
    },
    "the softmax runs over the channels of each key; it must run over the n scores.": {
        "keys @": "keys *",
        ".softmax(0)": ".softmax(0).sum(-1)",
    },
    "the scores are divided by the square root of the number of keys, {keys.shape[0]}. The scale "
    "is about d, the length of the query.": {"len(query)": "len(keys)"},
    "the scores are divided by the square root of the values' length, {values.shape[1]}. The scale "
    "is about d, the length of the query.": {"len(query)": "values.size(1)"},
    "it returns the value of the best key alone: the others count too, each by its weight.": {
        "scores.softmax(0) @ values": "values[scores.argmax()]"
    },
}
attend_once.caught |= {
    "a mixture of the values": {" @ values": ""},
    "with a single key": {"scores.softmax(0)": "scores.exp()"},
    "Print the weights": {" / len": " * len"},
}


@exercise(
    "A short memory",
    cases=[(6, 6, 3), (3, 7, 3), (1, 5, 2), (4, 9, 1), (3, 5, 50)],
    returns="a mask of True and False with a row for each query",
    praise="A row has at most `reach` keys, the last of which is the query itself.",
)
def window_mask(l, n, reach):
    """
    Some models save by looking back a limited way only {cite:p}`child2019sparse`. Return the mask,
    $(l, n)$ of True and False, for the last `l` of `n` positions, where a query sees at most
    `reach` keys: itself and the `reach - 1` before it. All three are whole numbers, at least 1; `l`
    is at most `n`, `reach` may exceed it. What is its cost in pairs, when $n$ grows and `reach`
    does not?
    """
    key = torch.arange(n)
    query = key[n - l :, None]  # the last l positions
    # Fewer than n * reach pairs are left: the cost grows as n, no longer as its square.
    return (key <= query) & (key > query - reach)


window_mask.mistakes |= {
    "{call} is aligned at the left: its last row must end at the last key. The queries are the "
    "last {l} of {n} positions.": {"key[n - l :, None]": "torch.arange(l)[:, None]"},
    "{call} is turned round: True means that the query may look at the key, False that it may "
    "not.": {"return (": "return ~(", "&": "| ~"},
    "{call} has rows and columns exchanged: a row is a query, a column a key.": {
        "return (key <= query) & (key > query - reach)": "return ((key <= query) & "
        "(key > query - reach)).mT"
    },
    "{call} lets every query see the whole past: the limit to the last {reach} keys is missing.": {
        " & (key > query - reach)": ""
    },
}
window_mask.caught |= {
    "off by one? The number": {"key > query": "key >= query"},
    "which lies in the future": {"key <= query": "key <= query + 1"},
    "it should return a mask of True": {"return (": "return 1 * ("},
    "it has False, where True": {"- reach)": "- reach + (query == 4))"},
}


@window_mask.diagnose
def _(got, expected, l, n, reach):
    key = torch.arange(n)
    future = (got & (key > key[n - l :, None])).nonzero().tolist()
    if future:
        return (
            f"in window_mask({l}, {n}, {reach}) the query at position {future[0][0] + n - l} looks "
            f"at key {future[0][1]}, which lies in the future."
        )
    if (seen := int(got[-1].sum())) != min(reach, n):
        return (
            "off by one? The number of keys that the last query sees in "
            f"window_mask({l}, {n}, {reach}) is {seen}; with itself it should be {min(reach, n)}."
        )


@exercise("Find the leak", returns="True or False")
def hears_the_future(layer, x):
    """
    `layer` is a function from $(n, D)$ to $(n, D)$, `x` an example of what goes in. Return True if
    some output depends on an input at a later position, else False. You cannot look into the layer;
    you can only ask it. Mind leaks at one place or in one channel only, and small ones: when an
    input changes by about 1, an output that leaks may change by 0.0001, while rounding, different
    at each call, stays below 0.000001.
    """
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


ROUNDS = "an honest layer whose outputs differ by less than 0.000001 from call to call"


def _layers():
    """Name -> layer, (n, D) -> (n, D): those that leak, and those that are honest."""
    random = torch.Generator().manual_seed(1)
    w = torch.randn(4, 4, generator=random)

    def layer(shift=0, leak=None, zero_after=False):
        def attention(x):
            n = len(x)
            scores = (x @ w) @ x.T / 4
            mask = torch.ones(n, n).tril(diagonal=shift).bool()
            if leak and max(leak) < n:
                mask[leak] = True
            if zero_after:
                return (scores.softmax(-1) * mask) @ x
            return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ x

        return attention

    honest = layer()

    def plus_next(*strength):
        """Each position also gets the next one's channels, times `strength`."""
        by = torch.tensor(strength)
        return lambda x: honest(x) + by * torch.cat((x[1:], 0 * x[:1]))

    leaky = {
        "a layer without any mask": layer(99),
        "a layer whose mask is shifted by one, so that each query sees one key too many": layer(1),
        "a layer that multiplies by the mask after the softmax": layer(zero_after=True),
        "a layer with a small leak, of about 0.0001": plus_next(1e-4, 1e-4, 1e-4, 1e-4),
        "a layer that leaks by the last channel alone": plus_next(0, 0, 0, 0.3),
        "a layer whose leak adds to one channel what it takes from the next, so that their sum "
        "stays": plus_next(0.3, -0.3, 0.3, -0.3),
    }
    for i, j in ((3, 4), (0, 1), (5, 6), (2, 5)):
        leaky[f"a layer in which position {i} alone sees position {j}"] = layer(leak=(i, j))
    return leaky, {
        "an honest layer": honest,
        "a layer that looks back two positions only": (
            lambda x: x + x.roll(2, 0) * (torch.arange(len(x)) >= 2)[:, None]
        ),
        ROUNDS: lambda x: honest(x) + 3e-7 * (2 * torch.rand(x.shape, generator=random) - 1),
    }


@hears_the_future.judge
def _(answer):
    leaky, fair = _layers()
    x = torch.randn(7, 4)
    missed, accused = [], []
    for name, layer in (leaky | fair).items():
        given = []  # each tensor that the layer was given, and what it was then

        def watched(x, layer=layer, given=given):
            given.append((x, x.clone()))
            return layer(x)

        said = bool(hears_the_future.expect(answer(watched, x), True))
        if said == (name in leaky):
            continue
        if not all(then.isfinite().all() for _, then in given):
            raise Mistake(
                "it tries NaN or infinity. But 0 times NaN is NaN, so that a masked key is heard, "
                "too: change by finite numbers."
            )
        if not all(torch.allclose(*pair) for pair in given):
            raise Mistake(
                "it changes a tensor that a layer has already been given, so that "
                + (
                    "its changes add up and an early one is taken for a later one: clone x for "
                    "each."
                    if said
                    else "both outputs are of the changed one: clone x."
                )
            )
        (accused if said else missed).append(name)
    if len(missed) == len(leaky):
        raise Mistake(
            "it finds no leak anywhere, not even in a layer without any mask. Are both outputs of "
            "the same x?"
        )
    if accused == [ROUNDS]:
        raise Mistake(
            f"it accuses {ROUNDS}, as rounding does. Call only larger differences a leak, and look "
            "at the largest: in a sum, rounding adds up."
        )
    if accused:
        raise Mistake(
            f"it accuses {accused[0]}. The output at the changed position and after it may change: "
            "compare only those before."
        )
    if missed:
        raise Mistake(
            f"it misses {missed[0]}. Change every position in turn, in all channels, look at the "
            "size of each difference in all outputs before it, and do not call a small one none."
        )
    return f"{len(leaky | fair)} layers judged rightly, also those with a single leak."


_LARGEST = "(after[:t] - before[:t]).abs().max() > 1e-5"
hears_the_future.caught |= {
    "compare only those before": {_LARGEST: "(after - before).abs().max() > 1e-5"},
    "it misses": {"range(1, len(x))": "[len(x) - 1]"},
    "both outputs are of the changed one": {"x.clone()": "x", "before[:t]": "layer(x)[:t]"},
    "small leak": {_LARGEST: "(after[:t] - before[:t]).abs().sum() > 0.01"},
    "5 alone sees position 6": {"len(x))": "len(x) - 1)"},
    "0 alone sees position 1": {"range(1,": "range(2,"},
    "2 alone sees position 5": {"after[:t] - before[:t]": "after[t - 1] - before[t - 1]"},
    "the last channel alone": {"changed[t] +=": "changed[t, 0] +="},
    "takes from the next": {".abs().max()": ".sum().abs()"},
    "as rounding does": {_LARGEST: "not torch.equal(after[:t], before[:t])"},
    "0 times NaN": {"+= 1.0": "= torch.nan", _LARGEST: "after[:t].isnan().any()"},
    "its changes add up": {"x.clone()": "x"},
    "Are both outputs of the same x": {"after = layer(changed)": "before = after = layer(changed)"},
    "it should return True or False": {"return True": "return after.abs().max()"},
}


def _sheets():
    for B, n, H, d in ((1, 3, 2, 4), (2, 5, 3, 2), (2, 4, 4, 4)):
        yield torch.arange(B * n * H * d).view(B, n, H * d).float(), H


def _misplaced(got, expected, x, num_heads):
    """What stands in the wrong place."""
    row, head, place = (got != expected).any(-1).nonzero()[0].tolist()
    d, found, right = expected.size(-1), got[row, head, place], expected[row, head, place]
    return (
        f"head {head} of position {place} must be channels {head * d} to {head * d + d - 1}, "
        f"{right.tolist()}, but is {found.tolist()}."
    )


@exercise(
    "Cut along the channels",
    cases=_sheets,
    returns="the heads, (B, H, n, d)",
    wrong=_misplaced,
    praise="Head h has channels h d to h d + d - 1 of every position.",
)
def split_heads(x, num_heads):
    """
    Split `x`, the queries, keys or values of a layer, $(B, n, D)$, into `num_heads` heads:
    $(B, H, n, d)$ with $d = D / H$. Head 0 gets the first $d$ channels of every position, head 1
    the next $d$, and so on. Use `reshape` or `view`, not the method of the package.
    """
    B, n, D = x.shape
    x = x.reshape(B, n, num_heads, D // num_heads)  # cuts each row into heads
    # Heads before positions: a matrix product works on the last two axes.
    return x.transpose(1, 2)  # (B, H, n, d)


split_heads.mistakes |= {
    "its shape is (B, n, H, d) = {got.shape}: the heads must stand before the positions, so that "
    "each head's matrix is (n, d).": {".transpose(1, 2)": ""},
    "the shape is right but it mixes positions: a reshape reads the numbers row by row, and head 0 "
    "gets position 0 {num_heads} times over. Split the channels first, then exchange two axes.": {
        "B, n, num_heads,": "B, num_heads, n,",
        ".transpose(1, 2)": "",
    },
    "head 0 gets one channel in every {num_heads}: a head's {expected.shape[3]} channels stand "
    "next to each other.": {
        "num_heads, D // num_heads": "D // num_heads, num_heads",
        ".transpose(1, 2)": ".permute(0, 3, 1, 2)",
    },
}
split_heads.caught |= {
    "head 0 of position 0 must be channels 0 to 3": {
        ".transpose(1, 2)": ".transpose(1, 2).flip(1)"
    },
    "the heads, (B, H, n, d)": {"x.transpose(1, 2)": "x.transpose(1, 2).flatten(0, 1)"},
}


@exercise("A ring that keeps the beginning", returns="a slot, a whole number")
def slot(position, capacity, keep):
    """
    *Open.* Language models that have run past the length of their ring go wrong when their very
    first tokens leave it, and keep working when those stay {cite:p}`xiao2024sinks`: a softmax must
    give its weight to something, and those had always been in view. Write
    `slot(position, capacity, keep)`: the slot, 0 to `capacity - 1`, where a position (0, 1, 2, ...)
    is written, so that the first `keep` positions stay for ever and the oldest of the others is
    overwritten once all slots are full. `keep` is less than `capacity`, and may be 0. Many layouts
    are right. Then think: would you keep the first tokens of a piece of music, and which others?
    """
    if position < keep:
        return position
    # The others go round in a ring of their own, behind those that stay.
    return keep + (position - keep) % (capacity - keep)


@slot.judge
def _(answer):
    for capacity, keep in ((6, 2), (5, 1), (8, 0), (4, 3)):
        held = {}  # slot -> position
        for position in range(50 * capacity):
            at = int(slot.expect(answer(position, capacity, keep), 0))
            where = f"slot({position}, {capacity}, {keep})"
            if not 0 <= at < capacity:
                raise Mistake(f"{where} is {at}: slots are 0 to {capacity - 1}.")
            if at in held:
                gone = held[at]
                where = f"{where} overwrites position {gone}"
                if gone < keep:
                    raise Mistake(f"{where}, which is among the first {keep} and must be kept.")
                if len(held) < capacity:
                    raise Mistake(
                        f"{where} while slots are still empty: {capacity - len(held)} of "
                        f"{capacity}."
                    )
                oldest = min(place for place in held.values() if place >= keep)
                if gone != oldest:
                    raise Mistake(f"{where}, which is not the oldest: {oldest} is older and stays.")
            held[at] = position
    return "The first `keep` positions stay, and of the others the newest."


slot.caught |= {
    "must be kept": lambda position, capacity, keep: position % capacity,
    "is not the oldest": {
        "position < keep": "position < capacity",
        "(position - keep)": "position",
    },
    "still empty": {"keep + (position - keep) % (capacity - keep)": "keep"},
    "slots are 0 to": {"(position - keep) % (capacity - keep)": "position % capacity"},
    "a slot, a whole number": {"return keep + (": "return 1.0 * ("},
}
