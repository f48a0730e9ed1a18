"""What is expected of the best candidate is what other rows then show."""

import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.stats.shrinkage import expected_best, lasting

SCORES = st.integers(2, 12).flatmap(
    lambda rows: st.lists(st.lists(st.floats(0, 1), min_size=rows, max_size=rows), min_size=2, max_size=6)
)


@given(SCORES, st.randoms(use_true_random=False))
def test_a_share_that_no_order_changes(candidates, chance):
    share = lasting(candidates)
    assert 0 <= share <= 1
    order = list(range(len(candidates[0])))
    chance.shuffle(order)
    mixed = [[scores[row] for row in order] for scores in candidates]
    chance.shuffle(mixed)
    assert lasting(mixed) == pytest.approx(share, abs=1e-6)


def test_of_two_it_is_one_less_the_inverse_of_t_squared():
    first, second = [1.0, 0.0, 1.0, 1.0, 0.5, 1.0], [0.0, 0.0, 1.0, 0.25, 0.5, 0.0]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    t = fmean(differences) / (stdev(differences) / len(differences) ** 0.5)
    assert lasting([first, second]) == pytest.approx(1 - 1 / t**2)


def test_hard_rows_are_no_chance_and_one_row_tells_nothing():
    rows = [0.1, 0.5, 0.9, 0.3]
    assert lasting([rows, [each + 0.1 for each in rows]]) == pytest.approx(1)
    assert lasting([rows, rows]) == 0
    assert lasting([[0.0], [1.0]]) == 0
    assert lasting([rows]) == 0


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_the_expected_advantage_is_that_on_other_rows(spread):
    """Ten candidates on sixteen rows, six hundred times: their real advantage is known here, the raw one misleads."""
    chance = random.Random(7)
    raw, expected, real = [], [], []
    for _ in range(600):
        rates = [min(1.0, max(0.0, chance.gauss(0.5, spread))) for _ in range(10)]
        scores = [[float(chance.random() < rate) for _ in range(16)] for rate in rates]
        means = [fmean(each) for each in scores]
        best = means.index(max(means))
        raw.append(means[best] - fmean(means))
        expected.append(expected_best(scores, scores))
        real.append(rates[best] - fmean(rates))
    assert fmean(raw) - fmean(real) > 0.07
    assert abs(fmean(expected) - fmean(real)) < 0.05


def test_another_kind_counts_as_far_as_it_differs_beyond_chance():
    sets = [[0.0, 1.0] * 8, [1.0, 0.0] * 8]
    assert expected_best([[1.0] * 16], sets) == pytest.approx(0.5)
    assert expected_best([[0.0] * 16], sets) == pytest.approx(-0.5)
    slightly = [[1.0, 0.0] * 7 + [1.0, 1.0]]
    assert expected_best(slightly, sets) == 0
