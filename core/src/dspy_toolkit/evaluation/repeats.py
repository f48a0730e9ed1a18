"""How much a program's score moves though nothing changed but the model's sampling.

Every repeat runs the same rows as another rollout. With scores s of row i in R repeats, the variance of one repeat's
mean over n rows is  sum_i var_r(s_ir) / n^2,  since rows are sampled independently of each other: n (R-1) degrees of
freedom, where the spread of the R means alone would have R-1. The noise floor is what two runs of one program differ by
with 95 % probability, 1.96 sqrt(v1 + v2), v being such a variance divided by the number of repeats it is averaged over.
For the score of a set, which is no mean over rows, the variance is that of the R scores.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from statistics import fmean, variance
from typing import Any

import dspy

from dspy_toolkit.evaluation.results import Evaluation, MetricResult, RowResult, group_errors
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.metrics.set_metric import SetMetric
from dspy_toolkit.stats.intervals import estimate
from dspy_toolkit.stats.set_intervals import estimate_set

__all__ = ["Noise", "combined", "noise_floor", "rollout", "total_usage"]

_TWO_SIDED = 1.96


@dataclass(frozen=True, kw_only=True)
class Noise:
    """`scores` are the repeats', 0-100. `deviation` is the standard deviation of one repeat's score, and `floor` what
    two single runs differ by with 95 % probability. `deterministic`: every row had the same answer in all repeats.
    """

    scores: tuple[float, ...]
    deviation: float
    floor: float
    deterministic: bool

    @classmethod
    def of(cls, repeats: Sequence[Evaluation]) -> "Noise | None":
        """From repeats on the same rows, by the metric that decides; None for fewer than two."""
        if len(repeats) < 2:
            return None
        if repeats[0].set_metric is None:
            rows = zip(*(repeat.scores for repeat in repeats), strict=True)
            spread = sum(variance(scores) for scores in rows) / len(repeats[0].results) ** 2
        else:
            spread = variance([repeat.score.score for repeat in repeats])
        return cls(
            scores=tuple(repeat.score.score for repeat in repeats),
            deviation=sqrt(spread),
            floor=_TWO_SIDED * sqrt(2 * spread),
            deterministic=all(
                len({_answer(result) for result in row}) == 1
                for row in zip(*(repeat.results for repeat in repeats), strict=True)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "scores": list(self.scores), "spread": max(self.scores) - min(self.scores)}


def noise_floor(first: Noise | None, second: Noise | None) -> float | None:
    """What the averages over the repeats of two runs differ by with 95 % probability if the programs are equally good;
    None where either was run once.
    """
    if first is None or second is None:
        return None
    return _TWO_SIDED * sqrt(sum(noise.deviation**2 / len(noise.scores) for noise in (first, second)))


def rollout(lm: Any, repeat: int) -> Any:
    """The LM for a repeat, from 0, which is the LM itself: a rollout of its own, so that the cache does not answer.

    At temperature 0 DSPy ignores rollouts; there the cache is left out, so that determinism is seen, not assumed.
    """
    if repeat == 0:
        return lm
    return lm.copy(cache=False) if lm.kwargs.get("temperature") == 0 else lm.copy(rollout_id=repeat)


def combined(repeats: Sequence[Evaluation], *, seed: int) -> Evaluation:
    """Repeats on the same rows as one Evaluation: the mean score of each row, and of its answers the worst."""
    if len(repeats) == 1:
        return repeats[0]
    results = tuple(_combined_row(row) for row in zip(*(repeat.results for repeat in repeats), strict=True))
    return Evaluation(
        results=results,
        metrics={
            name: _combined_metric([repeat.by(name) for repeat in repeats], [row.by(name) for row in results], seed)
            for name in repeats[0].metrics
        },
        usage=total_usage(repeats),
        seconds=sum(repeat.seconds for repeat in repeats),
    )


def total_usage(evaluations: Sequence[Evaluation]) -> Usage:
    return sum((evaluation.usage for evaluation in evaluations), Usage())


def _combined_metric(repeats: Sequence[Evaluation], rows: Sequence[RowResult], seed: int) -> MetricResult:
    mean = estimate([row.score for row in rows], seed=seed)
    failures = [(row.row, row.failure and row.failure.raised) for repeat in repeats for row in repeat.results]
    result = MetricResult(score=mean, errors=group_errors(failures))
    if repeats[0].set_metric is None:
        return result
    metric = _MeanOverRepeats(repeats[0].set_metric)
    observed = tuple(zip(*(repeat.observations or () for repeat in repeats), strict=True))
    score = estimate_set(metric.score_of, observed, seed=seed)
    return replace(result, score=score, row_score=mean, set_metric=metric, observations=observed)


def _combined_row(repeats: Sequence[RowResult]) -> RowResult:
    worst = {name: min(repeats, key=lambda row, name=name: row.scores[name].score) for name in repeats[0].scores}
    return replace(
        worst[repeats[0].metric],
        scores={
            name: _combined_score(row.scores[name], [each.scores[name] for each in repeats])
            for name, row in worst.items()
        },
        failures={name: row.failures[name] for name, row in worst.items() if name in row.failures},
        seconds=fmean(row.seconds for row in repeats),
    )


def _combined_score(worst: Score, scores: Sequence[Score]) -> Score:
    parts = dict.fromkeys(name for score in scores for name in score.parts)
    return replace(
        worst,
        score=fmean(score.score for score in scores),
        parts={name: fmean(score.parts.get(name, 0.0) for score in scores) for name in parts},
    )


class _MeanOverRepeats(SetMetric):
    """The mean of a set metric over repeats; an observation is one of each repeat."""

    def __init__(self, metric: SetMetric):
        self._metric = metric
        self.__name__ = metric.__name__

    def row(self, gold: dspy.Example, pred: dspy.Prediction) -> Score:
        return self._metric.row(gold, pred)

    def observe(self, gold: dspy.Example, pred: dspy.Prediction | None) -> Hashable:
        return self._metric.observe(gold, pred)

    def over(self, counts: Mapping[Any, int]) -> float:
        repeats = len(next(iter(counts)))
        scores = []
        for number in range(repeats):
            own: Counter[Any] = Counter()
            for observed, count in counts.items():
                own[observed[number]] += count
            scores.append(self._metric.over(own))
        return fmean(scores)


def _answer(result: RowResult) -> str:
    plain = result.to_dict()
    return repr((plain["prediction"], plain["error"]))
