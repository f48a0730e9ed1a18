"""Running a program over rows and scoring each: our own loop, linear, nothing executed twice.

    rows ──queue──▶ worker threads: program, then metric ──queue──▶ caller's thread: results, events, stopping

`dspy.Evaluate` is quadratic in the number of rows, executes stragglers a second time, and scores a dead LM as 0.
"""

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import dspy
from pydantic_core import to_jsonable_python

from dspy_toolkit.errors import MetricError, OptimizationError, OptimizationInterrupted
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.meter import DeadLM, Ended, Meter, StopRequested
from dspy_toolkit.lm.quiet import quiet
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.metrics.set_metric import SetMetric
from dspy_toolkit.runs.emitter import Emitter
from dspy_toolkit.runs.events import EventSink, Stage
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.recorder import Recorder
from dspy_toolkit.runs.records import RowRecord
from dspy_toolkit.stats.intervals import ScoreEstimate, estimate
from dspy_toolkit.stats.set_intervals import estimate_set, observations

__all__ = ["ErrorGroup", "Evaluation", "RowResult", "evaluate", "group_errors"]

_POLL = 0.1  # seconds between looks at `stop`
_TOGETHER = 0.025
"""Seconds in which results may gather before the caller's thread takes them: each time it wakes, it and the workers
have to give each other the GIL, and on a busy machine the processor, which costs more than what it does with a row."""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One row. `row` counts from 1; `score` is 0-100; `prediction` is None, and the score 0, where `error` is set.

    A row fails when the program or the metric raises; `error` is "<type>: <message>". `parts` are the scores (0-100) of
    a combined metric's parts. `raised` is what the error was, for what its text leaves out (a raw completion).
    """

    row: int
    inputs: Mapping[str, Any]
    prediction: dspy.Prediction | None
    score: float
    feedback: str
    error: str | None
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)
    raised: Exception | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; a value JSON cannot hold appears as its repr."""
        return _plain_or_repr(self.fields())

    def record(self, stage: Stage) -> RowRecord:
        """This row as a run's journal holds it."""
        return RowRecord(stage=stage, **self.fields())

    def fields(self) -> dict[str, Any]:
        """`to_dict` before its values are made plain."""
        return {
            "row": self.row,
            "inputs": self.inputs,
            "prediction": {} if self.prediction is None else dict(self.prediction.items()),
            "score": self.score,
            "feedback": self.feedback,
            "error": self.error,
            "seconds": self.seconds,
            **({"parts": dict(self.parts)} if self.parts else {}),
        }


@dataclass(frozen=True, kw_only=True)
class ErrorGroup:
    """Failures of one type: how many, and of the first one its row, its message and, where an answer could not be read,
    that answer. In a search the row is named in words: `row 7 of the train set`.
    """

    type: str
    count: int
    row: int | str | None
    example: str
    completion: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results in row order, the score with its interval, and what went wrong.

    `score` is the mean of the rows' scores; where the metric is a SetMetric, that of the whole set, `observations` are
    what it is made of, in row order, and `row_score` is the mean beside it.
    """

    results: tuple[RowResult, ...]
    score: ScoreEstimate
    errors: tuple[ErrorGroup, ...]
    usage: Usage
    seconds: float
    row_score: ScoreEstimate | None = None
    set_metric: SetMetric | None = None
    observations: tuple[Hashable, ...] | None = None

    @property
    def scores(self) -> list[float]:
        """Per-row scores in row order, for `compare`."""
        return [result.score for result in self.results]

    @property
    def parts(self) -> dict[str, float]:
        """The mean score (0-100) of each part of a combined metric; a row that failed counts as 0."""
        names = dict.fromkeys(name for result in self.results for name in result.parts)
        return {name: sum(each.parts.get(name, 0.0) for each in self.results) / len(self.results) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            **asdict(self.score),
            **({"row_score": asdict(self.row_score)} if self.row_score else {}),
            **({"parts": parts} if (parts := self.parts) else {}),
            "errors": [asdict(group) for group in self.errors],
            "usage": asdict(self.usage),
            "seconds": self.seconds,
            "rows": [result.to_dict() for result in self.results],
        }


def evaluate(
    program: dspy.Module,
    rows: Sequence[dspy.Example],
    metric: Metric | Callable[..., Any],
    *,
    lm: Any,
    adapter: dspy.Adapter | None = None,
    num_threads: int = 1,
    on_event: EventSink | None = None,
    stop: threading.Event | None = None,
    stage: Stage = "evaluate",
    seed: int = 0,
    journal: Journal | None = None,
) -> Evaluation:
    """Run `program` on every row and score it; a row that fails counts as 0 and is in the error table.

    What program and metric print goes to the logger `dspy_toolkit.optimize` (see `quiet`).
    `seed` is that of the interval. Raises OptimizationError when every row fails or the LM stops answering (a dead LM
    is not a score of 0); OptimizationInterrupted on Ctrl-C or when `stop` is set, with the Evaluation of the finished
    rows, or None, as `partial`.
    """
    record = Recorder(journal)
    record.stage = stage
    meter = Meter(stop, on_call=None if journal is None else record.call)
    emitter = Emitter(on_event, meter)
    on_row = None if journal is None else (lambda of, row: record.row(row.record(of)))
    return evaluate_metered(
        program, rows, Metric(metric), lm=lm, adapter=adapter, num_threads=num_threads, seed=seed,
        stage=stage, meter=meter, emitter=emitter, stop=stop, on_row=on_row,
    )  # fmt: skip


def evaluate_metered(
    program: dspy.Module,
    rows: Sequence[dspy.Example],
    metric: Metric,
    *,
    lm: Any,
    adapter: dspy.Adapter | None,
    num_threads: int,
    seed: int,
    stage: Stage,
    meter: Meter,
    emitter: Emitter,
    stop: threading.Event | None,
    on_row: Callable[[Stage, RowResult], None] | None = None,
) -> Evaluation:
    """`evaluate` as one stage of a longer run, which shares its meter and emitter.

    `on_row` is told of every row as it comes, in the caller's thread. Also raises BudgetSpent, of the meter's limits.
    """
    if not rows:
        raise OptimizationError("There are no rows to evaluate on; give at least one.")
    if num_threads < 1:
        raise OptimizationError(f"num_threads is {num_threads}; expected at least 1.")
    metric.check(rows)
    started, before = time.perf_counter(), meter.usage
    finished: dict[int, RowResult] = {}
    total = 0.0
    emitter.start(stage, len(rows))

    def evaluation() -> Evaluation:
        results = tuple(finished[row] for row in sorted(finished))
        mean = estimate([result.score for result in results], seed=seed)
        return Evaluation(
            results=results,
            **_set_score(metric.set_metric, rows, results, mean, seed),
            errors=group_errors([(result.row, result.raised) for result in results]),
            usage=meter.usage - before,
            seconds=time.perf_counter() - started,
        )

    settings = {"trace": None, "disable_history": True, **({} if adapter is None else {"adapter": adapter})}
    with dspy.context(**settings), meter.watching(lm, program) as cheaply, quiet():
        call = meter.row_cost if cheaply else _plainly
        work = [_Row(number, example, program, metric, call) for number, example in enumerate(rows, start=1)]
        try:
            for result in _in_threads(work, num_threads, meter):
                finished[result.row] = result
                total += result.score
                if on_row is not None:
                    on_row(stage, result)
                emitter.progress(stage, len(finished), len(rows), score=total / len(finished))
        except (KeyboardInterrupt, StopRequested) as interruption:
            raise OptimizationInterrupted(
                f"Stopped after {len(finished)} of {len(rows)} rows.", partial=evaluation() if finished else None
            ) from interruption
        except Ended as ended:  # by `on_row`
            if isinstance(ended.cause, OptimizationError):
                ended.cause.partial = evaluation()
            raise ended.cause from None
        except DeadLM as dead:
            raise OptimizationError(
                f"The LM {_model(lm)} stopped answering after {len(finished)} of {len(rows)} rows: "
                f"{_describe(dead.cause)}"
            ) from dead.cause
    causes = [result.raised for result in finished.values() if result.raised is not None]
    if len(causes) == len(rows):
        raise OptimizationError(
            f"All {len(rows)} rows failed, so there is no score. The first: {_describe(causes[0])}"
        ) from causes[0]
    done = evaluation()
    emitter.finish(stage, len(rows), score=done.score.score)
    return done


def _set_score(
    metric: SetMetric | None,
    rows: Sequence[dspy.Example],
    results: Sequence[RowResult],
    mean: ScoreEstimate,
    seed: int,
) -> dict[str, Any]:
    if metric is None:
        return {"score": mean}
    observed = observations(
        metric, [rows[result.row - 1] for result in results], [result.prediction for result in results]
    )
    score = estimate_set(metric, observed, seed=seed)
    return {"score": score, "row_score": mean, "set_metric": metric, "observations": observed}


def group_errors(raised: Sequence[tuple[int | str | None, Exception | None]]) -> tuple[ErrorGroup, ...]:
    """The error table: one line per type of error, most frequent first, with the first of its kind."""
    found = [(row, error) for row, error in raised if error is not None]
    if all(isinstance(row, int) for row, _ in found):  # of an evaluation, whose rows come as they are done
        found.sort(key=lambda pair: cast(int, pair[0]))
    groups: dict[str, ErrorGroup] = {}
    for row, error in found:
        name = type(error).__name__
        if name in groups:
            groups[name] = replace(groups[name], count=groups[name].count + 1)
        else:
            groups[name] = ErrorGroup(
                type=name, count=1, row=row, example=_message(error), completion=_completion(error)
            )
    return tuple(sorted(groups.values(), key=lambda group: (-group.count, group.type)))


def _completion(error: Exception) -> str | None:
    """What the LM wrote, where that could not be read."""
    completion = getattr(error, "lm_response", None)
    return completion if isinstance(completion, str) else None


def _plainly(call: Callable[[], dspy.Prediction]) -> dspy.Prediction:
    return call()


@dataclass(frozen=True)
class _Row:
    number: int
    example: dspy.Example
    program: dspy.Module
    metric: Metric
    call: Callable[[Callable[[], dspy.Prediction]], dspy.Prediction]

    def run(self) -> RowResult:
        started = time.perf_counter()
        inputs = dict(self.example.inputs().items())
        prediction = scored = raised = None
        try:
            prediction = self.call(lambda: self.program(**inputs))
            scored = self.metric.score(self.example, prediction)
        except Exception as error:  # noqa: BLE001  # a row's failure costs that row; the error table has it
            prediction, scored, raised = None, None, _with_row(error, self.number)
        return RowResult(
            row=self.number,
            inputs=inputs,
            prediction=prediction,
            score=0.0 if scored is None else 100 * scored.score,
            feedback="" if scored is None else scored.feedback,
            parts={} if scored is None else {name: 100 * part for name, part in scored.parts.items()},
            error=None if raised is None else _describe(raised),
            seconds=time.perf_counter() - started,
            raised=raised,
        )


def _in_threads(work: Sequence[_Row], num_threads: int, meter: Meter) -> Iterator[RowResult]:
    """Results as they come. Ends at once when interrupted; a call already running is left to end by itself."""
    waiting: queue.SimpleQueue[_Row] = queue.SimpleQueue()
    for row in work:
        waiting.put(row)
    results: queue.SimpleQueue[RowResult | BaseException] = queue.SimpleQueue()
    halt, ending = threading.Event(), threading.Event()

    def worker() -> None:
        while not halt.is_set():
            try:
                results.put(waiting.get_nowait().run())
            except queue.Empty:
                break
            except BaseException as error:  # noqa: BLE001  # StopRequested, DeadLM and BudgetSpent end the run in the caller's thread
                results.put(error)
                break
        ending.set()

    for _ in range(min(num_threads, len(work))):
        # DSPy's settings live in context variables, which threads do not inherit; each thread needs its own copy.
        threading.Thread(target=contextvars.copy_context().run, args=(worker,), daemon=True).start()
    try:
        for number, _ in enumerate(work):
            try:
                if number and results.empty():  # the first is told at once
                    meter.check()
                    ending.wait(_TOGETHER)
                result = _next(results, meter)
            except BaseException:  # whatever ends the run, what was finished before counts
                halt.set()
                yield from _done(results)
                raise
            yield result
    finally:
        halt.set()


def _done(results: "queue.SimpleQueue[RowResult | BaseException]") -> Iterator[RowResult]:
    while True:
        try:
            result = results.get_nowait()
        except queue.Empty:
            return
        if isinstance(result, RowResult):
            yield result


def _next(results: "queue.SimpleQueue[RowResult | BaseException]", meter: Meter) -> RowResult:
    while True:
        meter.check()
        try:
            result = results.get(timeout=_POLL)
        except queue.Empty:
            continue
        if isinstance(result, BaseException):
            raise result
        return result


def _with_row(error: Exception, number: int) -> Exception:
    if isinstance(error, MetricError):
        return MetricError(f"Row {number}: {error}")
    return error


def _model(lm: Any) -> str:
    return repr(LMInfo.of(lm).model)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_message(error)}"


def _message(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else f"{text[:497]}..."


def _plain_or_repr(values: Mapping[str, Any]) -> Any:
    return to_jsonable_python(dict(values), inf_nan_mode="strings", fallback=repr)
