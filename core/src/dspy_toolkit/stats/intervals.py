"""Scores with intervals, and whether one run beats another on the same rows. No DSPy.

All scores here are on DSPy's 0-100 scale; a metric's own 0-1 scores are multiplied by 100 once, by `evaluate`.

Intervals are 95 % BCa bootstrap intervals of the mean (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
section 14.3), from a generator seeded by the caller. Where all values are equal (always so for one row) resampling
shows nothing and would claim certainty; then the interval is the one that a change in the unseen part of the rows
could make: with n equal values, at most p = 1 - 0.025^(1/n) of all rows differ (the exact binomial bound behind the
"rule of three"), and those could lie anywhere on the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist, fmean

import numpy as np

from dspy_toolkit.errors import OptimizationError

__all__ = ["Comparison", "ScoreEstimate", "bca_interval", "compare", "estimate", "unseen_interval"]

_TAIL = 0.025
_SAME = 1e-9  # scores closer than this differ by rounding only
_RESAMPLES = 10_000
_FEW = 32
_MAX_DRAWS = 100_000_000  # keeps 100,000 rows of different scores under a few seconds
_AT_ONCE = 1_000_000  # numbers drawn at once: some megabytes


@dataclass(frozen=True, kw_only=True)
class ScoreEstimate:
    """A mean score on the 0-100 scale with its 95 % interval, over `n` rows."""

    score: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Second run minus first run, row by row, on the 0-100 scale.

    `difference` is the mean of the paired differences, `low` and `high` its 95 % interval, `p_value` that of the
    two-sided sign test (ties left out). `wins`, `losses` and `ties` are the rows where the second run scored higher,
    lower, the same.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    ties: int

    @property
    def clears(self) -> bool:
        """Whether the interval lies above zero: the gate for promoting a program."""
        return self.low > 0


def estimate(scores: Sequence[float], *, seed: int = 0) -> ScoreEstimate:
    """Mean and interval of per-row scores (0-100). Raises OptimizationError when there are none."""
    if not scores:
        raise OptimizationError("No rows were scored, so there is no score; give at least one row.")
    low, high = _interval(scores, seed, bottom=0.0, top=100.0)
    return ScoreEstimate(score=fmean(scores), low=low, high=high, n=len(scores))


def compare(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Comparison:
    """Compare per-row scores (0-100) of two runs on the same rows, in the same order.

    Raises OptimizationError when the runs are of different length or empty.
    """
    if len(first) != len(second) or not first:
        raise OptimizationError(
            f"Only runs on the same rows can be compared; these have {len(first)} and {len(second)} rows."
        )
    differences = [b - a for a, b in zip(first, second, strict=True)]
    low, high = _interval(differences, seed, bottom=-100.0, top=100.0)
    wins = sum(difference > 0 for difference in differences)
    losses = sum(difference < 0 for difference in differences)
    return Comparison(
        difference=fmean(differences),
        low=low,
        high=high,
        p_value=_sign_test(wins, losses),
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
    )


def _interval(values: Sequence[float], seed: int, *, bottom: float, top: float) -> tuple[float, float]:
    n = len(values)
    mean = fmean(values)
    if min(values) == max(values):
        return unseen_interval(mean, n, bottom=bottom, top=top)
    means = _resampled_means(values, np.random.default_rng(seed))
    # For a mean, the jackknife's influence values are the deviations themselves.
    return bca_interval(mean, means, [value - mean for value in values])


def _resampled_means(values: Sequence[float], random: np.random.Generator) -> np.ndarray:
    """Means of resamples with replacement. Where scores are of a few kinds, how many of each kind is all there is to
    draw."""
    rows = np.asarray(values, dtype=np.float64)
    n = len(rows)
    kinds, counts = np.unique(rows, return_counts=True)
    if len(kinds) <= _FEW:
        return random.multinomial(n, counts / n, size=_RESAMPLES) @ kinds / n
    resamples, at_once = max(1_000, min(_RESAMPLES, _MAX_DRAWS // n)), max(1, _AT_ONCE // n)
    parts = [rows[random.integers(0, n, size=(at_once, n))].mean(axis=1) for _ in range(0, resamples, at_once)]
    return np.concatenate(parts)[:resamples]


def unseen_interval(point: float, n: int, *, bottom: float, top: float) -> tuple[float, float]:
    """The interval where `n` equal rows leave resampling nothing to show; see the module's docstring."""
    unseen = 1 - _TAIL ** (1 / n)
    return point + (bottom - point) * unseen, point + (top - point) * unseen


def bca_interval(
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
    squares = sum(each**2 for each in deviations)
    skew = sum(each**3 for each in deviations) / (6 * squares**1.5) if squares else 0.0

    def corrected(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / (1 - skew * z)) if skew * z < 1 else float(tail > 0.5)

    return corrected(_TAIL), corrected(1 - _TAIL)


def _quantile(ordered: np.ndarray, fraction: float) -> float:
    position = fraction * (len(ordered) - 1)
    index = min(int(position), len(ordered) - 2)
    return float(ordered[index] + (ordered[index + 1] - ordered[index]) * (position - index))


def _sign_test(wins: int, losses: int) -> float:
    trials = wins + losses
    tail = sum(comb(trials, k) for k in range(min(wins, losses) + 1)) / 2**trials
    return min(1.0, 2 * tail)
