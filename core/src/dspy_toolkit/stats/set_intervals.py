"""Scores of whole sets, with intervals, from the observations a SetMetric makes of each row.

The bootstrap draws rows; a draw is no more than new counts of the same observations. BCa needs the statistic with each
row left out in turn, which is one more look at the counts for each different observation. At most `_LEFT_OUT` of them
are looked at: they only estimate a skewness.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import dspy
import numpy as np

from dspy_toolkit.errors import MetricError, OptimizationError
from dspy_toolkit.metrics.set_metric import SetMetric
from dspy_toolkit.stats.intervals import Comparison, ScoreEstimate, bca_interval, compare, unseen_interval

if TYPE_CHECKING:
    from dspy_toolkit.evaluation.evaluate import Evaluation

__all__ = ["compare_evaluations", "compare_sets", "estimate_set", "measure", "observations"]

_MAX_DRAWS = 10_000_000
_LEFT_OUT = 1_000


def observations(
    metric: SetMetric, rows: Sequence[dspy.Example], predictions: Sequence[dspy.Prediction | None]
) -> tuple[Hashable, ...]:
    """One observation for each row. `predictions` has None for rows that failed. Raises MetricError with the row."""
    observed = []
    for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True), start=1):
        try:
            observed.append(metric.observe(row, prediction))
        except Exception as error:  # a stranger's metric can raise anything
            raise MetricError(f"Row {number}: the metric {metric.__name__!r} cannot observe it: {error}") from error
    return tuple(observed)


def measure(
    evaluation: "Evaluation", rows: Sequence[dspy.Example], metric: SetMetric, *, seed: int = 0
) -> ScoreEstimate:
    """A set's score (0-100) from an evaluation that was made with another metric. `rows` are those it was made on."""
    metric.check(rows)
    golds = [rows[result.row - 1] for result in evaluation.results]
    return estimate_set(
        metric, observations(metric, golds, [result.prediction for result in evaluation.results]), seed=seed
    )


def estimate_set(metric: SetMetric, observed: Sequence[Hashable], *, seed: int = 0) -> ScoreEstimate:
    """The score of a set on the 0-100 scale with its 95 % interval."""
    if not observed:
        raise OptimizationError("No rows were scored, so there is no score; give at least one row.")

    def score(counts: Counter[Any]) -> float:
        return 100 * _over(metric, counts)

    point, low, high = _bootstrap(observed, score, seed, bottom=0.0, top=100.0)
    return ScoreEstimate(score=point, low=low, high=high, n=len(observed))


def compare_sets(
    metric: SetMetric,
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    first_rows: Sequence[float],
    second_rows: Sequence[float],
    *,
    seed: int = 0,
) -> Comparison:
    """The second run's set score minus the first's, with the interval from drawing rows of both runs together.

    Wins, losses, ties and the sign test are of the row scores (0-100).
    """
    rows = compare(first_rows, second_rows, seed=seed)

    def difference(counts: Counter[Any]) -> float:
        before: Counter[Any] = Counter()
        after: Counter[Any] = Counter()
        for (one, other), count in counts.items():
            before[one] += count
            after[other] += count
        return 100 * (_over(metric, after) - _over(metric, before))

    point, low, high = _bootstrap(list(zip(first, second, strict=True)), difference, seed, bottom=-100.0, top=100.0)
    return Comparison(
        difference=point,
        low=low,
        high=high,
        p_value=rows.p_value,
        wins=rows.wins,
        losses=rows.losses,
        ties=rows.ties,
    )


def compare_evaluations(first: "Evaluation", second: "Evaluation", *, seed: int = 0) -> Comparison:
    """Second minus first on the same rows, by the score of the set where the metric has one, else by the rows' mean."""
    if second.set_metric is None or first.observations is None or second.observations is None:
        return compare(first.scores, second.scores, seed=seed)
    return compare_sets(
        second.set_metric, first.observations, second.observations, first.scores, second.scores, seed=seed
    )


def _over(metric: SetMetric, counts: Counter[Any]) -> float:
    score = metric.over(counts)
    if not isinstance(score, int | float) or not -1e-9 <= score <= 1 + 1e-9:  # NaN compares false
        raise MetricError(f"The metric {metric.__name__!r} returned {score!r} for a set; expected 0 to 1.")
    return min(max(float(score), 0.0), 1.0)


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
