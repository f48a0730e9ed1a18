"""Intervals and comparisons against independent definitions."""

import random
from math import comb
from statistics import fmean, stdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.stats.intervals import MIN_ROWS, compare, estimate

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


SCORES = {
    "tenths": (lambda source: round(source.betavariate(1, 3), 1), None),
    "skewed": (lambda source: source.betavariate(0.3, 3), 0.3 / 3.3),
    "u-shaped": (lambda source: source.betavariate(0.5, 0.5), 0.5),
    "half are 0": (lambda source: source.random() and source.choice((0.0, source.betavariate(5, 1))), 0.5 * 5 / 6),
    "rare failures": (lambda source: 0.9 if source.random() < 0.95 else 0.0, 0.855),
}


@pytest.mark.parametrize("size", [8, 30])
@pytest.mark.parametrize("name", SCORES)
def test_the_interval_covers_the_true_mean_as_often_as_it_says(name, size):
    draw, truth = SCORES[name]
    source = random.Random(7)
    if truth is None:
        truth = sum(draw(source) for _ in range(200_000)) / 200_000
    trials = 400
    hits = 0
    for _ in range(trials):
        interval = estimate([100 * draw(source) for _ in range(size)])
        hits += interval.low <= 100 * truth <= interval.high
    assert hits / trials >= 0.93


@pytest.mark.parametrize("size", [1, 2, 5, 8, 20, 60])
def test_scores_of_0_and_100_have_the_exact_binomial_interval(size):
    for right in range(size + 1):
        interval = estimate([100.0] * right + [0.0] * (size - right))
        low, high = binomtest(right, size).proportion_ci(0.95, method="exact")
        error = 0.2 if size > 3 else 0.6
        assert interval.low == pytest.approx(100 * low, abs=error)
        assert interval.high == pytest.approx(100 * high, abs=error)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_the_gate_is_the_sign_test_for_scores_of_0_and_100(wins, losses, ties):
    assume(wins + losses + ties)
    comparison = compare([0.0] * wins + [100.0] * losses + [0.0] * ties, [100.0] * wins + [0.0] * losses + [0.0] * ties)
    exact = binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
    assert comparison.clears == (exact <= 0.025)


@pytest.mark.parametrize("rows", range(1, 8))
def test_so_many_rows_can_show_a_difference(rows):
    assert compare([0.0] * rows, [100.0] * rows).clears == (rows >= MIN_ROWS)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 100), min_size=6, max_size=30), st.floats(0, 40))
def test_better_scores_never_lower_the_interval(scores, gain):
    better = [min(100.0, score + gain) for score in scores]
    assert estimate(better).low >= estimate(scores).low - 1e-3
    assert estimate(better).high >= estimate(scores).high - 1e-3


def test_small_gains_and_rare_disasters_are_no_improvement():
    """A candidate that is a little better on most rows and breaks on one in ten is as good on average: on eight rows
    it often breaks on none, and must not pass for that.
    """
    source = random.Random(3)
    passed = 0
    for _ in range(200):
        differences = [10.0 if source.random() < 0.9 else -90.0 for _ in range(8)]
        passed += compare([90.0] * 8, [90.0 + difference for difference in differences]).clears
    assert passed / 200 <= 0.03


def test_many_rows_take_little_time():
    source = random.Random(1)
    scores = [100 * source.random() for _ in range(100_000)]
    interval = estimate(scores)
    mean, deviation = fmean(scores), stdev(scores) / len(scores) ** 0.5
    assert interval.low == pytest.approx(mean - 1.96 * deviation, abs=0.02)
    assert interval.high == pytest.approx(mean + 1.96 * deviation, abs=0.02)


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
