"""Intervals and comparisons against independent definitions."""

import random
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.stats.intervals import compare, estimate

percent = st.floats(0, 100, allow_nan=False).map(lambda value: round(value, 3))
rows = st.lists(percent, min_size=1, max_size=30)


@given(rows, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_the_mean_and_stays_on_the_scale(scores, seed):
    found = estimate(scores, seed=seed)
    assert found.n == len(scores)
    assert found.score == pytest.approx(sum(scores) / len(scores))
    assert 0 <= found.low <= found.score + 1e-9
    assert found.score - 1e-9 <= found.high <= 100
    assert estimate(scores, seed=seed) == found


@given(rows, st.data())
@settings(max_examples=40, deadline=None)
def test_comparing_is_antisymmetric_in_what_it_counts(first, data):
    second = data.draw(st.lists(percent, min_size=len(first), max_size=len(first)))
    forth, back = compare(first, second), compare(second, first)
    assert forth.difference == pytest.approx(-back.difference)
    assert (forth.wins, forth.losses, forth.ties) == (back.losses, back.wins, back.ties)
    assert forth.p_value == pytest.approx(back.p_value)
    assert forth.low <= forth.difference <= forth.high
    assert not (forth.clears and back.clears)
    assert forth.wins + forth.losses + forth.ties == len(first)


@pytest.mark.parametrize("size", [12, 30])
def test_the_interval_covers_the_true_mean_about_as_often_as_it_says(size):
    """Skewed and discrete, as scores are: a beta distribution in tenths, whose mean is estimated from a million
    draws.
    """
    source = random.Random(7)
    truth = sum(round(source.betavariate(1, 3), 1) for _ in range(200_000)) / 2_000
    trials = 100
    hits = 0
    for trial in range(trials):
        sample = [100 * round(source.betavariate(1, 3), 1) for _ in range(size)]
        found = estimate(sample, seed=trial)
        hits += found.low <= truth <= found.high
    # 95 % nominal; the bootstrap of a dozen rows is known to fall a few points short, chance takes another three.
    assert hits / trials >= 0.87


def test_equal_scores_do_not_claim_certainty():
    one = estimate([60.0])
    assert one.low < 10
    assert one.high > 95
    few, many = estimate([0.0] * 5), estimate([0.0] * 500)
    assert few.low == many.low == 0
    # the exact binomial bound: k of n seen, none different, 2.5 % in the tail
    assert few.high == pytest.approx(100 * (1 - 0.025 ** (1 / 5)))
    assert 0 < many.high < 1


def test_no_difference_never_clears_and_a_clear_one_does():
    assert not compare([50.0] * 20, [50.0] * 20).clears
    assert not compare([10.0], [90.0]).clears, "one row shows nothing"
    assert compare([0.0] * 8, [100.0] * 8).clears
    assert not compare([100.0] * 8, [0.0] * 8).clears


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12))
def test_the_sign_test_is_the_binomial_tail(wins, losses):
    trials = wins + losses
    found = compare([50.0] * (trials + 1), [60.0] * wins + [40.0] * losses + [50.0])
    extreme = [k for k in range(trials + 1) if abs(k - trials / 2) >= abs(wins - trials / 2)]
    exact = sum(comb(trials, k) for k in extreme) / 2**trials
    assert found.p_value == pytest.approx(exact)


def test_nothing_to_score_is_an_error():
    with pytest.raises(OptimizationError, match="No rows"):
        estimate([])
    with pytest.raises(OptimizationError, match="2 and 1"):
        compare([1.0, 2.0], [1.0])
