"""Chapter 10: the exercises on what a model has learnt."""

import time
from functools import partial

import numpy as np

from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, TIME_SHIFT
from tinyperceiver.teaching.checking import Mistake, exercise, refuse, same
from tinyperceiver.teaching.music import EDGES, KINDS, played
from tinyperceiver.teaching.records import measured

__all__ = [
    "longest_shared",
    "nats_by_kind",
    "standard_error",
    "tell_apart",
    "weight_by_distance",
]


def _priced():
    """Token ids and what each of them cost."""
    for tokens in (
        np.array([300, 60, 61, 300]),
        np.tile([0, 127, 128, 255, 256, 355, 356, 387], 3),
        np.array(encode_midi(load_piece("mozart-sonata")))[:400],
    ):
        yield tokens, np.random.gamma(2.0, 1.5, len(tokens)).round(3)


@exercise(
    "Where do they go?",
    cases=_priced,
    returns="a dict from kind to mean nats",
    praise="Three lists of tokens, with the first and the last id of every kind.",
)
def nats_by_kind(tokens, nats):
    """
    Write `nats_by_kind(tokens, nats)`. Both are NumPy arrays of shape `(length,)`: token ids, and
    what each of them cost. Return a dict from the name of a kind, as in `KINDS` (`"note on"`,
    `"note off"`, `"time shift"`, `"velocity"`), to the mean nats of the tokens of that kind. Leave
    out kinds that do not come. `EDGES` has the first id of each kind, and 388 at the end.
    """
    means = {}
    for k, name in enumerate(KINDS):
        of_kind = (tokens >= EDGES[k]) & (tokens < EDGES[k + 1])
        if of_kind.any():  # the mean of nothing is no number
            means[name] = nats[of_kind].mean()
    return means


nats_by_kind.mistakes |= {
    "the first token of a kind counts with the kind before it: 128 is a note-off, 256 a wait of 10 "
    "ms, 356 a velocity. Look at < and <=.": {
        ">= EDGES[k]": "> (EDGES[k] or -1)",
        "< EDGES[k + 1]": "<= EDGES[k + 1]",
    },
    "nats are charged to the token before: nats[t] is the price of tokens[t].": {
        "means = {}": "means, tokens, nats = {}, tokens[:-1], nats[1:]"
    },
    "you divide by the number of all tokens; the mean of a kind is over the tokens of that kind.": {
        ".mean()": ".sum() / len(nats)"
    },
    "these are sums: divide by the number of tokens of the kind.": {".mean()": ".sum()"},
}
nats_by_kind.caught |= {
    "leave out kinds that do not come": {
        "of_kind.any()": "True",
        ".mean()": ".sum() / max(of_kind.sum(), 1)",
    },
    "'NOTE ON' is no kind": {"means[name]": "means[name.upper()]"},
    "should be {'note on'": {"mean()": "max()"},
}


@nats_by_kind.diagnose
def _(got, expected, tokens, nats):
    if strangers := [name for name in got if name not in KINDS]:
        return f"{strangers[0]!r} is no kind; they are called {', '.join(KINDS)}."
    if extra := [name for name in got if name not in expected]:
        return (
            f"there is no {extra[0]} among the tokens {tokens[:4]} …, but your dict has one, "
            f"{got[extra[0]]}: leave out kinds that do not come."
        )


def _windows():
    random = np.random.default_rng(1)
    for windows, tokens in ((12, 50), (5, 200), (40, 8)):
        # What windows differ by, and what tokens differ by on top.
        nats = 2.5 + 0.5 * random.standard_normal((windows, 1))
        yield (nats + random.standard_normal((windows, tokens)),)


@exercise(
    "How sure?",
    cases=_windows,
    returns="one number, the standard error",
    about="for {nats.shape[0]} windows of {nats.shape[1]} tokens,",
    wrong="the error should be {expected:.4f}, not {got:.4f}.",
    praise="In the last case it is 1.6 times what counting tokens would say.",
)
def standard_error(nats):
    """
    Write `standard_error(nats)`. `nats` is an array of shape `(windows, l)`: the price of each of l
    targets in each window, at least two windows. The windows were drawn one by one. Return the
    standard error of the mean nats per token, one number.
    """
    # One number per window: the tokens in it are not independent of each other.
    means = nats.mean(axis=1)
    return means.std(ddof=1) / np.sqrt(len(means))


_FITTED = (
    "the deviation of so few {} is taken over one less than their number (`ddof=1`): their mean "
    "was fitted to them."
)
standard_error.mistakes |= {
    _FITTED.format("windows"): {"ddof=1": ""},
    "you divide by the number of windows; it should be its square root.": {"np.sqrt": ""},
    "this is the square of the standard error.": {"std": "var", "np.sqrt": ""},
    "the deviation is that of windows, but the square root that of tokens: count in both what you "
    "averaged.": {"len(means)": "nats.size"},
    "this is twice the error. Two errors are a rule for when a difference counts; return one.": {
        "return": "return 2 *"
    },
    "you measure how tokens differ within a window; ask how the windows' means differ.": (
        lambda nats: nats.std(axis=1, ddof=1).mean() / np.sqrt(nats.shape[1])
    ),
}
for sentence, program in {
    "you count tokens as if each had been drawn by itself; what was drawn are windows. Average "
    "within each window first.": lambda nats, ddof: nats.std(ddof=ddof) / np.sqrt(nats.size),
    "this is the deviation of the windows. The mean of many moves less: something is to be divided "
    "by a square root.": lambda nats, ddof: nats.mean(axis=1).std(ddof=ddof),
    "the square root is that of windows, but the deviation that of tokens: count in both what you "
    "averaged.": lambda nats, ddof: nats.std(ddof=ddof) / np.sqrt(len(nats)),
    "you average over the wrong axis: these are the means of the first, second, ... targets, and "
    "what was drawn are windows, the rows.": (
        lambda nats, ddof: nats.mean(axis=0).std(ddof=ddof) / np.sqrt(nats.shape[1])
    ),
}.items():
    standard_error.mistakes |= {
        sentence: partial(program, ddof=1),
        f"{sentence} And {_FITTED.format('numbers')}": partial(program, ddof=0),
    }
standard_error.caught |= {
    "the error should be 0.08": {"return": "return 0.9 *"},
    "it should return one number": {"means.std(ddof=1)": "means"},
}


def _attended():
    for heads, l, n in ((2, 4, 9), (3, 5, 5), (1, 1, 6)):
        is_past = np.arange(n) <= np.arange(n - l, n)[:, None]
        weights = np.random.gamma(1.0, size=(heads, l, n)) * is_past
        yield (weights / weights.sum(-1, keepdims=True),)


@exercise(
    "How far back?",
    cases=_attended,
    returns="an array of numbers, (H, n)",
    about="for {weights.shape[0]} heads, {weights.shape[1]} latents and {weights.shape[2]} keys",
    wrong="head 0 should have {expected[0]}, not {got[0]}.",
    praise="Three shapes, with an empty prefix and with a single latent among them.",
)
def weight_by_distance(weights):
    """
    Write `weight_by_distance(weights)`. `weights` is an array of shape `(H, l, n)`: for each head
    and each of l latents its weights on n keys. The latents are the *last* l of the n positions,
    and weights on later positions are 0. Return an array of shape `(H, n)`: entry `[h, t]` is the
    mean weight of head h on the key t positions back (t = 0 is the latent's own), over those
    latents that have a key so far back.
    """
    heads, l, n = weights.shape
    means = np.zeros((heads, n))
    for back in range(n):
        # Latent i stands at position n - l + i: the first may have no key so far back.
        i = np.arange(max(0, back - (n - l)), l)
        means[:, back] = weights[:, i, n - l + i - back].mean(axis=1)
    return means


weight_by_distance.mistakes |= {
    "you divide by all latents. Only the last of them has a key at the largest distance: average "
    "over those that have one at that distance.": {".mean(axis=1)": ".sum(axis=1) / l"},
    "these are sums over the latents, not means.": {".mean(axis=1)": ".sum(axis=1)"},
    "the order is turned round: entry 0 is distance 0.": {"return means": "return means[:, ::-1]"},
    "you average over the heads: each has a row of its own.": {
        "return means": "return np.tile(means.mean(axis=0), (heads, 1))"
    },
    "these are the weights of the last latent alone: average over all.": {
        "return means": "return weights[:, -1, ::-1]"
    },
    "you average by position. A key at position j is at another distance for each latent.": {
        "return means": "return weights.mean(axis=1)"
    },
    "you average the columns and turn them round. That is the distance from the last latent; each "
    "of the others stands elsewhere, and has its own distances.": {
        "return means": "return weights.mean(axis=1)[:, ::-1]"
    },
}
weight_by_distance.caught |= {
    "you let latent 0 stand at position 0. It stands at position 5": {
        "back - (n - l)": "back",
        "n - l + i - back": "i - back",
        ".mean(axis=1)": ".sum(axis=1) / max(len(i), 1)",
    },
    "all distances are one too small": {"return means": "return np.roll(means, -1, axis=1)"},
    "all distances are one too large": {"return means": "return np.roll(means, 1, axis=1)"},
    "head 0 should have": {".mean(axis=1)": ".max(axis=1)"},
    "an array of numbers": {"return means": "return means.tolist()"},
}


@weight_by_distance.diagnose
def _(got, expected, weights):
    _, l, n = weights.shape
    from_left = np.arange(l)[:, None] - np.arange(n)
    for distance in (from_left, abs(from_left)):
        at = [distance == back for back in range(n)]
        sums = np.stack([(weights * places).sum((1, 2)) for places in at], axis=1)
        counts = np.array([max(places.sum(), 1) for places in at])
        if any(same(got, sums / by) for by in (counts, l, 1)):
            return (
                f"you let latent 0 stand at position 0. It stands at position {n - l}: the latents "
                "are the last of the window."
            )
    if same(got[:, :-1], expected[:, 1:]):
        return (
            "all distances are one too small, or a latent's own key is left out: it belongs in "
            "entry 0."
        )
    if same(got[:, 1:], expected[:, :-1]):
        return "all distances are one too large: a latent's own key is at 0."


class _Looked(list):
    """A list that counts how many tokens or slices were asked of it."""

    looks = 0

    def _count(self, number):
        self.looks += number
        most = 300_000 if len(self) > 100 else 10_000
        if self.looks > most:
            raise Mistake(
                f"two lists of {len(self):,} tokens take you more than {most:,} looks. If a "
                "run of k is shared, so is each shorter one: which k need not be tried?"
            )

    def __getitem__(self, place):
        self._count(1)
        return super().__getitem__(place)

    def __iter__(self):
        self._count(len(self))
        return super().__iter__()


def _pairs():
    for a, b in (
        ([5, 1, 2, 6, 7, 8], [5, 2, 1, 3, 6, 7, 8]),
        ([1, 2, 3, 4, 5], [9, 2, 3, 4, 7]),
        ([7, 1, 7, 2, 7, 3], [1, 5, 2, 5, 3, 5, 7]),
        ([1, 1, 1, 2], [1, 1, 2, 1, 1]),
        ([4, 5, 6, 9, 1, 2, 3, 8], [4, 5, 0, 1, 2, 3, 0]),
        ([1, 2, 3], [4, 5]),
        ([], [1, 2]),
        ([5, 6, 7], [0, 5, 6, 7]),
        ([1, 2], [11, 21]),
    ):
        yield _Looked(a), _Looked(b)


@exercise(
    "Caught by halving",
    cases=_pairs,
    returns="the length of the run, one number",
    about="{a} and {b} share {expected} in a row; you find {got}.",
    wrong="",
    praise="Nine short pairs, and 600 tokens in a row found among 4,000.",
)
def longest_shared(a, b):
    """
    Write `longest_shared(a, b)`. `a` and `b` are lists of token ids, perhaps of thousands, perhaps
    empty. Return the length of the longest run of tokens that stands in both, in one piece and
    anywhere; 0 if they share nothing. To try all pairs of places takes 16 million looks for two
    lists of 4,000; the checker allows 300,000 into each (a slice `a[i:j]` is one look). The idea
    that makes the record's search quick helps: if a run of k tokens is shared, so is each shorter
    one. (Chapter 3's `ngram_keys` has room for runs of seven; longer ones may get the same number.)
    """

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


longest_shared.mistakes |= {
    "You count the different tokens that both have.": lambda a, b: len(set(a) & set(b)),
    "You compare from the beginning of both alone.": lambda a, b: next(
        (k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    ),
}


@longest_shared.mistake(
    "Those are tokens in the same order with others between. A quotation stands in one piece."
)
def _(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


@longest_shared.diagnose
def _(got, expected, a, b):
    if not got:
        return "Is there a shortest run that you try?"
    if a and got in [_longest_in_text(a, b, form) for form in ("{}", "_{}_", " {}", "{} ")]:
        return (
            "Do you search in text? There 1 stands in 11: mark where each token begins and where "
            "it ends."
        )
    if abs(got - expected) == 1:
        return "Off by one, or is a run at an end missed?"


def _longest_in_text(a, b, form):
    """What a search finds in text; each token is written as `form`, no `_` at the ends."""
    text = "".join(map(form.format, b)).strip("_")
    return max(
        j - i
        for i in range(len(a))
        for j in range(i, len(a) + 1)
        if "".join(map(form.format, a[i:j])).strip("_") in text
    )


@longest_shared.judge
def _(answer):
    a, b = np.random.randint(388, size=(2, 4000)).tolist()
    b[1700:2300] = a[900:1500]
    began = time.process_time()
    found = longest_shared.expect(answer(_Looked(a), _Looked(b)), 600)
    spent = time.process_time() - began
    start = f"two lists of 4,000 tokens share 600 in a row, and you find {found}."
    refuse(
        {
            f"{start} That is more than there is: do different runs get the same number?": found
            > 600,
            f"{start} Is there a longest run that you try?": found < 600,
            f"two lists of 4,000 tokens take you {spent:.0f} seconds. If a run of k is shared, so "
            "is each shorter one: which k need not be tried?": spent > 20,
        }
    )


longest_shared.caught |= {
    "Off by one": {"len(b) - k + 1)": "len(b) - k)", "len(a) - k + 1)": "len(a) - k)"},
    "Is there a shortest run": {"return low": "return low * (low > 5)"},
    "Is there a longest run that you try": {"min(len(a), len(b))": "min(len(a), len(b), 100)"},
    "Do you search in text": {
        "tuple(b[i : i + k]) for i in range(len(b) - k + 1)": "str(b)[1:-1]",
        "tuple(a[i : i + k]) in runs": "str(a[i : i + k])[1:-1] in next(iter(runs))",
    },
    "the length of the run": {"return low": "return a[:low]"},
}


@longest_shared.catch("more than 300,000 looks")
def _(a, b):
    best = 0
    for i in range(len(a)):
        for j in range(len(b)):
            k = 0
            while i + k < len(a) and j + k < len(b) and a[i + k] == b[j + k]:
                k += 1
            best = max(best, k)
    return best


@longest_shared.catch("do different runs get the same number")
def _(a, b):
    def keys(tokens, k):
        found = np.zeros(len(tokens) - k + 1, dtype=np.int64)
        for i in range(k):
            found = found * 388 + np.array(tokens[i : i + len(found)], dtype=np.int64)
        return found

    low, high = 0, min(len(a), len(b))
    while low < high:
        k = (low + high + 1) // 2
        shared = len(np.intersect1d(keys(a, k), keys(b, k)))
        low, high = (k, high) if shared else (low, k - 1)
    return low


def _excerpts():
    """Of the shipped pieces, and as the recorded takes continue them: 200 tokens each.

    Without note-offs: lifting what is not down would give the network away, and so would
    how many there are. Each is moved by some keys, so that it stands in no piece.
    """
    real, made = [], []
    for name in PIECES:
        tokens = encode_midi(load_piece(name))
        starts = np.linspace(0, len(tokens) - 320, 4).astype(int)
        real += [tokens[start : start + 320] for start in starts]
        made += measured()["heard"][name]["model"]
    for part in (real, made):
        kept = ([t for t in take if not NOTE_OFF <= t < TIME_SHIFT] for take in part)
        yield [
            [t + (-3, 2, -1, 3, -2, 1)[i % 6] * (t < NOTE_OFF) for t in take[:200]]
            for i, take in enumerate(kept)
        ]


@exercise("Who plays?", returns="the score, one number")
def tell_apart(tokens):
    """
    *Open.* Write `tell_apart(tokens)`: a number that is higher for what the network plays than for
    what composers wrote. It gets a list of 200 token ids: an excerpt of one of the five pieces,
    which may begin anywhere, or the beginning of one of the twenty recorded takes that continue
    them, without the prompt. The note-offs have been taken out, so that its slips do not give the
    network away; each excerpt is moved up or down by some keys, so that it stands in no piece. Of
    all pairs of one of each, in three quarters the network's excerpt should have the higher score.
    `played(tokens)` gives you the notes that go down: `start` in seconds, `pitch`, `place`.
    """
    # Composers come back to what they said: runs of three pitches that are not new.
    pitch = played(tokens).pitch.tolist()
    runs = [tuple(pitch[i : i + 3]) for i in range(len(pitch) - 2)]
    return len(set(runs)) / max(len(runs), 1)


@tell_apart.judge
def _(answer):
    def score(tokens):
        return float(tell_apart.expect(answer(tokens), 0.0))

    excerpts = list(_excerpts())
    real, made = (np.array([score(tokens) for tokens in part]) for part in excerpts)
    wins = (made[:, None] > real).mean() + (made[:, None] == real).mean() / 2
    refuse(
        {
            "some score is no finite number: was there a division by zero?": not np.isfinite(
                [*real, *made]
            ).all(),
            "every excerpt gets the same score: look at the tokens.": len({*real, *made}) == 1,
            "the same excerpt gets another score the second time.": score(excerpts[1][0])
            != made[0],
            f"in {1 - wins:.0%} of the pairs the composer's excerpt has the higher score: you can "
            "tell them apart, but the score is the wrong way round.": wins <= 0.25,
            "of all pairs of a composer's and a network's excerpt, the network's has the higher "
            f"score in {wins:.0%}; a coin has 50 %, and you need 75 %. Which number of this "
            "chapter differs, for sure, and needs no note-offs?": wins < 0.75,
        }
    )
    return f"In {wins:.0%} of all pairs the network's excerpt has the higher score."


tell_apart.caught |= {
    # There is no note-off that could be loose.
    "every excerpt gets the same score": lambda tokens: played(tokens).is_loose.mean(),
    "the wrong way round": {"return": "return -"},
    "a coin has 50 %": lambda tokens: played(tokens).pitch.mean(),
    "no finite number": {"return": "return np.inf *"},
    "another score the second time": {"return": "return np.random.rand() +"},
    "it should return the score": {"return": "return 1, "},
}
