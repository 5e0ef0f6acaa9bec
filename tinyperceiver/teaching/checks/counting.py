"""Chapter 3: the exercises on counting tokens and guessing the next."""

import functools

import numpy as np

from tinyperceiver.music.ngrams import NGramModel
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NUM_EVENTS
from tinyperceiver.teaching.checking import Case, Mistake, exercise, same

__all__ = ["bigram_table", "my_bigrams", "perplexity", "sample_at", "smoothed"]


@exercise(
    "As unsure as among how many?",
    cases=[
        *((np.array(p),) for p in ([0.25] * 3, [1.0], [0.5, 0.125], [0.9, 0.01, 0.3, 0.3])),
        Case(
            np.array([0.5, 1e-9]),
            wrong="it should be {expected:.7g}, not {got:.7g}. There is no highest price: "
            "take the logarithm of p as it is, however small.",
        ),
        Case(
            np.full(1000, 1 / NUM_EVENTS),
            about="for 1,000 tokens of p = 1/388,",
        ),
    ],
    returns="one number",
    about="for p = {p},",
    wrong="it should be {expected:.7g}, not {got:.7g}.",
    praise="Four tokens of p = 1/4 are as hard to guess as a draw from 4: 4.00.",
)
def perplexity(p):
    """
    Write `perplexity(p)`. It gets a NumPy array of shape `(length,)`: the probabilities that a
    model gave to the tokens that really came, none of them 0. There may be thousands. It returns
    one number, the model's perplexity on those tokens.
    """
    # The mean is taken of nats, because nats add up along a piece.
    return np.exp(-np.log(p).mean())


perplexity.mistakes |= {
    "these are nats per token: perplexity is one step more.": {"np.exp": ""},
    "you sum the nats of all tokens; take them per token.": {").mean()": ").sum()"},
    "the sign is turned round: a good guess costs little.": {"-np.log": "np.log"},
    "you average probabilities; average the surprises, their logs.": {
        "np.exp(-np.log(p).mean())": "1 / p.mean()"
    },
    "you average 1 / p; average the surprises, their logs.": {
        "np.exp(-np.log(p).mean())": "(1 / p).mean()"
    },
    "natural logarithms want e as their base, not 2.": {"np.exp": "2 ** "},
    "log2 goes with 2 **, and np.log with exp.": {"np.log": "np.log2"},
}
perplexity.caught |= {
    "There is no highest price": {"log(p)": "log(np.maximum(p, 2e-3))"},
    "below the smallest float": {"np.exp(-np.log(p).mean())": "np.prod(p) ** (-1 / len(p))"},
}


@perplexity.diagnose
def _(got, expected, p):
    if len(p) == 1000 and not 0 < got < float("inf"):
        return (
            f"it should be 388, not {got:.7g}. A product of so many "
            "probabilities is below the smallest float, and comes out as 0: add up logs."
        )


@exercise(
    "Count without crossing",
    cases=[
        ([np.array(piece) for piece in pieces], size)
        for pieces, size in (
            ([[0, 1, 1], [2, 0]], 3),
            ([[0, 1, 2, 3, 0, 1, 3], [3, 3, 2]], 4),
            ([[1, 1, 1, 0], [1], [2, 1]], 4),
        )
    ],
    returns="an array of numbers",
    wrong="with pieces {pieces}, {difference}",
    praise="Rows of tokens that occur sum to 1, the others to 0; pieces are kept apart.",
)
def bigram_table(pieces, vocab_size):
    """
    Write `bigram_table(pieces, vocab_size)`. `pieces` is a list of NumPy arrays of token ids,
    one-dimensional and of different lengths. It returns an array of shape `(vocab_size,
    vocab_size)` whose entry `[a, b]` is the probability that b comes after a, counted within the
    pieces and not smoothed. A row of a token that nothing ever follows is all zeros.
    """
    counts = np.zeros((vocab_size, vocab_size))
    for piece in pieces:  # one by one, so that no pair reaches across
        np.add.at(counts, (piece[:-1], piece[1:]), 1)
    # Rows without a count are divided by 1 and stay zero.
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


bigram_table.mistakes |= {
    "these are counts: divide each row by its sum.": {
        " / np.maximum(counts.sum(1, keepdims=True), 1)": ""
    },
    "you count across pieces: the first token of a piece does not follow the last of the piece "
    "before it.": {"in pieces": "in [np.concatenate(pieces)]"},
    "rows and columns are exchanged: row a holds what follows a.": {
        "piece[:-1], piece[1:]": "piece[1:], piece[:-1]"
    },
    "the whole table sums to 1; each row that occurs should, on its own.": {
        "sum(1, keepdims=True)": "sum()"
    },
    "a pair that comes twice counts once with you: `table[a, b] += 1` with arrays of indices adds "
    "only once for equal indices; see `np.add.at`.": {
        "np.add.at(counts, (piece[:-1], piece[1:]), 1)": "counts[piece[:-1], piece[1:]] += 1"
    },
    "the totals of the rows lie across the columns: entry [a, b] is divided by the total of b. "
    "They must stand as a column, ({vocab_size}, 1).": {", keepdims=True": ""},
    "the columns sum to 1: each row that occurs should.": {"sum(1, keepdims=True)": "sum(0)"},
    "you smooth: leave at 0 what was not met.": {"np.zeros": "np.ones"},
    "you divide by how often a token occurs, and the last of a piece has no follower: divide by "
    "how often one follows.": {
        "counts.sum(1, keepdims=True)": "np.bincount(np.concatenate(pieces), "
        "minlength=vocab_size)[:, None]"
    },
    "off by one: the last token of each piece is never counted.": {
        "piece[:-1], piece[1:]": "piece[:-2], piece[1:-1]"
    },
    "the table holds something that is no number: was there a 0 / 0?": {
        "np.maximum(counts.sum(1, keepdims=True), 1)": "counts.sum(1, keepdims=True)"
    },
}


@bigram_table.diagnose
def _(got, expected, pieces, vocab_size):
    if same(got.T, expected):
        return "your table lies on its side: rows and columns are exchanged."


bigram_table.caught |= {
    "lies on its side": {
        "return counts / np.maximum(counts.sum(1, keepdims=True), 1)": "return ("
        "counts / np.maximum(counts.sum(1, keepdims=True), 1)).T"
    },
}

_U = "It should be the number of different tokens that were met."


@exercise(
    "Make room for the new",
    cases=[
        (np.array([3, 1, 1, 0, 0, 0, 0]), np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05])),
        Case(
            np.array([0, 0, 0, 0]),
            np.array([0.4, 0.3, 0.2, 0.1]),
            wrong="no count at all changes `shorter`: then nothing is known but `shorter`.",
        ),
        (np.array([0, 7, 0]), np.array([0.2, 0.2, 0.6])),
        (np.array([1, 1, 1, 1]), np.array([0.7, 0.1, 0.1, 0.1])),
    ],
    returns="an array of probabilities, (V,)",
    about="for counts {counts},",
    wrong="it should be {expected}, not {got}.",
    praise="It sums to 1, gives nobody 0, and leaves `shorter` alone where nothing is known.",
)
def smoothed(counts, shorter):
    """
    Write `smoothed(counts, shorter)` for one context. `counts`, an integer array `(V,)`, says how
    often each token followed the context; `shorter`, `(V,)` and of sum 1, holds the probabilities
    after the context without its oldest token. It returns the `(V,)` probabilities of Witten and
    Bell, interpolated. A context that was never met has counts of 0 everywhere.
    """
    total, new = counts.sum(), (counts > 0).sum()
    if total == 0:  # 0 / 0 otherwise, where the answer is: forget the oldest token
        return shorter
    return (counts + new * shorter) / (total + new)


smoothed.mistakes |= {
    "no count at all: then nothing is known but `shorter`.": {"total == 0": "False"},
    "no count at all gives zeros with you: then nothing is known but `shorter`.": {
        "return shorter": "return 0 * shorter"
    },
    "your share of invented visits is u / c. They are u among c + u visits.": {
        "counts + new * shorter) / (total + new)": "(total - new) / total * counts + new * shorter)"
        " / total"
    },
    "you share out only among the tokens never met. In the formula all get their part of the "
    "invented visits, the met ones too.": {
        "new * shorter": "new * shorter * (counts == 0) / max(1e-9, shorter[counts == 0].sum())"
    },
    f"your u counts the tokens met exactly once. {_U}": {"counts > 0": "counts == 1"},
    f"your u counts the tokens that were not met. {_U}": {"counts > 0": "counts == 0"},
    f"your u is one invented visit, whatever the context. {_U}": {"(counts > 0).sum()": "1"},
    "your probabilities sum to more than 1: the invented visits must go into the denominator "
    "too.": {"(total + new)": "total"},
    "a token that was never met still gets 0: nothing is mixed in.": {
        "(counts + new * shorter) / (total + new)": "counts / total"
    },
    "you share out evenly: share as `shorter` says.": {"* shorter": "/ len(shorter)"},
    "u counts the different tokens that were met, not all there are.": {
        "(counts > 0).sum()": "len(counts)"
    },
    "u counts different tokens: a token met three times counts once.": {
        "(counts > 0).sum()": "counts.sum()"
    },
}
smoothed.caught |= {
    "changes `shorter`": {"return shorter": "return np.full(len(counts), 1 / len(counts))"}
}


@exercise(
    "A cooler hand",
    returns="one token id, an integer",
    praise="4,000 draws at T = 0.5 took the likeliest token more often than at 1, as they should.",
)
def sample_at(p, temperature, rng):
    """
    Write `sample_at(p, temperature, rng)`. It gets the probabilities `p`, `(V,)`, some of which may
    be 0, a temperature T above 0, which may be as small as 0.005, and a NumPy generator. It returns
    one token id, an integer, drawn with `rng` from probabilities proportional to $p_i^{1/T}$:
    bolder than `p` at a T below 1, more timid above.
    """
    # A power needs no logarithm of 0; with the largest at 1, not all can vanish.
    weights = (p / p.max()) ** (1 / temperature)
    return int(rng.choice(len(p), p=weights / weights.sum()))


def _drawn(answer, p, temperature, draws):
    """Tokens drawn by generators with different seeds."""
    return [int(answer(p, temperature, np.random.default_rng([s, 7]))) for s in range(draws)]


@sample_at.judge
def _(answer):
    p, draws = np.array([0.5, 0.3, 0.15, 0.05, 0.0]), 4000
    for temperature in (1.0, 0.5, 2.0, 0.2):
        sample_at.expect(answer(p, temperature, np.random.default_rng(3)), 0)
        drawn = _drawn(answer, p, temperature, draws)
        if len(set(drawn)) == 1:
            raise Mistake(
                f"{draws:,} generators with different seeds give the same token: draw with `rng`, "
                "and do not take the likeliest."
            )
        if drawn[:40] != _drawn(answer, p, temperature, 40):
            raise Mistake(
                "the same `rng` gives other tokens the second time: draw with `rng`, not with a "
                "generator of your own."
            )
        if min(drawn) < 0 or max(drawn) >= len(p):
            raise Mistake(f"token ids are 0 ... {len(p) - 1} here, not {max(drawn)}.")
        share, right = np.bincount(drawn, minlength=len(p)) / draws, p ** (1 / temperature)
        shares = {
            "": right,
            f"T = {temperature} changes nothing: the draws are those of p.": p,
            "the temperature works the wrong way round: a low one should favour what is likely.": p
            ** temperature,
            "you divide probabilities by T; it is their logarithms that are divided.": np.exp(
                p / temperature
            ),
            f"{draws} draws at T = {temperature} came out as {share.round(2).tolist()}; expected "
            f"were {(right / right.sum()).round(2).tolist()}.": share,
        }
        says = next(says for says, w in shares.items() if np.abs(share - w / w.sum()).max() < 0.035)
        if says:
            raise Mistake(says)
    two = np.zeros(100)
    two[[3, 70]] = 0.5
    if not set(_drawn(answer, two, 5.0, 40)) <= {3, 70}:
        raise Mistake(
            "at T = 5 tokens of probability 0 are drawn. What is added to 0 before a logarithm "
            "grows with T; 0 must stay 0."
        )
    with np.errstate(all="ignore"):
        _judge_cold(answer)


def _judge_cold(answer):
    """Judge draws at T = 0.005, where powers vanish."""
    tiny = (
        "0.01 ** 200 is below the smallest float, and 0 / 0 no number. Make the largest weight 1 "
        "before."
    )
    uneven = np.full(100, 1.0)
    uneven[[5, 6]], uneven[41] = 0, 1.07
    try:
        cold = _drawn(answer, np.full(100, 0.01), 0.005, 40)
        favoured = _drawn(answer, uneven / uneven.sum(), 0.005, 200)
    except ValueError as error:
        raise Mistake(f"at T = 0.005 you stop with {error!r}: {tiny}") from None
    if len(set(cold)) == 1:
        raise Mistake(
            "at T = 0.005 you draw the same of 100 equally likely tokens 40 times. At a low T "
            "several likeliest tokens still come alike. If you do not leave out the draw there, "
            f"look at your weights: {tiny}"
        )
    if len(set(cold)) < 20:
        raise Mistake("at T = 0.005, 100 equally likely tokens are not drawn alike.")
    # The likeliest has 99.99 % at T = 0.005 and 90 % at 0.01.
    if {5, 6} & set(favoured):
        raise Mistake(f"at T = 0.005 tokens of probability 0 are drawn: {tiny}")
    if favoured.count(41) < 195:
        raise Mistake(
            "at T = 0.005 a token of p = 0.0109 among others of 0.0102 was drawn "
            f"{favoured.count(41)} times of 200, and should come nearly always. Do you change T, "
            f"or the weights? If not: {tiny}"
        )


_POWER = "(p / p.max()) ** (1 / temperature)"
sample_at.caught |= {
    "the wrong way round": {"1 / temperature": "temperature"},
    "you divide probabilities": {_POWER: "np.exp(p / temperature)"},
    "changes nothing": {_POWER: "p / temperature"},
    "do not take the likeliest": {
        "rng.choice(len(p), p=weights / weights.sum())": "weights.argmax()"
    },
    "at T = 5 tokens of probability 0": {
        _POWER: "np.exp(np.log(p + 1e-9) / temperature - np.log(p.max()) / temperature)"
    },
    "below the smallest float": {"(p / p.max())": "p"},
    "a generator of your own": {"rng.choice": "np.random.default_rng().choice"},
    "several likeliest tokens still come alike": {
        "return": "if temperature < 0.05:\n        return int(p.argmax())\n    return"
    },
    "at T = 0.2 came out as": {"1 / temperature": "1 / max(temperature, 0.4)"},
    "should come nearly always": {"1 / temperature": "1 / max(temperature, 0.02)"},
    "at T = 0.005 tokens of probability 0 are drawn": {
        "(p / p.max())": "p",
        "return": "if not weights.sum():\n        return int(rng.integers(len(p)))\n    return",
    },
}


@functools.cache
def _folds() -> list[tuple]:
    """Four pieces, the fifth, and what its tokens cost by Witten and Bell's bigrams."""
    pieces = [np.array(encode_midi(load_piece(name))) for name in PIECES]
    folds = []
    for i, piece in enumerate(pieces):
        train = pieces[:i] + pieces[i + 1 :]
        folds.append((train, piece, NGramModel(2, NUM_EVENTS).fit(train).nats(piece)[1:]))
    return folds


@exercise("Open: beat the number", returns="an array of numbers")
def my_bigrams(pieces, vocab_size):
    """
    Write `my_bigrams(pieces, vocab_size)`: from `pieces`, arrays of token ids as in 3.2, and from
    nothing else, it returns an array `(vocab_size, vocab_size)` of smoothed probabilities, `[a, b]`
    that of b after a. The check fits it five times on four of the shipped pieces, measures the
    fifth, and compares it with Witten and Bell's 4.914 nats; 4.5 is possible. One idea, called
    *absolute discounting* {cite:p}`ney1994structuring`: take the same 0.9 off every count above 0,
    and share out what you took as the unigrams say. Others: count each piece again some keys higher
    and lower; use what you know of the encoder.
    """
    # Music is much the same some keys higher or lower: count each piece eleven times,
    # moved by -5 ... 5 keys, and patterns met once on one key are known on all.
    moved = []
    for piece in pieces:
        for shift in range(-5, 6):
            moved.append(np.where(piece < 256, piece + shift, piece))
    counts = np.zeros((vocab_size, vocab_size))
    for piece in moved:
        np.add.at(counts, (piece[:-1], piece[1:]), 1)

    alone = counts.sum(0) + 0.5  # unigrams; nobody gets 0
    alone /= alone.sum()
    off = 0.9
    taken = off * (counts > 0).sum(1, keepdims=True)
    total = counts.sum(1, keepdims=True)
    p = (np.maximum(counts - off, 0) + taken * alone) / np.maximum(total, 1)
    return np.where(total > 0, p, alone)  # a token never met: unigrams


@my_bigrams.judge
def _(answer):
    mine, tables = [], []
    for train, piece, _ in _folds():
        p = my_bigrams.expect(answer(train, NUM_EVENTS), np.zeros((NUM_EVENTS, NUM_EVENTS)))
        sums = p.sum(1)
        if not np.allclose(sums, 1, atol=1e-6):
            worst = int(np.abs(sums - 1).argmax())
            raise Mistake(
                f"the probabilities after token {worst} sum to {sums[worst]:.4g}. Every row must "
                "sum to 1, also that of a token that was never met."
            )
        if p.min() < 0:
            raise Mistake("there is a probability below 0: do not take more than is there.")
        at = p[piece[:-1], piece[1:]]
        if not at.all():
            raise Mistake(
                f"{(at == 0).sum()} tokens of a held-out piece got the probability 0, which costs "
                "infinitely many nats."
            )
        mine.append(-np.log(at))
        tables.append(p)
    theirs = np.concatenate([nats for *_, nats in _folds()]).mean()
    mine = np.concatenate(mine).mean()
    if all(np.array_equal(p, tables[0]) for p in tables):
        raise Mistake(
            "you return the same table whichever four pieces you get: count `pieces`, and nothing "
            "else."
        )
    if mine < 4.2:
        raise Mistake(
            f"{mine:.3f} nats is too good to be true of four pieces: did you use anything but "
            "`pieces`? What is measured must not have been counted."
        )
    if mine >= theirs:
        raise Mistake(
            f"{mine:.3f} nats per token on held-out pieces; Witten and Bell have {theirs:.3f}."
        )
    return f"{mine:.3f} nats per token on held-out pieces, Witten and Bell {theirs:.3f}."


my_bigrams.caught |= {
    "the same table whichever": lambda pieces, vocab_size: np.full(
        (vocab_size, vocab_size), 1 / vocab_size
    ),
    "Every row must sum to 1": {"np.where(total > 0, p, alone)": "p"},
    "the probability 0": {"+ 0.5": ""},
    "a probability below 0": {
        "np.maximum(counts - off, 0)": "(counts - off)",
        "taken = off * (counts > 0).sum(1, keepdims=True)": "taken = off * vocab_size",
    },
}


@my_bigrams.catch("Witten and Bell have")
def _(pieces, vocab_size):
    alone = np.bincount(np.concatenate(pieces), minlength=vocab_size) + 1
    return np.tile(alone / alone.sum(), (vocab_size, 1))
