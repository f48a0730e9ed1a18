"""Several metrics over one pass of a program: each gets an Evaluation of its own, of the same answers."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError, OptimizationError, OptimizationInterrupted
from dspy_toolkit.evaluation.evaluate import Evaluation, RowResult, evaluate, group_errors
from dspy_toolkit.lm.meter import StopRequested
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.metrics.set_metric import SetMetric
from dspy_toolkit.runs.events import Event, EventSink
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.stats.intervals import estimate
from dspy_toolkit.stats.set_intervals import estimate_set, observations

__all__ = ["evaluate_several", "unique_names"]


def evaluate_several(
    program: dspy.Module,
    rows: Sequence[dspy.Example],
    metrics: Sequence[Metric],
    *,
    lm: Any,
    adapter: dspy.Adapter | None = None,
    num_threads: int = 1,
    seed: int = 0,
    max_errors: int | None = None,
    on_event: EventSink | None = None,
    stop: threading.Event | None = None,
    journal: Journal | None = None,
) -> dict[str, Evaluation]:
    """Run `program` once on every row and score each answer with every metric; an Evaluation by the metric's name.

    A metric that fails on a row costs that metric that row. Raises as `evaluate` does, with such a dictionary of the
    finished rows as `partial`; OptimizationError, with it, once more than `max_errors` rows have failed, or when one
    metric fails on every row.
    """
    asked = _Asked(dict(zip(unique_names([metric.name for metric in metrics]), metrics, strict=True)))
    watch = _Watch(asked, max_errors, on_event)
    try:
        whole = evaluate(
            program, rows, Metric(asked, name=", ".join(asked.metrics)), lm=lm, adapter=adapter,
            num_threads=num_threads, on_event=watch, stop=stop, seed=seed, journal=journal,
        )  # fmt: skip
    except OptimizationInterrupted as interruption:
        partial = asked.evaluations(interruption.partial, rows, seed) if interruption.partial else None
        if watch.failed is not None:
            raise OptimizationError(
                f"Stopped after {watch.done} of {len(rows)} rows because {watch.failed} of them failed; "
                f"at most {max_errors} may (--max-errors).",
                partial=partial,
            ) from None
        raise OptimizationInterrupted(str(interruption), partial=partial) from interruption
    evaluations = asked.evaluations(whole, rows, seed)
    for name, evaluation in evaluations.items():
        if all(result.error for result in evaluation.results):
            raise OptimizationError(
                f"The metric {name} failed on all {len(rows)} rows. The first: {evaluation.results[0].error}"
            )
    return evaluations


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes again."""
    return [
        name if names.index(name) == at else f"{name} #{names[: at + 1].count(name)}" for at, name in enumerate(names)
    ]


class _Asked:
    """The metric of the pass: asks every metric, and keeps what each said of each row."""

    def __init__(self, metrics: dict[str, Metric]):
        self.metrics = metrics
        self.said: dict[int, dict[str, Score | MetricError]] = {}

    def check(self, rows: Sequence[dspy.Example]) -> None:
        rows = list(rows)
        for metric in self.metrics.values():
            metric.check(rows)

    def __call__(self, gold: dspy.Example, pred: dspy.Prediction, trace: Any = None) -> Score:
        said: dict[str, Score | MetricError] = {}
        for name, metric in self.metrics.items():
            try:
                said[name] = metric.score(gold, pred, trace)
            except MetricError as error:
                said[name] = error
        self.said[id(gold)] = said
        first = next(iter(said.values()))
        return first if isinstance(first, Score) else Score(score=0.0)

    @property
    def failed(self) -> int:
        """Rows that a metric failed on."""
        return sum(any(isinstance(each, MetricError) for each in said.values()) for said in list(self.said.values()))

    def evaluations(self, whole: Evaluation, rows: Sequence[dspy.Example], seed: int) -> dict[str, Evaluation]:
        return {
            name: evaluation_of(
                metric.set_metric,
                [self._row(result, rows[result.row - 1], name) for result in whole.results],
                rows,
                whole,
                seed,
            )
            for name, metric in self.metrics.items()
        }

    def _row(self, result: RowResult, gold: dspy.Example, name: str) -> RowResult:
        if result.error is not None:
            return result
        said = self.said[id(gold)][name]
        if isinstance(said, Score):
            parts = {part: 100 * score for part, score in said.parts.items()}
            return replace(result, score=100 * said.score, feedback=said.feedback, parts=parts)
        raised = MetricError(f"Row {result.row}: {said}")
        error = f"{type(raised).__name__}: {raised}"
        return replace(result, score=0.0, feedback="", parts={}, error=error, raised=raised)


def evaluation_of(
    set_metric: SetMetric | None,
    results: Sequence[RowResult],
    rows: Sequence[dspy.Example],
    of: Evaluation,
    seed: int,
) -> Evaluation:
    """The Evaluation of rows that are scored already; usage and seconds are those of `of`."""
    mean = estimate([result.score for result in results], seed=seed)
    plain = replace(
        of, results=tuple(results), score=mean, row_score=None, set_metric=None, observations=None,
        errors=group_errors([(result.row, result.raised) for result in results]),
    )  # fmt: skip
    if set_metric is None:
        return plain
    observed = observations(
        set_metric, [rows[result.row - 1] for result in results], [result.prediction for result in results]
    )
    score = estimate_set(set_metric, observed, seed=seed)
    return replace(plain, score=score, row_score=mean, set_metric=set_metric, observations=observed)


class _Watch:
    """The event sink of the pass: passes events on, and ends it when too many rows have failed."""

    def __init__(self, asked: _Asked, max_errors: int | None, sink: EventSink | None):
        self._asked = asked
        self._max_errors = max_errors
        self._sink = sink
        self.done = 0
        self.failed: int | None = None

    def __call__(self, event: Event) -> None:
        if self._sink is not None:
            self._sink(event)
        if self._max_errors is None or event.kind != "progress":
            return
        # A worker's metric may have scored a row that is not counted as done yet, so this is never too many.
        failed = event.done - len(self._asked.said) + self._asked.failed
        if failed > self._max_errors:
            self.done, self.failed = event.done, failed
            raise StopRequested
