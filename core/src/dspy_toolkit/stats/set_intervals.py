"""Scores of whole sets, with intervals, from one observation of each row. No DSPy.

A statistic is a function of how often each observation occurs, with values from 0 to 1. The bootstrap draws rows; a
draw is no more than new counts of the same observations. BCa needs the statistic with each row left out in turn, which
is one more look at the counts for each different observation. At most `_LEFT_OUT` of them are looked at: they only
estimate a skewness.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.stats.intervals import Comparison, ScoreEstimate, bca_interval, compare, unseen_interval

__all__ = ["Statistic", "compare_sets", "estimate_set"]

Statistic = Callable[[Mapping[Any, int]], float]

_MAX_DRAWS = 10_000_000
_LEFT_OUT = 1_000


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

    Wins, losses, ties and the sign test are of the row scores (0-100).
    """
    rows = compare(*row_scores, seed=seed)

    def difference(counts: Counter[Any]) -> float:
        first: Counter[Any] = Counter()
        second: Counter[Any] = Counter()
        for (one, other), count in counts.items():
            first[one] += count
            second[other] += count
        return 100 * (statistic(second) - statistic(first))

    point, low, high = _bootstrap(list(zip(*observed, strict=True)), difference, seed, bottom=-100.0, top=100.0)
    return Comparison(
        difference=point,
        low=low,
        high=high,
        p_value=rows.p_value,
        wins=rows.wins,
        losses=rows.losses,
        ties=rows.ties,
    )


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
    return point, *bca_interval(point, replicates, influence)
