"""Chapter 10: the checkers of its exercises, and what was recorded of the trained model."""

from collections.abc import Callable, Sequence

import numpy as np

from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, TIME_SHIFT
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.music import EDGES, KINDS
from tinyperceiver.teaching.records import recorded_numbers

RECORD = "runs/tiny/measured.json"


# What was recorded


def measured() -> dict:
    """What `scripts/measure_checkpoint.py` measured of the model that ships."""
    return recorded_numbers(RECORD)


# Checkers of the exercises


def _number(value, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise Mistake(f"{name} should be one number, not a {kind}.") from None


def _kinds_of(tokens: np.ndarray) -> np.ndarray:
    return np.searchsorted(EDGES[1:-1], tokens, side="right")


def _by_kind(kind: np.ndarray, nats: np.ndarray) -> dict[str, float]:
    return {
        name: nats[kind == k].mean()
        for k, name in enumerate(KINDS)
        if (kind == k).any()
    }


def _same(found: dict, right: dict) -> bool:
    return found.keys() == right.keys() and all(
        np.isclose(found[name], right[name]) for name in right
    )


@checker
def check_nats_by_kind(answer: Callable) -> str:
    """Exercise 1: mean nats of each kind of token."""
    rng = np.random.default_rng(0)
    edges = np.array([0, 127, 128, 255, 256, 355, 356, 387])
    cases = [
        np.array(encode_midi(load_piece("mozart-sonata")))[:400],
        np.tile(edges, 3),
        np.array([300, 60, 61, 300]),
    ]
    for tokens in cases:
        nats = np.round(rng.gamma(2.0, 1.5, len(tokens)), 3)
        found = answer(tokens, nats)
        if not isinstance(found, dict):
            kind = type(found).__name__
            raise Mistake(f"return a dict from kind to mean nats, not a {kind}.")
        strangers = [name for name in found if name not in KINDS]
        if strangers:
            raise Mistake(
                f"{strangers[0]!r} is no kind; they are called {', '.join(KINDS)}."
            )
        found = {
            name: _number(value, f"the mean of {name}") for name, value in found.items()
        }
        right = _by_kind(_kinds_of(tokens), nats)
        if _same(found, right):
            continue
        extra = [name for name in found if name not in right]
        if extra:
            raise Mistake(
                f"there is no {extra[0]} among the tokens {tokens[:4]} …, but your dict has "
                f"one, {found[extra[0]]}: leave out kinds that do not come."
            )
        late = np.searchsorted(EDGES[1:-1], tokens, side="left")
        if _same(found, _by_kind(late, nats)):
            raise Mistake(
                "the first token of a kind counts with the kind before it: 128 is a note-off, "
                "256 a wait of 10 ms, 356 a velocity. Look at < and <=."
            )
        before = _by_kind(_kinds_of(tokens[:-1]), nats[1:])
        if _same(found, before):
            raise Mistake(
                "nats are charged to the token before: nats[t] is the price of tokens[t]."
            )
        share = {
            n: v * (_kinds_of(tokens) == KINDS.index(n)).mean()
            for n, v in right.items()
        }
        if _same(found, share):
            raise Mistake(
                "you divide by the number of all tokens; the mean of a kind is over the "
                "tokens of that kind."
            )
        total = {
            n: v * (_kinds_of(tokens) == KINDS.index(n)).sum() for n, v in right.items()
        }
        if _same(found, total):
            raise Mistake("these are sums: divide by the number of tokens of the kind.")
        raise Mistake(
            f"{tokens[:8].tolist()} … with nats {nats[:8].tolist()} … should give "
            f"{ {n: round(float(v), 3) for n, v in right.items()} }, not "
            f"{ {n: round(v, 3) for n, v in found.items()} }."
        )
    return "Three lists of tokens, with the first and the last id of every kind."


@checker
def check_standard_error(answer: Callable) -> str:
    """Exercise 2: standard error of a mean over windows, from the nats of their tokens."""
    rng = np.random.default_rng(1)
    for windows, tokens in ((12, 50), (5, 200), (40, 8)):
        # What windows differ by, and what tokens differ by on top.
        nats = 2.5 + 0.5 * rng.standard_normal((windows, 1))
        nats = nats + rng.standard_normal((windows, tokens))
        found = _number(answer(nats), "the standard error")
        means = nats.mean(axis=1)
        right = means.std(ddof=1) / np.sqrt(windows)
        if np.isclose(found, right, rtol=1e-6):
            continue
        where = f"for {windows} windows of {tokens} tokens"
        wrong = (
            (nats.std() / np.sqrt(nats.size), "tokens"),
            (nats.std(ddof=1) / np.sqrt(nats.size), "tokens"),
            (means.std() / np.sqrt(windows), "n"),
            (means.std(ddof=1), "root"),
            (means.std(), "root"),
            (means.std(ddof=1) / windows, "windows"),
            (means.var(ddof=1) / windows, "square"),
            (means.std(ddof=1) / np.sqrt(nats.size), "mixed"),
            (nats.std(axis=1, ddof=1).mean() / np.sqrt(tokens), "inside"),
            (nats.std(ddof=1) / np.sqrt(windows), "spread"),
            (nats.std() / np.sqrt(windows), "spread"),
            (nats.mean(axis=0).std(ddof=1) / np.sqrt(tokens), "axis"),
            (nats.mean(axis=0).std() / np.sqrt(tokens), "axis"),
            (2 * right, "twice"),
        )
        says = {
            "tokens": "you count tokens as if each had been drawn by itself; what was drawn "
            "are windows. Average within each window first.",
            "n": "the deviation of so few windows is taken over one less than their number "
            "(`ddof=1`): their mean was fitted to them.",
            "root": "this is the deviation of the windows. The mean of many moves less: "
            "something is to be divided by a square root.",
            "windows": "you divide by the number of windows; it should be its square root.",
            "square": "this is the square of the standard error.",
            "mixed": "the deviation is that of windows, but the square root that of tokens: "
            "count in both what you averaged.",
            "spread": "the square root is that of windows, but the deviation that of tokens: "
            "count in both what you averaged.",
            "axis": "you average over the wrong axis: these are the means of the first, second, "
            "... targets, and what was drawn are windows, the rows.",
            "twice": "this is twice the error. Two errors are a rule for when a difference "
            "counts; return one.",
            "inside": "you measure how tokens differ within a window; ask how the windows' "
            "means differ.",
        }
        for value, name in wrong:
            if np.isclose(found, value, rtol=1e-6):
                raise Mistake(f"{where}, {says[name]}")
        raise Mistake(f"{where} the error should be {right:.4f}, not {found:.4f}.")
    apart = means.std(ddof=1) / np.sqrt(windows) / (nats.std() / np.sqrt(nats.size))
    return f"In the last case it is {apart:.1f} times what counting tokens would say."


@checker
def check_weight_by_distance(answer: Callable) -> str:
    """Exercise 3: attention averaged by distance."""
    rng = np.random.default_rng(2)
    for heads, l, n in ((2, 4, 9), (3, 5, 5), (1, 1, 6)):
        place = np.arange(n - l, n)[:, None]
        distance = place - np.arange(n)[None]  # (l, n)
        weights = rng.gamma(1.0, size=(heads, l, n)) * (distance >= 0)
        weights /= weights.sum(-1, keepdims=True)
        found = answer(weights)
        try:
            found = np.asarray(found, dtype=float)
        except (TypeError, ValueError):
            raise Mistake("return an array of numbers.") from None
        where = f"for {heads} heads, {l} latents and {n} keys"
        if found.shape != (heads, n):
            raise Mistake(
                f"{where} the shape should be {(heads, n)}, not {found.shape}."
            )
        reach = [(distance == back) for back in range(n)]
        sums = np.stack([(weights * at).sum((1, 2)) for at in reach], axis=1)
        count = np.array([at.sum() for at in reach])
        if np.allclose(found, sums / count):
            continue
        if np.allclose(found, sums / l):
            raise Mistake(
                f"{where} you divide by all latents. Only the last of them has a key "
                f"{n - 1} back: average over those that have one at that distance."
            )
        if np.allclose(found, sums):
            raise Mistake(f"{where} these are sums over the latents, not means.")
        left = np.abs(np.arange(l)[:, None] - np.arange(n)[None])
        at_left = [(left == back) for back in range(n)]
        shifted = np.stack([(weights * at).sum((1, 2)) for at in at_left], axis=1)
        of_left = np.array([max(at.sum(), 1) for at in at_left])
        signed = [
            np.arange(l)[:, None] - np.arange(n)[None] == back for back in range(n)
        ]
        only = np.stack([(weights * at).sum((1, 2)) for at in signed], axis=1)
        of_only = np.array([max(at.sum(), 1) for at in signed])
        for total, number in ((shifted, of_left), (only, of_only)):
            if any(np.allclose(found, total / by) for by in (number, l, 1)):
                raise Mistake(
                    f"{where} you let latent 0 stand at position 0. It stands at position "
                    f"{n - l}: the latents are the last of the window."
                )
        if np.allclose(found, (sums / count)[:, ::-1]):
            raise Mistake(f"{where} the order is turned round: entry 0 is distance 0.")
        if np.allclose(found, (sums / count).mean(axis=0)):
            raise Mistake(
                f"{where} you average over the heads: each has a row of its own."
            )
        if np.allclose(found, weights[:, -1, ::-1]):
            raise Mistake(
                f"{where} these are the weights of the last latent alone: average over all."
            )
        if np.allclose(found[:, :-1], (sums / count)[:, 1:]):
            raise Mistake(
                f"{where} all distances are one too small, or a latent's own key is left "
                "out: it belongs in entry 0."
            )
        if np.allclose(found[:, 1:], (sums / count)[:, :-1]):
            raise Mistake(
                f"{where} all distances are one too large: a latent's own key is at 0."
            )
        if np.allclose(found, weights.mean(axis=1)):
            raise Mistake(
                f"{where} you average by position. A key at position j is at another "
                "distance for each latent."
            )
        if np.allclose(found, weights.mean(axis=1)[:, ::-1]):
            raise Mistake(
                f"{where} you average the columns and turn them round. That is the distance from "
                "the last latent; each of the others stands elsewhere, and has its own distances."
            )
        raise Mistake(
            f"{where} head 0 should have {np.round((sums / count)[0], 3).tolist()}, not "
            f"{np.round(found[0], 3).tolist()}."
        )
    return "Three shapes, with an empty prefix and with a single latent among them."


def _longest_shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest run in both, by a table of ends: O(len(a) len(b))."""
    b, best = np.asarray(b), 0
    row = np.zeros(len(b) + 1, dtype=int)
    for token in a:
        row[1:] = np.where(b == token, row[:-1] + 1, 0)
        best = max(best, int(row.max()))
    return best


def _longest_subsequence(a: Sequence[int], b: Sequence[int]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def _longest_in_text(a: Sequence[int], b: Sequence[int], form: str) -> int:
    """What a search finds in text; each token is written as `form`, no `_` at the ends."""
    text = "".join(map(form.format, b)).strip("_")
    return max(
        j - i
        for i in range(len(a))
        for j in range(i, len(a) + 1)
        if "".join(map(form.format, a[i:j])).strip("_") in text
    )


class _Looked(list):
    """A list that counts how many tokens or slices were asked of it."""

    looks, most = 0, 300_000

    def _count(self, number: int) -> None:
        self.looks += number
        if self.looks > self.most:
            raise Mistake(
                f"two lists of {len(self):,} tokens take you more than {self.most:,} looks. If a "
                "run of k is shared, so is each shorter one: which k need not be tried?"
            )

    def __getitem__(self, place):
        self._count(1)
        return super().__getitem__(place)

    def __iter__(self):
        self._count(len(self))
        return super().__iter__()


@checker
def check_longest_shared(answer: Callable) -> str:
    """Exercise 4: the longest run of tokens that stands in both of two lists."""
    import time

    cases = [
        ([5, 1, 2, 6, 7, 8], [5, 2, 1, 3, 6, 7, 8]),
        ([1, 2, 3, 4, 5], [9, 2, 3, 4, 7]),
        ([7, 1, 7, 2, 7, 3], [1, 5, 2, 5, 3, 5, 7]),
        ([1, 1, 1, 2], [1, 1, 2, 1, 1]),
        ([4, 5, 6, 9, 1, 2, 3, 8], [4, 5, 0, 1, 2, 3, 0]),
        ([1, 2, 3], [4, 5]),
        ([], [1, 2]),
        ([5, 6, 7], [0, 5, 6, 7]),
        ([1, 2], [11, 21]),
    ]
    for a, b in cases:
        right, found = _longest_shared(a, b), answer(a, b)
        if isinstance(found, (list, tuple, np.ndarray)):
            raise Mistake("return the length of the run, one number, not the run.")
        found = _number(found, "the length")
        if found == right:
            continue
        where = f"{a} and {b} share {right} in a row"
        start = 0
        while start < min(len(a), len(b)) and a[start] == b[start]:
            start += 1
        if not found and start:
            raise Mistake(
                f"{where}; you find none. Is there a shortest run that you try?"
            )
        forms = ("{}", "_{}_", " {}", "{} ")
        if a and found in [_longest_in_text(a, b, form) for form in forms]:
            raise Mistake(
                f"{where}; you find {found:g}. Do you search in text? There 1 stands in 11: "
                "mark where each token begins and where it ends."
            )
        if found == _longest_subsequence(a, b):
            raise Mistake(
                f"{where}; you find {found:g}, tokens in the same order with others between. "
                "A quotation stands in one piece."
            )
        if found == len(set(a) & set(b)):
            raise Mistake(f"{where}; you count the different tokens that both have.")
        if found in (right - 1, right + 1):
            raise Mistake(
                f"{where}; you find {found:g}. Off by one, or is a run at an end missed?"
            )
        if found == start:
            raise Mistake(f"{where}; you compare from the beginning of both alone.")
        raise Mistake(f"{where}; you find {found:g}.")
    rng = np.random.default_rng(3)
    a, b = (rng.integers(388, size=4000).tolist() for _ in range(2))
    b[1700:2300] = a[900:1500]
    began = time.process_time()
    found = answer(_Looked(a), _Looked(b))
    spent = time.process_time() - began
    if found != 600:
        why = "Is there a longest run that you try?"
        if found > 600:
            why = "That is more than there is: do different runs get the same number?"
        raise Mistake(
            f"two lists of 4,000 tokens share 600 in a row, and you find {found}. {why}"
        )
    if spent > 20:
        raise Mistake(
            f"two lists of 4,000 tokens take you {spent:.0f} seconds. If a run of k is shared, "
            "so is each shorter one: which k need not be tried?"
        )
    return "Nine short pairs, and 600 tokens in a row found among 4,000."


def _excerpts() -> tuple[list[list[int]], list[list[int]]]:
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
    shifts = (-3, 2, -1, 3, -2, 1)
    excerpts = []
    for part in (real, made):
        kept = ([t for t in take if not NOTE_OFF <= t < TIME_SHIFT] for take in part)
        excerpts.append(
            [
                [t + shifts[i % 6] * (t < NOTE_OFF) for t in take[:200]]
                for i, take in enumerate(kept)
            ]
        )
    return tuple(excerpts)


@checker
def check_tell_apart(answer: Callable) -> str:
    """Exercise 5, open: a number that is higher for the network's music than for a composer's."""
    real, made = _excerpts()
    scores = [
        [_number(answer(list(t)), "the score") for t in part] for part in (real, made)
    ]
    if not np.isfinite(np.concatenate(scores)).all():
        raise Mistake("some score is no finite number: was there a division by zero?")
    if np.ptp(np.concatenate(scores)) == 0:
        raise Mistake("every excerpt gets the same score: look at the tokens.")
    again = _number(answer(list(made[0])), "the score")
    if again != scores[1][0]:
        raise Mistake("the same excerpt gets another score the second time.")
    real_scores, made_scores = map(np.array, scores)
    wins = (made_scores[:, None] > real_scores).mean()
    wins += (made_scores[:, None] == real_scores).mean() / 2
    if wins <= 0.25:
        raise Mistake(
            f"in {1 - wins:.0%} of the pairs the composer's excerpt has the higher score: you can "
            "tell them apart, but the score is the wrong way round."
        )
    if wins < 0.75:
        raise Mistake(
            f"of all pairs of a composer's and a network's excerpt, the network's has the higher "
            f"score in {wins:.0%}; a coin has 50 %, and you need 75 %. Which number of this "
            "chapter differs, for sure, and needs no note-offs?"
        )
    return f"In {wins:.0%} of all pairs the network's excerpt has the higher score."
