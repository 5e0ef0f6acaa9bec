"""Counted models against a slow one with dictionaries, and what must hold of any probabilities."""

import json
from collections import Counter
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyperceiver.music.ngrams import NGramModel, count_ngrams, ngram_keys

V = 4
PIECES = st.lists(st.lists(st.integers(0, V - 1), max_size=12), min_size=1, max_size=4).filter(any)


def slow_probability(pieces: list[list[int]], context: list[int], token: int) -> float:
    """Witten and Bell's formula as it is written, from the longest context down to none."""
    grams = [tuple(p[i : i + len(context) + 1]) for p in pieces for i in range(len(p))]
    follows = Counter(g[-1] for g in grams if g[:-1] == tuple(context) and len(g) > len(context))
    shorter = slow_probability(pieces, context[1:], token) if context else 1 / V
    total, new = sum(follows.values()), len(follows)
    return (follows[token] + new * shorter) / (total + new) if total else shorter


@settings(deadline=None)
@given(PIECES, st.lists(st.integers(0, V - 1), max_size=6), st.integers(1, 4))
def test_probabilities_are_those_of_the_formula_and_sum_to_one(pieces, context, order):
    p = NGramModel(order, V).fit(pieces).probabilities(context)
    used = context[max(len(context) - order + 1, 0) :]
    slow = [slow_probability(pieces, used, token) for token in range(V)]
    assert p.shape == (V,) and p.min() > 0
    np.testing.assert_allclose(p, slow, rtol=1e-12)
    assert p.sum() == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(PIECES, st.lists(st.integers(0, V - 1), max_size=10), st.integers(1, 4))
def test_nats_are_minus_log_probability_of_each_token_after_those_before_it(pieces, tokens, order):
    model = NGramModel(order, V).fit(pieces)
    found = model.nats(tokens)
    one_by_one = [model.probabilities(tokens[:t])[token] for t, token in enumerate(tokens)]
    assert found.shape == (len(tokens),)
    np.testing.assert_allclose(found, -np.log(one_by_one), rtol=1e-12, atol=1e-12)


def test_known_numbers():
    # 0 is followed by 1 twice and by 0 once; unigrams: 0 three times, 1 twice, of 5.
    model = NGramModel(2, V).fit([[0, 0, 1], [0, 1]])
    unigram = (2 + 2 * 1 / 4) / (5 + 2)
    assert model.probabilities([])[1] == pytest.approx(unigram)
    assert model.probabilities([3, 0])[1] == pytest.approx((2 + 2 * unigram) / (3 + 2))
    assert model.probabilities([3])[1] == pytest.approx(unigram)  # never met: shorter context


def test_keys_are_numbers_in_base_v():
    tokens = np.array([3, 1, 2, 0], dtype=np.int16)
    assert ngram_keys(tokens, 2, 10).tolist() == [31, 12, 20]
    assert ngram_keys(tokens, 4, 10).tolist() == [3120]
    assert ngram_keys(tokens, 5, 10).tolist() == []
    assert ngram_keys(tokens, 0, 10).tolist() == [0] * 5
    largest = ngram_keys(np.full(7, 387), 7, 388)
    assert largest.tolist() == [388**7 - 1]


def test_nothing_is_counted_across_pieces():
    table = count_ngrams([np.array([0, 1]), np.array([2, 3])], 2, V)
    assert table.ngrams.tolist() == [0 * V + 1, 2 * V + 3]
    assert table.contexts.tolist() == [0, 2]
    apart = NGramModel(3, V).fit([[0, 1], [2, 3]])
    together = NGramModel(3, V).fit([[0, 1, 2, 3]])
    assert len(apart.tables) == 2 and len(together.tables) == 3
    assert apart.probabilities([1])[2] < together.probabilities([1])[2]


def test_a_shorter_model_is_contained():
    pieces = [np.random.default_rng(0).integers(0, V, 200)]
    long, short = NGramModel(4, V).fit(pieces), NGramModel(2, V).fit(pieces)
    long.tables = long.tables[:2]
    assert (long.nats([0, 1, 2, 3]) == short.nats([0, 1, 2, 3])).all()


def test_samples_are_reproducible_follow_the_prompt_and_the_probabilities():
    model = NGramModel(2, V).fit([[0, 1, 2, 3] * 50])
    draws = [model.sample(30, np.random.default_rng(seed), [2]) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 30 and set(draws[0]) <= set(range(V))
    assert model.sample(0, np.random.default_rng(0)) == []
    rng = np.random.default_rng(0)
    after_2 = Counter(model.sample(1, rng, [2])[0] for _ in range(2000))
    share = model.probabilities([2])
    np.testing.assert_allclose([after_2[t] / 2000 for t in range(V)], share, atol=0.03)
    unigram = NGramModel(1, V).fit([[1, 1, 1]])
    assert Counter(unigram.sample(100, rng, [0]))[1] > 60


@pytest.mark.parametrize("order, vocab_size", [(0, V), (-1, V), (8, 388), (64, 2)])
def test_orders_without_keys_are_refused(order, vocab_size):
    with pytest.raises(ValueError, match=str(order)):
        NGramModel(order, vocab_size)


@pytest.mark.parametrize(
    "pieces, message",
    [
        ([], "no tokens"),
        ([[], []], "no tokens"),
        ([[0, V]], f"0 ... {V - 1}"),
        ([[0, -1]], f"0 ... {V - 1}"),
        ([[0.5]], "integers"),
        ([[[0, 1]]], "one dimension"),
    ],
)
def test_what_cannot_be_counted_is_refused(pieces, message):
    with pytest.raises(ValueError, match=message):
        NGramModel(2, V).fit(pieces)


def test_tokens_outside_the_vocabulary_have_no_surprise():
    model = NGramModel(2, V).fit([[0, 1]])
    for ask in (model.nats, model.probabilities, lambda ids: model.sample(1, None, ids)):
        with pytest.raises(ValueError, match="token ids"):
            ask([0, V])


def test_the_recorded_run_is_whole():
    """What chapter 3 shows of GiantMIDI-Piano, written by scripts/count_ngrams.py."""
    folder = resources.files("tinyperceiver") / "assets" / "ngrams"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    with np.load(folder / "bigrams.npz") as file:
        counts = file["counts"]
    recordings, tokens = results["train"]
    assert counts.shape == (388, 388) and counts.min() == 0
    assert counts.sum() == tokens - recordings  # each token but the last of a piece has a next
    assert (counts > 0).sum() == results["orders"][1]["distinct"]
    assert [result["order"] for result in results["orders"]] == [1, 2, 3, 4, 5, 6]
    windows = [result["windows"] for result in results["orders"]]
    assert windows[results["best"] - 1] == min(windows)
    for order, sample in results["samples"].items():
        assert len(sample) == 400 and 0 <= min(sample) <= max(sample) < 388, order
