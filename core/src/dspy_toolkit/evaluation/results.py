"""What an evaluation is made of: rows with their scores by metric, and each metric's score of the whole set."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import dspy

from dspy_toolkit.errors import MetricError
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.metrics.set_metric import SetMetric
from dspy_toolkit.runs.events import Stage
from dspy_toolkit.runs.records import RowRecord
from dspy_toolkit.stats.intervals import ScoreEstimate, estimate
from dspy_toolkit.stats.set_intervals import estimate_set
from dspy_toolkit.values import describe, plain, shortened

__all__ = [
    "ErrorGroup",
    "Evaluation",
    "MetricResult",
    "RowFailure",
    "RowResult",
    "group_errors",
    "measure",
    "observations",
]


@dataclass(frozen=True, kw_only=True)
class RowFailure:
    """Why a row has no score: `message` is "<type>: <text>". `raised` is None for a row that was read from a record."""

    message: str
    raised: Exception | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, error: Exception) -> "RowFailure":
        return cls(message=describe(error), raised=error)

    @property
    def completion(self) -> str | None:
        """What the LM wrote, where that could not be parsed."""
        text = getattr(self.raised, "lm_response", None)
        return text if isinstance(text, str) else None


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One row, numbered from 1, scored by every metric.

    `scores` are from 0 to 1, by metric; the first metric decides, and `score` (0-100), `feedback`, `parts` and `error`
    are by it. `failures` says what went wrong, by metric: a metric that fails scores 0, and where the program fails
    every metric does, and `prediction` is None.
    """

    row: int
    inputs: Mapping[str, Any]
    prediction: dspy.Prediction | None
    scores: Mapping[str, Score]
    seconds: float
    failures: Mapping[str, RowFailure] = field(default_factory=dict)

    @classmethod
    def of_record(cls, record: RowRecord, metric: str) -> "RowResult":
        """A recorded row, scored by the metric that decides."""
        parts = {name: part / 100 for name, part in record.parts.items()}
        return cls(
            row=record.row,
            inputs=record.inputs,
            prediction=dspy.Prediction(**record.prediction) if record.prediction or record.error is None else None,
            scores={metric: Score(score=record.score / 100, feedback=record.feedback, parts=parts)},
            seconds=record.seconds,
            failures={} if record.error is None else {metric: RowFailure(message=record.error)},
        )

    @property
    def metric(self) -> str:
        return next(iter(self.scores))

    @property
    def score(self) -> float:
        return 100 * self.scores[self.metric].score

    @property
    def feedback(self) -> str:
        return self.scores[self.metric].feedback

    @property
    def parts(self) -> dict[str, float]:
        """The scores (0-100) of a combined metric's parts."""
        return {name: 100 * part for name, part in self.scores[self.metric].parts.items()}

    @property
    def failure(self) -> RowFailure | None:
        return self.failures.get(self.metric)

    @property
    def error(self) -> str | None:
        return None if self.failure is None else self.failure.message

    def by(self, metric: str) -> "RowResult":
        """The same row with this metric alone."""
        failures = {metric: self.failures[metric]} if metric in self.failures else {}
        return replace(self, scores={metric: self.scores[metric]}, failures=failures)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; a value JSON cannot hold appears as its repr."""
        return plain(self.fields(), fallback=repr)

    def record(self, stage: Stage) -> RowRecord:
        """This row as a run's journal holds it."""
        return RowRecord(stage=stage, **self.fields())

    def fields(self) -> dict[str, Any]:
        """`to_dict` before its values are made plain."""
        parts = self.parts
        return {
            "row": self.row,
            "inputs": self.inputs,
            "prediction": {} if self.prediction is None else dict(self.prediction.items()),
            "score": self.score,
            "feedback": self.feedback,
            "error": self.error,
            "seconds": self.seconds,
            **({"parts": parts} if parts else {}),
            **({"scores": self._every_score()} if len(self.scores) > 1 else {}),
        }

    def _every_score(self) -> dict[str, float]:
        return {name: 100 * score.score for name, score in self.scores.items()}


@dataclass(frozen=True, kw_only=True)
class ErrorGroup:
    """Failures of one type: how many, and of the first one its row, its message and, where an answer could not be
    parsed, that answer. In a search the row is named in words: `row 7 of the train set`.
    """

    type: str
    count: int
    row: int | str | None
    example: str
    completion: str | None = None


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """What one metric says of the whole set.

    `score` is the mean of the rows' scores; where the metric is a SetMetric, that of the whole set, `observations` are
    what it is computed from, in row order, and `row_score` is the mean beside it.
    """

    score: ScoreEstimate
    errors: tuple[ErrorGroup, ...] = ()
    row_score: ScoreEstimate | None = None
    set_metric: SetMetric | None = None
    observations: tuple[Hashable, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results in row order, and each metric's result by its name; the first metric decides."""

    results: tuple[RowResult, ...]
    metrics: Mapping[str, MetricResult]
    usage: Usage
    seconds: float

    @classmethod
    def of(
        cls,
        results: Sequence[RowResult],
        rows: Sequence[dspy.Example],
        set_metrics: Mapping[str, SetMetric | None],
        *,
        usage: Usage,
        seconds: float,
        seed: int,
    ) -> "Evaluation":
        """From results, at least one, on some of `rows`. `set_metrics` has every metric's name, with None for a metric
        of rows alone; `seed` is that of the intervals.
        """
        golds = [rows[result.row - 1] for result in results]
        metrics = {
            name: _metric_result([result.by(name) for result in results], golds, set_metric, seed)
            for name, set_metric in set_metrics.items()
        }
        return cls(results=tuple(results), metrics=metrics, usage=usage, seconds=seconds)

    @property
    def metric(self) -> str:
        """The metric that decides: the first."""
        return next(iter(self.metrics))

    @property
    def score(self) -> ScoreEstimate:
        return self.metrics[self.metric].score

    @property
    def row_score(self) -> ScoreEstimate | None:
        return self.metrics[self.metric].row_score

    @property
    def errors(self) -> tuple[ErrorGroup, ...]:
        return self.metrics[self.metric].errors

    @property
    def set_metric(self) -> SetMetric | None:
        return self.metrics[self.metric].set_metric

    @property
    def observations(self) -> tuple[Hashable, ...] | None:
        return self.metrics[self.metric].observations

    @property
    def scores(self) -> list[float]:
        """Per-row scores (0-100) in row order, for `compare`."""
        return [result.score for result in self.results]

    @property
    def parts(self) -> dict[str, float]:
        """The mean score (0-100) of each part of a combined metric; a row that failed counts as 0."""
        parts = [result.parts for result in self.results]
        names = dict.fromkeys(name for row in parts for name in row)
        return {name: sum(row.get(name, 0.0) for row in parts) / len(parts) for name in names}

    def by(self, metric: str) -> "Evaluation":
        """The same evaluation with this metric alone."""
        if len(self.metrics) == 1 and metric in self.metrics:
            return self
        results = tuple(result.by(metric) for result in self.results)
        return replace(self, results=results, metrics={metric: self.metrics[metric]})

    def only(self, numbers: Collection[int], rows: Sequence[dspy.Example], *, seed: int) -> "Evaluation":
        """The same evaluation of these rows (from 1) alone; usage and seconds stay those of all."""
        return Evaluation.of(
            [result for result in self.results if result.row in numbers],
            rows,
            {name: result.set_metric for name, result in self.metrics.items()},
            usage=self.usage,
            seconds=self.seconds,
            seed=seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, by the metric that decides."""
        return {
            **asdict(self.score),
            **({"row_score": asdict(self.row_score)} if self.row_score else {}),
            **({"parts": parts} if (parts := self.parts) else {}),
            "errors": [asdict(group) for group in self.errors],
            "usage": asdict(self.usage),
            "seconds": self.seconds,
            "rows": [result.to_dict() for result in self.results],
        }


def group_errors(raised: Sequence[tuple[int | str | None, Exception | None]]) -> tuple[ErrorGroup, ...]:
    """The error table: one line per type of error, most frequent first, with the first of its kind."""
    errors = [(row, error) for row, error in raised if error is not None]
    if all(isinstance(row, int) for row, _ in errors):  # of an evaluation, whose rows come as they are finished
        errors.sort(key=lambda pair: cast(int, pair[0]))
    groups: dict[str, ErrorGroup] = {}
    for row, error in errors:
        name = type(error).__name__
        if name in groups:
            groups[name] = replace(groups[name], count=groups[name].count + 1)
        else:
            completion = RowFailure.of(error).completion
            example = shortened(str(error), 500)
            groups[name] = ErrorGroup(type=name, count=1, row=row, example=example, completion=completion)
    return tuple(sorted(groups.values(), key=lambda group: (-group.count, group.type)))


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


def measure(evaluation: Evaluation, rows: Sequence[dspy.Example], metric: SetMetric, *, seed: int = 0) -> ScoreEstimate:
    """A set's score (0-100) from an evaluation that was made with another metric. `rows` are those it was made on."""
    metric.check(rows)
    golds = [rows[result.row - 1] for result in evaluation.results]
    observed = observations(metric, golds, [result.prediction for result in evaluation.results])
    return estimate_set(metric.score_of, observed, seed=seed)


def _metric_result(
    results: Sequence[RowResult], golds: Sequence[dspy.Example], set_metric: SetMetric | None, seed: int
) -> MetricResult:
    mean = estimate([result.score for result in results], seed=seed)
    errors = group_errors([(result.row, result.failure and result.failure.raised) for result in results])
    if set_metric is None:
        return MetricResult(score=mean, errors=errors)
    observed = observations(
        set_metric, golds, [None if result.failure is not None else result.prediction for result in results]
    )
    score = estimate_set(set_metric.score_of, observed, seed=seed)
    return MetricResult(score=score, errors=errors, row_score=mean, set_metric=set_metric, observations=observed)
