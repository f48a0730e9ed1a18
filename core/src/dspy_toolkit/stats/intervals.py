"""Scores with intervals, and whether one run beats another on the same rows. No DSPy.

All scores here are on DSPy's 0-100 scale; a metric's own 0-1 scores are multiplied by 100 once, by `evaluate`.

A mean of n rows has a 95 % interval that holds for any scores between the ends of the scale, skewed or lumpy, however
few the rows: Gaffke's (2005; Learned-Miller & Thomas, "A new confidence interval for the mean of a bounded random
variable", 2019). Its lower end is the 2.5 % quantile of

    weighted mean of the n scores and of one unseen row at the bottom of the scale,
    with weights drawn from the Dirichlet distribution with all parameters 1;

the upper end likewise, with the unseen row at the top. For scores of 0 and 100 that is Clopper and Pearson's exact
interval. For differences of such scores it lies above 0 exactly where the one-sided sign test gives p < 0.025, so fewer
than `MIN_ROWS` rows never show a difference. The quantile is that of a sum of exponential variables, which Lugannani
and Rice's saddlepoint formula (1980) gives without random draws, to within 1 % of the tail's probability from 4 rows
on, and on the safe side below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, copysign, sqrt
from statistics import NormalDist, fmean

import numpy as np

from dspy_toolkit.errors import OptimizationError

__all__ = ["MIN_ROWS", "TAIL", "Comparison", "ScoreEstimate", "compare", "estimate", "unseen_interval"]

TAIL = 0.025
"""The probability of each side that an interval leaves out."""

MIN_ROWS = 6
"""With fewer rows no difference can be shown: 0.5**5 > TAIL."""

_NORMAL = NormalDist()
_EXACT_ROWS = 5_000  # of more rows, scores are rounded to so many steps


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
    """Mean and interval of per-row scores (0-100). Raises OptimizationError when there are none.

    Nothing is drawn, so `seed` changes nothing; it is there for symmetry with `estimate_set`.
    """
    if not scores:
        raise OptimizationError("No rows were scored, so there is no score; give at least one row.")
    low, high = _interval(scores, bottom=0.0, top=100.0)
    return ScoreEstimate(score=fmean(scores), low=low, high=high, n=len(scores))


def compare(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Comparison:
    """Compare per-row scores (0-100) of two runs on the same rows, in the same order. `seed` as for `estimate`.

    Raises OptimizationError when the runs are of different length or empty.
    """
    if len(first) != len(second) or not first:
        raise OptimizationError(
            f"Only runs on the same rows can be compared; these have {len(first)} and {len(second)} rows."
        )
    differences = [b - a for a, b in zip(first, second, strict=True)]
    low, high = _interval(differences, bottom=-100.0, top=100.0)
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


def unseen_interval(point: float, n: int, *, bottom: float, top: float) -> tuple[float, float]:
    """The interval of `n` equal rows: at most 1 - TAIL^(1/n) of all rows differ (the exact binomial bound behind the
    "rule of three"), and those could lie anywhere on the scale.
    """
    unseen = 1 - TAIL ** (1 / n)
    return point + (bottom - point) * unseen, point + (top - point) * unseen


def _interval(values: Sequence[float], *, bottom: float, top: float) -> tuple[float, float]:
    if min(values) == max(values):
        return unseen_interval(fmean(values), len(values), bottom=bottom, top=top)
    rows = np.asarray(values, dtype=np.float64)
    return _lower_end(rows, bottom), -_lower_end(-rows, -top)


def _lower_end(rows: np.ndarray, bottom: float) -> float:
    """The TAIL quantile of the weighted mean, by bisection between the bottom and the mean."""
    if len(rows) > _EXACT_ROWS:
        step = np.ptp(rows) / _EXACT_ROWS
        rows = rows.min() + step * np.round((rows - rows.min()) / step)
    kinds, counts = np.unique(np.append(rows, bottom), return_counts=True)
    low, high = bottom, float(rows.mean())
    while high - low > 1e-6:
        middle = (low + high) / 2
        if _probability_below(kinds - middle, counts) > TAIL:
            high = middle
        else:
            low = middle
    return low


def _probability_below(deviations: np.ndarray, counts: np.ndarray) -> float:
    """The probability that the sum of deviation x Gamma(count) is below 0, by Lugannani and Rice's formula."""
    s = _saddlepoint(deviations, counts)
    terms = 1 - s * deviations
    exponent = -float(counts @ np.log(terms))
    spread = s * sqrt(float(counts @ (deviations / terms) ** 2))
    r = copysign(sqrt(max(0.0, -2 * exponent)), s)
    if abs(r) < 1e-4 or abs(spread) < 1e-4:
        return 0.5
    return _NORMAL.cdf(r) + _NORMAL.pdf(r) * (1 / r - 1 / spread)


def _saddlepoint(deviations: np.ndarray, counts: np.ndarray) -> float:
    """Where the cumulant generating function has its minimum: Newton's steps, kept inside a shrinking bracket."""
    low, high = 1 / float(deviations.min()), 1 / float(deviations.max())
    s = 0.0
    for _ in range(100):
        ratios = deviations / (1 - s * deviations)
        slope = float(counts @ ratios)
        low, high = (low, s) if slope > 0 else (s, high)
        step = s - slope / float(counts @ ratios**2)
        if not low < step < high:
            step = (low + high) / 2
        if abs(step - s) <= 1e-12 * (high - low + abs(s)):
            break
        s = step
    return s


def _sign_test(wins: int, losses: int) -> float:
    trials = wins + losses
    tail = sum(comb(trials, k) for k in range(min(wins, losses) + 1)) / 2**trials
    return min(1.0, 2 * tail)
