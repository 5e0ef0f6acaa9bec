"""Chapter 6: the exercises on the hybrid layer."""

import torch

from tinyperceiver.model.attention import attention_formula, causal_mask
from tinyperceiver.teaching.checking import Case, Mistake, exercise

__all__ = ["audit", "cheaper_mask", "hybrid_mask", "most_latents", "readers"]


def _as_mask(answer, m, l):
    """What an answer returned, as (l, m + l) booleans, or a `Mistake` in words."""
    try:
        if isinstance(answer, (list, tuple)):  # of lists, or of tensors
            answer = torch.stack([torch.as_tensor(row) for row in answer])
        mask = torch.as_tensor(answer).to_dense()
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(
            f"for m = {m}, l = {l} it returns a {type(answer).__name__} that is no table: return "
            "l rows of m + l values, True or False, all rows of one length."
        ) from None
    if tuple(mask.shape) != (l, m + l):
        raise Mistake(
            f"for m = {m}, l = {l} the mask has the shape {tuple(mask.shape)}, not {(l, m + l)}: "
            "a row for each latent, a column for each position of the window."
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise Mistake("the mask holds other values than True and False.")
    return mask.bool()


def _wrong_place(got, expected, m, l):
    i, j = (got != expected).nonzero()[0].tolist()
    word = "sees" if got[i, j] else "does not see"
    return f"query {i}, which stands at position {i + m}, {word} position {j}."


@exercise(
    "The mask by hand",
    cases=[(8, 4), (1, 3), (0, 5), (6, 1), (2, 7)],
    read=_as_mask,
    about="for m = {m}, l = {l}",
    wrong=_wrong_place,
    praise="Five windows, with an empty prefix and with a single latent among them.",
)
def hybrid_mask(m, l):
    """
    Write the mask without `causal_mask`: with two loops, or with one expression.
    `hybrid_mask(m, l)` gets the lengths of prefix and latents, `m >= 0` and `l >= 1`, and returns
    `l` rows of `m + l` values, `True` where the query sees the key. A list of lists will do.
    """
    rows = []
    for i in range(l):
        place = i + m  # where query i stands in the window
        rows.append([j <= place for j in range(m + l)])
    return rows


hybrid_mask.mistakes |= {
    "True and False are exchanged: True is for a key that is seen.": {"<=": ">"},
    "the mask is aligned at the left: query 0 sees position 0 alone. But it stands at position "
    "{m}. Count the queries' places from there.": {"i + m": "i"},
    "nothing is hidden: every latent sees the future.": {"j <= place": "True"},
    "a latent does not see itself: compare with ≤, not with <.": {"<=": "<"},
}
hybrid_mask.caught |= {
    "not (4, 12)": {"range(l)": "range(m + l)"},
    "query 1, which stands at position 9, sees position 10": {"j <= place": "j <= place + i"},
    "no table": {"return rows": "return 'rows'"},
    "other values": {"j <= place": "2 * (j <= place)"},
}


def _as_numbers(answer, j, m, l):
    try:
        return sorted(int(i) for i in answer)
    except TypeError:
        raise Mistake(f"for j = {j}, m = {m}, l = {l} it returns no list of numbers.") from None


@exercise(
    "Who reads this token?",
    cases=[(9, 8, 4), (8, 8, 4), (11, 8, 4), (3, 8, 4), (0, 5, 2), (2, 0, 5)],
    read=_as_numbers,
    about="for j = {j}, m = {m}, l = {l} it returns {got}.",
    praise="A token of the prefix has l readers, the last token has one: itself.",
)
def readers(j, m, l):
    """
    Now by columns. `readers(j, m, l)` gets the position `j` of a token in the window, counted from
    0, and returns the list of the latents that may see it in layer 1. Latents are numbered from 0
    to `l - 1`.
    """
    # j <= i + m solved for i; a token of the prefix has all latents after it.
    return list(range(max(0, j - m), l))


readers.mistakes |= {
    "That is a column of the mask. Wanted are the numbers of the latents, those i for which it is "
    "True.": lambda j, m, l: [int(j <= i + m) for i in range(l)],
    "Those are positions in the window. Latents are numbered from 0, at position m.": {
        "max(0, j - m), l": "max(j, m), m + l"
    },
}
readers.caught |= {
    "Latent 1 is missing, and it is the token itself": {"j - m": "j - m + 1"},
    "There are only the latents 0 to 3": {"max(0, j - m)": "j - m"},
    "Some latent is listed more than once": {"l))": "l)) * (m + 1)"},
    "Latent 0 stands before position 9": {"max(0, j - m)": "0"},
    "Latent 3, after position 9": {"l))": "l))[:2]"},
    "this token is in the prefix": {"j - m), l": "j - m), l - (j < m)"},
    "no list of numbers": {"list(": "len("},
}


@readers.diagnose
def _(got, right, j, m, l):
    if any(i < 0 or i >= l for i in got):
        return (
            f"There are only the latents 0 to {l - 1}. A token of the prefix stands before all of "
            "them."
        )
    if len(set(got)) < len(got):
        return "Some latent is listed more than once."
    if got == right[1:] and j >= m:
        return f"Latent {j - m} is missing, and it is the token itself."
    if j < m:
        return "But this token is in the prefix."
    if early := sorted(set(got) - set(right)):
        return f"Latent {early[0]} stands before position {j}, at {early[0] + m}."
    return f"Latent {min(set(right) - set(got))}, after position {j}, is missing."


def _bought(got, expected, n, layers, budget):
    got = got if got is None else f"{got:,}"
    return f"for n = {n:,}, {layers} layers above and {budget:,} pairs it returns {got}."


@exercise(
    "What a budget buys",
    cases=[
        (6144, 18, 48_253_952), (6144, 18, 20_000_000), (1024, 3, 300_000), (12, 0, 42),
        (12, 18, 222), (12, 18, 221), (20, 2, 630), (20, 18, 19),
    ],
    returns="a whole number of latents",
    about=_bought,
    praise="48,253,952 pairs buy 2,048 latents in a window of 6,144: the released model's shape.",
)  # fmt: skip
def most_latents(n, layers, budget):
    """
    A window of `n` tokens, one hybrid layer and `layers` self-attention layers above it.
    `most_latents(n, layers, budget)` returns the largest `l` from 1 to `n` with which the whole
    stack compares at most `budget` pairs of query and key, and 0 if not even one latent fits.
    Hidden pairs are free. (The prefix shrinks as the latents grow: `m = n - l`.)
    """
    best = 0
    for l in range(1, n + 1):
        triangle = l * (l + 1) // 2
        # Layer 1 also looks at the prefix; the layers above see latents alone.
        if l * (n - l) + triangle + layers * triangle <= budget:
            best = l
    return best


_FIRST = "l * (n - l) + triangle"
_PAIRS = f"{_FIRST} + layers * triangle"
most_latents.mistakes |= {
    "So many come out as if the layers above layer 1 were not counted.": {_PAIRS: _FIRST},
    "So many come out as if hidden pairs were counted, whole rectangles.": {
        _PAIRS: "l * n + layers * l * l"
    },
    "So many come out as if the layers above were charged for the prefix.": {
        _PAIRS: f"(layers + 1) * ({_FIRST})"
    },
    "So many come out as if a layer were missing (`layers` are those above layer 1).": {
        "layers * triangle": "(layers - 1) * triangle"
    },
    "Not even one latent fits: return 0 then, not None.": {"best = 0": "best = None"},
}
most_latents.caught |= {
    "one latent more would still fit": {"<= budget": "< budget"},
    "cost 38 pairs: too many": {"best = 0": "best = 1"},
    "l is between 0 and n": {"return best": "return n + 1"},
    "a whole number of latents": {"return best": "return best / 1"},
}


@most_latents.diagnose
def _(got, expected, n, layers, budget):
    if got < 0 or got > n:
        return "But l is between 0 and n."
    if got > expected:
        spent = got * (n - got) + (layers + 1) * got * (got + 1) // 2
        return f"So many latents cost {spent:,} pairs: too many."
    return "But one latent more would still fit."


def _toy_layer(see, normed=False):
    """A layer with fixed weights: `see(l, n)` is its mask."""

    def layer(x, prefix):
        context = torch.cat((prefix, x), dim=1)
        if normed:
            context = torch.nn.functional.layer_norm(context, context.shape[-1:])
        l, n = x.size(1), context.size(1)
        # The sums make a sum of the output tell more than the zero that a norm leaves.
        values = context.cumsum(dim=-1)
        return attention_formula(context[:, n - l :], context, values, see(l, n))

    return layer


def _but(i, j, sees):
    """The hybrid mask but for one place: query i and the position j after the prefix."""

    def see(l, n):
        mask = causal_mask(l, n)
        if i < l and 0 <= n - l + j < n:
            mask[i, n - l + j] = sees
        return mask

    return see


def _faint(x, prefix):
    return _toy_layer(causal_mask)(x, prefix) - 0.0001 * x.sum(dim=1, keepdim=True)


def _late(x, prefix):
    """Every output stands one place too late, and hears what is before its own token."""
    m, none = prefix.size(1), torch.zeros_like(x[:, :1])
    window = torch.cat((none, prefix, x[:, :-1]), dim=1)
    return _toy_layer(causal_mask)(window[:, m:], window[:, :m])


def _rounded(x, prefix):
    out, total = _toy_layer(causal_mask)(x, prefix), x.sum(dim=1, keepdim=True)
    return (out + total) - total


def _audits():
    x, prefix = torch.randn(1, 5, 8), torch.randn(1, 7, 8)
    for layer, why in (
        (_toy_layer(causal_mask),
         "An output may move with its own token, and must move with all before it."),
        (_toy_layer(lambda l, n: torch.ones(l, n).bool()), "In that layer all latents see all."),
        (_toy_layer(_but(0, 1, True)),
         "In that layer latent 0 sees latent 1, and nothing else is wrong. Changing only the last "
         "latent does not find it: change each."),
        (_toy_layer(_but(1, 4, True)),
         "In that layer latent 1 sees latent 4. Look at all outputs before the token that you have "
         "changed, not at the nearest or the first alone."),
        (_faint, "That leak is weak: some outputs move by a few ten-thousandths, which is well "
         "above rounding."),
        (_toy_layer(causal_mask, normed=True),
         "That layer begins with a LayerNorm, which takes away the scale of a token and whatever "
         "all its channels have in common. Change tokens in another way."),
        (_toy_layer(_but(2, 3, True), normed=True),
         "Latent 2 of that layer sees latent 3, behind a LayerNorm."),
        (_toy_layer(lambda l, n: torch.ones(l, n).tril().bool()),
         "Its mask is aligned at the left: the future is hidden, and most of the past as well."),
        (_toy_layer(lambda l, n: (torch.arange(n) < n - l) | torch.eye(n).bool()[n - l :]),
         "It hears the prefix and each token itself, but not the latents between."),
        (_toy_layer(_but(3, -4, False)),
         "One latent does not hear one token of the prefix: change tokens of the prefix as well, "
         "and look at each output."),
        (_late, "Each output hears what stands before its token, but not the token. By the mask "
         "its own token is heard, too."),
        (_toy_layer(lambda l, n: torch.arange(n) >= torch.arange(n - l, n)[:, None]),
         "That layer hears the future, and is deaf to the past as well. A leak comes first."),
        (_rounded, "In that layer some outputs move with the future, but by rounding alone."),
    ):  # fmt: skip
        yield Case(layer, x, prefix, wrong=why)


def _as_word(answer, *_):
    if not isinstance(answer, str) or answer not in ("leaks", "deaf", "fine"):
        raise Mistake(f'it returns {answer!r}, not one of the words "leaks", "deaf" and "fine".')
    return answer


@exercise(
    "Too much, too little",
    cases=_audits,
    read=_as_word,
    about='one of the layers is to be called "{expected}", and you say "{got}".',
    praise="13 layers told apart, six of which leak and four of which are deaf. Run it on any "
    "layer that you write.",
)
def audit(layer, x, prefix):
    """
    `audit(layer, x, prefix)` gets a layer, latents `x`, (1, l, D), and a prefix, (1, m, D),
    tensors of random floats. `layer(x, prefix)` gives (1, l, D), for any l and m. You cannot look
    into it: try it. Return `"leaks"` if some output depends on a token that comes after it; if none
    does, `"deaf"` if some output does not depend on a token up to its own; else `"fine"`. Mind what
    a LayerNorm would not notice, and effects of a ten-thousandth. What moves by less than 1e-5 is
    rounding.
    """
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


audit.caught |= {
    "An output may move with its own token": {"moved[:first]": "moved[: first + 1]"},
    "Changing only the last latent": {"range(window.size(1))": "[window.size(1) - 1]"},
    "not at the nearest": {"moved[:first]": "moved[max(first - 1, 0) : first]"},
    "That leak is weak": {"> 1e-5": "> 0.001"},
    "which takes away the scale": {"*= -1": "+= 1.0"},
    "aligned at the left": {"deaf = deaf or not moved[first:].all()": ""},
    "tokens of the prefix as well": {"range(window": "range(m, window"},
    "not one of the words": {'return "leaks"': "return True"},
    "its own token is heard, too": {"moved[first:]": "moved[max(0, j - m + 1) :]"},
    "A leak comes first": {"deaf = deaf or not moved[first:].all()": "if not moved[first:].all(): "
                           "return 'deaf'"},
    "by rounding alone": {"> 1e-5": "> 0"},
}  # fmt: skip


@exercise("A cheaper mask (open)")
def cheaper_mask(m, l):
    """
    Must every latent look at the whole prefix? Invent a mask for layer 1, (l, m + l), that has at
    most half of the pairs of the hybrid mask and still (1) shows no latent the future, (2) lets
    every latent see itself and the token before it, and (3) leaves no token of the prefix without a
    reader. `m >= 64` and `8 <= l <= m`. There are many answers; the dullest lets the last latent
    read the whole prefix and the others no more of it than (2) asks. What does that do to the l
    questions of a window? What does yours let the model forget? Would it be faster, on a kernel
    that computes scores before it hides them?
    """
    mask = causal_mask(l, m + l)
    place = torch.arange(m + l)
    for i in range(l):
        # Latents take turns with the prefix: every fourth token, and the last eight.
        is_turn = place % 4 == i % 4
        is_recent = place > i + m - 8
        mask[i] &= is_turn | is_recent
    return mask


@cheaper_mask.judge
def _(answer):
    share = 0.0
    for m, l in ((64, 16), (200, 8), (64, 64), (100, 50)):
        mask, full, where = _as_mask(answer(m, l), m, l), causal_mask(l, m + l), f"m = {m}, l = {l}"
        used = int(mask.sum()) / int(full.sum())
        for places, sentence in (
            (mask & ~full, "query {0}, at position {2}, sees position {1}: the future leaks."),
            (~mask.diagonal(m), "latent {0} does not see itself."),
            (
                ~mask.any(dim=0),
                "nobody reads {count} tokens of the prefix, the first of them at position {0}: "
                "what stands there is forgotten.",
            ),
            (~mask.diagonal(m - 1), "latent {0} does not see the token before it."),
            (
                torch.tensor([used > 0.5]),
                f"{used:.0%} of the pairs are left, and half of them are allowed.",
            ),
        ):
            if places.any():
                first = places.nonzero()[0].tolist()
                words = sentence.format(*first, first[0] + m, count=int(places.sum()))
                raise Mistake(f"for {where} {words}")
        share = max(share, used)
        reads = mask[:, :m].sum(dim=1)
    return (
        f"No leak, no token of the prefix unread, and at most {share:.0%} of the pairs. Of a "
        f"prefix of {m} a latent reads {int(reads.min())} to {int(reads.max())} tokens."
    )


cheaper_mask.caught |= {
    "nobody reads": {"is_turn | is_recent": "is_recent"},
    "does not see itself": {"is_turn | is_recent": "place % 2 == 0"},
    "of the pairs are left": {"mask[i] &= is_turn | is_recent": ""},
    "the future leaks": {"&= is_turn": "= is_turn"},
    "see the token before it": {"place > i + m - 8": "place > i + m - 1"},
}
