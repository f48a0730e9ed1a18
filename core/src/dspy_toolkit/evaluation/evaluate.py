"""Running a program over rows and scoring each: our own loop, linear, nothing executed twice.

`dspy.Evaluate` is quadratic in the number of rows, executes stragglers a second time, and scores a dead LM as 0.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError, OptimizationError, OptimizationInterrupted
from dspy_toolkit.evaluation.results import Evaluation, RowFailure, RowResult
from dspy_toolkit.evaluation.workers import in_threads
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.meter import DeadLM, Ended, Meter, StopRequested
from dspy_toolkit.lm.quiet import quiet
from dspy_toolkit.metrics.metric import AnyMetric, Metric
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.runs.emitter import Emitter
from dspy_toolkit.runs.events import EventSink, Stage
from dspy_toolkit.runs.recorder import Recorder
from dspy_toolkit.values import describe

__all__ = ["EvaluationControls", "RunStage", "evaluate", "unique_names"]


@dataclass(frozen=True, kw_only=True)
class RunStage:
    """One stage of a run, which shares the run's meter and emitter.

    `on_row` is told of every row as it comes, in the caller's thread.
    """

    name: Stage = "evaluate"
    meter: Meter
    emitter: Emitter
    on_row: Callable[[Stage, RowResult], None] | None = None

    @classmethod
    def recorded(
        cls, record: Recorder, on_event: EventSink | None = None, stop: threading.Event | None = None
    ) -> "RunStage":
        """An evaluation that is a run of its own. Its calls and rows go to `record`, which may write nowhere."""
        record.stage = "evaluate"
        if record.journal is None:
            meter = Meter(stop)
            return cls(meter=meter, emitter=Emitter(on_event, meter))
        meter = Meter(stop, on_call=record.call)
        on_row = lambda stage, row: record.row(row.record(stage))  # noqa: E731
        return cls(meter=meter, emitter=Emitter(on_event, meter), on_row=on_row)


@dataclass(frozen=True, kw_only=True)
class EvaluationControls:
    """How an evaluation is run; what decides its scores is not here.

    More than `max_errors` failed rows end it; None allows any number. `stage` has it share the meter and emitter of a
    longer run; without one, `on_event` is told what happens.
    """

    num_threads: int = 1
    max_errors: int | None = None
    stop: threading.Event | None = None
    on_event: EventSink | None = None
    stage: RunStage | None = None


def evaluate(
    program: dspy.Module,
    rows: Sequence[dspy.Example],
    metrics: AnyMetric | Sequence[AnyMetric],
    *,
    lm: Any,
    adapter: dspy.Adapter | None = None,
    seed: int = 0,
    controls: EvaluationControls = EvaluationControls(),  # frozen
) -> Evaluation:
    """Run `program` once on every row and score each answer once with every metric.

    A row that fails counts as 0 and is in the error table; a metric that fails on a row costs that metric that row.
    What program and metrics print goes to the logger `dspy_toolkit.optimize` (see `quiet`). `seed` is that of the
    intervals.

    Raises OptimizationError when every row fails, for one metric too, when the LM stops answering (a dead LM is not a
    score of 0), and after more failed rows than allowed; OptimizationInterrupted on Ctrl-C or when `stop` is set. The
    last two have the Evaluation of the finished rows, or None, as `partial`. BudgetSpent, of the meter's limits, is
    raised too.
    """
    if not rows:
        raise OptimizationError("There are no rows to evaluate on; give at least one.")
    if controls.num_threads < 1:
        raise OptimizationError(f"num_threads is {controls.num_threads}; expected at least 1.")
    several = [metrics] if isinstance(metrics, Metric) or callable(metrics) else metrics
    scorers = [metric if isinstance(metric, Metric) else Metric(metric) for metric in several]
    named = dict(zip(unique_names([metric.name for metric in scorers]), scorers, strict=True))
    for metric in scorers:
        metric.check(rows)
    stage = controls.stage or RunStage.recorded(Recorder(None), controls.on_event, controls.stop)
    evaluation = _Running(rows, named, stage, controls.max_errors, seed)
    settings = {"disable_history": True, **({} if adapter is None else {"adapter": adapter})}
    with dspy.context(**settings), stage.meter.watching(lm, program) as cheap, quiet():
        call = stage.meter.row_cost if cheap else _direct
        work = [_Row(number, example, program, named, call) for number, example in enumerate(rows, start=1)]
        evaluation.run(work, controls.num_threads, lm)
    return evaluation.end()


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes again."""
    return [
        name if names.index(name) == at else f"{name} #{names[: at + 1].count(name)}" for at, name in enumerate(names)
    ]


class _Running:
    """An evaluation while it runs."""

    def __init__(
        self,
        rows: Sequence[dspy.Example],
        metrics: Mapping[str, Metric],
        stage: RunStage,
        max_errors: int | None,
        seed: int,
    ):
        self._rows = rows
        self._metrics = metrics
        self._stage = stage
        self._max_errors = max_errors
        self._seed = seed
        self._started = time.perf_counter()
        self._earlier = stage.meter.usage
        self._results: dict[int, RowResult] = {}
        self._total = 0.0
        self._failed = 0

    def run(self, work: "Sequence[_Row]", num_threads: int, lm: Any) -> None:
        self._stage.emitter.start(self._stage.name, len(self._rows))
        progress = f"{{}} of {len(self._rows)} rows"
        try:
            for result in in_threads(work, num_threads, self._stage.meter):
                self._add(result)
        except (KeyboardInterrupt, StopRequested) as interruption:
            stopped = f"Stopped after {progress.format(len(self._results))}."
            raise OptimizationInterrupted(stopped, partial=self._partial()) from interruption
        except Ended as ended:  # by `on_row`
            if isinstance(ended.cause, OptimizationError):
                ended.cause.partial = self._partial()
            raise ended.cause from None
        except DeadLM as dead:
            model = repr(LMInfo.of(lm).model)
            raise OptimizationError(
                f"The LM {model} stopped answering after {progress.format(len(self._results))}: {describe(dead.cause)}"
            ) from dead.cause

    def end(self) -> Evaluation:
        """The Evaluation of all rows."""
        self._check_scored()
        evaluation = self._evaluation()
        self._stage.emitter.finish(self._stage.name, len(self._rows), score=evaluation.score.score)
        return evaluation

    def _add(self, result: RowResult) -> None:
        stage = self._stage
        self._results[result.row] = result
        self._total += result.score
        if stage.on_row is not None:
            stage.on_row(stage.name, result)
        finished = len(self._results)
        stage.emitter.progress(stage.name, finished, len(self._rows), score=self._total / finished)
        self._failed += bool(result.failures)
        if self._max_errors is not None and self._failed > self._max_errors:
            raise OptimizationError(
                f"Stopped after {finished} of {len(self._rows)} rows because {self._failed} of them failed; at most "
                f"{self._max_errors} may (--max-errors).",
                partial=self._partial(),
            )

    def _check_scored(self) -> None:
        failed = [name for name in self._metrics if all(name in row.failures for row in self._results.values())]
        if not failed:
            return
        first = self._results[min(self._results)].failures[failed[0]]
        if len(failed) < len(self._metrics):
            message = f"The metric {failed[0]} failed on all {len(self._rows)} rows."
        else:
            message = f"All {len(self._rows)} rows failed, so there is no score."
        raise OptimizationError(f"{message} The first: {first.message}") from first.raised

    def _partial(self) -> Evaluation | None:
        return self._evaluation() if self._results else None

    def _evaluation(self) -> Evaluation:
        return Evaluation.of(
            [self._results[row] for row in sorted(self._results)],
            self._rows,
            {name: metric.set_metric for name, metric in self._metrics.items()},
            usage=self._stage.meter.usage - self._earlier,
            seconds=time.perf_counter() - self._started,
            seed=self._seed,
        )


@dataclass(frozen=True)
class _Row:
    number: int
    example: dspy.Example
    program: dspy.Module
    metrics: Mapping[str, Metric]
    call: Callable[[Callable[[], dspy.Prediction]], dspy.Prediction]

    def __call__(self) -> RowResult:
        # Modules such as BestOfN extend the trace, so it is a list; a row's own, which no other thread changes.
        with dspy.context(trace=[]):
            return self._result()

    def _result(self) -> RowResult:
        started = time.perf_counter()
        inputs = dict(self.example.inputs().items())
        prediction = None
        scores: dict[str, Score] = {}
        failures: dict[str, RowFailure] = {}
        try:
            prediction = self.call(lambda: self.program(**inputs))
        except Exception as error:  # noqa: BLE001  # a row's failure costs that row; the error table has it
            failures = dict.fromkeys(self.metrics, RowFailure.of(self._named(error)))
            scores = dict.fromkeys(self.metrics, _NO_SCORE)
        else:
            for name, metric in self.metrics.items():
                try:
                    scores[name] = metric.score(self.example, prediction)
                except Exception as error:  # noqa: BLE001  # a metric's failure costs that metric that row
                    scores[name] = _NO_SCORE
                    failures[name] = RowFailure.of(self._named(error))
        return RowResult(
            row=self.number,
            inputs=inputs,
            prediction=prediction,
            scores=scores,
            seconds=time.perf_counter() - started,
            failures=failures,
        )

    def _named(self, error: Exception) -> Exception:
        return MetricError(f"Row {self.number}: {error}") if isinstance(error, MetricError) else error


_NO_SCORE = Score(score=0.0)


def _direct(call: Callable[[], dspy.Prediction]) -> dspy.Prediction:
    return call()
