"""Scores of whole sets, with intervals, from one observation of each row. No DSPy.

A statistic is a function of how often each observation occurs, with values from 0 to 1. The bootstrap draws rows; a
draw is no more than new counts of the same observations. Intervals are 95 % BCa intervals (Efron & Tibshirani, An
Introduction to the Bootstrap, 1993, section 14.3), from a generator seeded by the caller. BCa needs the statistic with
each row left out in turn, which is one more look at the counts for each different observation. At most `_LEFT_OUT` of
them are looked at: they only estimate a skewness.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.stats.intervals import TAIL, Comparison, ScoreEstimate, compare, unseen_interval

__all__ = ["Statistic", "compare_sets", "estimate_set"]

Statistic = Callable[[Mapping[Any, int]], float]

_MAX_DRAWS = 10_000_000
_LEFT_OUT = 1_000
_SWAPS = 2_000
_SAME = 1e-9  # scores closer than this differ by rounding only


def estimate_set(statistic: Statistic, observed: Sequence[Hashable], *, seed: int = 0) -> ScoreEstimate:
    """The statistic of a set on the 0-100 scale with its 95 % interval."""
    if not observed:
        raise OptimizationError("No rows were scored, so there is no score; give at least one row.")

    def score(counts: Counter[Any]) -> float:
        return 100 * statistic(counts)

    point, low, high = _bootstrap(observed, score, seed, bottom=0.0, top=100.0)
    return ScoreEstimate(score=point, low=low, high=high, n=len(observed))


def compare_sets(
    statistic: Statistic,
    observed: tuple[Sequence[Hashable], Sequence[Hashable]],
    row_scores: tuple[Sequence[float], Sequence[float]],
    *,
    seed: int = 0,
) -> Comparison:
    """The second run's set score minus the first's, with the interval from drawing rows of both runs together.

    On few rows a bootstrap is too sure of itself, so an interval that a permutation test does not confirm is widened to
    hold 0. Wins, losses, ties and the sign test are of the row scores (0-100).
    """
    rows = compare(*row_scores, seed=seed)

    def difference(counts: Counter[Any]) -> float:
        return 100 * (statistic(_side(counts, 1)) - statistic(_side(counts, 0)))

    pairs = list(zip(*observed, strict=True))
    point, low, high = _bootstrap(pairs, difference, seed, bottom=-100.0, top=100.0)
    if (low > 0 or high < 0) and _is_chance(statistic, Counter(pairs), seed):
        low, high = min(low, 0.0), max(high, 0.0)
    return Comparison(
        difference=point,
        low=low,
        high=high,
        p_value=rows.p_value,
        wins=rows.wins,
        losses=rows.losses,
        ties=rows.ties,
    )


def _is_chance(statistic: Statistic, pairs: Counter[tuple[Any, Any]], seed: int) -> bool:
    """Whether swapping the two runs' observations, row by row at random, often gives as large a difference: the
    one-sided permutation test, which is exact for two runs that differ by chance alone.
    """
    one, other = _side(pairs, 0), _side(pairs, 1)
    reached = statistic(other) - statistic(one)
    differing = {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}
    swaps = np.random.default_rng(seed).binomial(list(differing.values()), 0.5, size=(_SWAPS, len(differing)))
    extreme = 1
    for swapped in swaps.tolist():
        first, second = Counter(one), Counter(other)
        for (before, after), count in zip(differing, swapped, strict=True):
            first.update({before: -count})
            first.update({after: count})
            second.update({after: -count})
            second.update({before: count})
        difference = statistic(+second) - statistic(+first)
        extreme += difference >= reached - _SAME if reached > 0 else difference <= reached + _SAME
    return extreme / (_SWAPS + 1) > TAIL


def _side(pairs: Mapping[tuple[Any, Any], int], side: int) -> Counter[Any]:
    counts: Counter[Any] = Counter()
    for pair, count in pairs.items():
        counts[pair[side]] += count
    return counts


def _bootstrap(
    observed: Sequence[Hashable], statistic: Callable[[Counter[Any]], float], seed: int, *, bottom: float, top: float
) -> tuple[float, float, float]:
    """The statistic and its interval."""
    n = len(observed)
    counts = Counter(observed)
    point = statistic(counts)
    if len(counts) == 1:
        return point, *unseen_interval(point, n, bottom=bottom, top=top)
    chance = random.Random(seed)
    draws = max(200, min(10_000, _MAX_DRAWS // (50 * len(counts))))
    kinds = list(counts)
    shares = np.array([counts[kind] for kind in kinds]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=draws).tolist()
    replicates = [
        statistic(Counter({kind: number for kind, number in zip(kinds, each, strict=True) if number})) for each in drawn
    ]
    influence: list[float] = []
    for kind in kinds if len(kinds) <= _LEFT_OUT else chance.sample(kinds, _LEFT_OUT):
        counts[kind] -= 1
        influence += [point - statistic(+counts)] * (counts[kind] + 1)
        counts[kind] += 1
    if min(replicates) == max(replicates):
        return point, *unseen_interval(point, n, bottom=bottom, top=top)
    return point, *_bca_interval(point, replicates, influence)


def _bca_interval(
    point: float, replicates: Sequence[float] | np.ndarray, influence: Sequence[float]
) -> tuple[float, float]:
    """The BCa interval of a statistic from its bootstrap replicates (unordered, at least two).

    `influence` holds, for each row, how much the statistic falls without it, in any unit.
    """
    ordered = np.sort(np.asarray(replicates, dtype=np.float64))
    low, high = _bca_quantiles(point, ordered, influence)
    return min(_quantile(ordered, low), point), max(_quantile(ordered, high), point)


def _bca_quantiles(point: float, ordered: np.ndarray, influence: Sequence[float]) -> tuple[float, float]:
    """The two quantiles of the replicates to read, corrected for bias and skew."""
    normal = NormalDist()
    # Ties count half: with few distinct values many resamples hit the point exactly.
    same = np.count_nonzero(np.abs(ordered - point) <= _SAME)
    below = np.count_nonzero(ordered < point - _SAME) + 0.5 * same
    bias = normal.inv_cdf(min(max(below / len(ordered), 1e-6), 1 - 1e-6))
    center = fmean(influence)
    deviations = [value - center for value in influence]
    squares = sum(deviation**2 for deviation in deviations)
    skew = sum(deviation**3 for deviation in deviations) / (6 * squares**1.5) if squares else 0.0

    def corrected(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / (1 - skew * z)) if skew * z < 1 else float(tail > 0.5)

    return corrected(TAIL), corrected(1 - TAIL)


def _quantile(ordered: np.ndarray, fraction: float) -> float:
    position = fraction * (len(ordered) - 1)
    index = min(int(position), len(ordered) - 2)
    return float(ordered[index] + (ordered[index + 1] - ordered[index]) * (position - index))
