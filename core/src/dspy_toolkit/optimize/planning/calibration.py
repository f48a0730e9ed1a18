"""A few seconds of the real program on training rows, to know what a rollout takes before a run is begun.

    a row alone (models load then) ─▶ a row alone ─▶ rows in all threads ─▶ rows in turn, with rows as demonstrations

The calls go through the LM's cache, so the run does not make them again; what the cache answers is not timed.
"""

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import dspy

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.meter import DeadLM, Meter, StopRequested
from dspy_toolkit.lm.quiet import quiet
from dspy_toolkit.lm.usage import Call, Usage
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.planning.forecast import TrainingScores

__all__ = ["Calibration", "Rollout", "Rollouts", "calibrate"]

MAX_ROWS = 8
"""Rows of a kind that are measured, at most."""


@dataclass(kw_only=True)
class Rollout:
    """What one row took. `calls` are the program's, `metric_calls` the metric's; `demos` is what each predictor was
    asked and answered; `uncached` says that no answer came from the cache.
    """

    score: float = 0.0
    seconds: float = 0.0
    metric_seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)
    metric_calls: list[Call] = field(default_factory=list)
    demos: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    error: Exception | None = None

    @property
    def uncached(self) -> bool:
        return bool(self.calls) and not any(call.cached for call in [*self.calls, *self.metric_calls])


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Rollouts of one kind. `in_turn` and `at_once` are seconds per rollout, one after the other and in all threads;
    None where that was not measured.
    """

    rollouts: tuple[Rollout, ...] = ()
    in_turn: float | None = None
    at_once: float | None = None

    @property
    def scores(self) -> tuple[float, ...]:
        return tuple(rollout.score for rollout in self.rollouts)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured: the program as it is, and with rows as demonstrations."""

    plain: Rollouts
    with_demos: Rollouts
    seconds: float
    usage: Usage

    @property
    def scores(self) -> TrainingScores:
        return TrainingScores(plain=self.plain.scores, with_demos=self.with_demos.scores)

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        return (*self.plain.rollouts, *self.with_demos.rollouts)


_ROLLOUT: ContextVar[Rollout | None] = ContextVar("dspy_toolkit_rollout", default=None)
_IN_METRIC: ContextVar[bool] = ContextVar("dspy_toolkit_in_metric", default=False)


def calibrate(job: OptimizerJob, adapter: dspy.Adapter | None, *, demos: int = 0, seconds: float = 10.0) -> Calibration:
    """Run the job's program on some training rows until `seconds` are over (a row that has begun is finished) or
    MAX_ROWS of a kind were measured.

    `demos` is how many rows the search shows as demonstrations when it makes its own. Raises OptimizationError when
    every row failed, with the first one's error as its cause.
    """
    rows = list(job.train)
    random.Random(job.seed).shuffle(rows)
    started = time.perf_counter()
    meter = Meter(job.stop, on_call=_record_call)
    settings = {"trace": [], "disable_history": True, **({} if adapter is None else {"adapter": adapter})}
    try:
        with dspy.context(lm=job.lm, **settings), meter.counting(), quiet():
            # Half of the time is reserved for the rows with demonstrations, whose prompts are longer.
            half = started + seconds * (0.5 if demos else 1.0)
            plain = _measure(_Runner(job.program.deepcopy(), job.metric), rows, job.num_threads, until=half)
            with_demos = Rollouts()
            if demos:
                runner = _Runner(_with_labelled_demos(job.program, rows, demos), job.metric)
                with_demos = _measure(runner, rows, 1, until=started + seconds)
    except DeadLM as dead:
        raise OptimizationError(f"{type(dead.cause).__name__}: {dead.cause}") from dead.cause
    except StopRequested:
        raise KeyboardInterrupt from None
    elapsed = time.perf_counter() - started
    calibration = Calibration(plain=plain, with_demos=with_demos, seconds=elapsed, usage=meter.usage)
    errors = [rollout.error for rollout in calibration.rollouts]
    if errors and all(errors):
        raise OptimizationError(f"{type(errors[0]).__name__}: {errors[0]}") from errors[0]
    return calibration


def _record_call(call: Call) -> None:
    rollout = _ROLLOUT.get()
    if rollout is not None:
        (rollout.metric_calls if _IN_METRIC.get() else rollout.calls).append(call)


@dataclass(frozen=True)
class _Runner:
    """Runs a program and a metric on one row at a time; from any thread."""

    program: dspy.Module
    metric: Metric

    def __call__(self, row: dspy.Example) -> Rollout:
        rollout = Rollout()
        token, started = _ROLLOUT.set(rollout), time.perf_counter()
        try:
            with _without_demo(self.program, row) as program, dspy.context(trace=[]):
                prediction = program(**row.inputs())
                rollout.demos = [(step[0].signature, {**step[1], **step[2]}) for step in dspy.settings.trace]
            self._score(rollout, row, prediction)
        except Exception as error:  # noqa: BLE001  # a row's failure costs that row, here as in the run
            rollout.error = error
        finally:
            rollout.seconds = time.perf_counter() - started
            _ROLLOUT.reset(token)
        return rollout

    def _score(self, rollout: Rollout, row: dspy.Example, prediction: Any) -> None:
        token, started = _IN_METRIC.set(True), time.perf_counter()
        try:
            rollout.score = self.metric.score(row, prediction).score
        finally:
            rollout.metric_seconds = time.perf_counter() - started
            _IN_METRIC.reset(token)


@contextmanager
def _without_demo(program: dspy.Module, row: dspy.Example) -> Iterator[dspy.Module]:
    """The program without `row` among its demonstrations, as BootstrapFewShot runs it."""
    if not any(row in predictor.demos for predictor in program.predictors()):
        yield program
        return
    copy = program.deepcopy()
    for predictor in copy.predictors():
        predictor.demos = [demo for demo in predictor.demos if demo != row]
    yield copy


def _with_labelled_demos(program: dspy.Module, rows: list[dspy.Example], count: int) -> dspy.Module:
    """The program that makes demonstrations: DSPy's BootstrapFewShot runs this one."""
    copy = program.reset_copy()
    copy._compiled = False
    return dspy.LabeledFewShot(k=count).compile(copy, trainset=rows)


def _measure(run: _Runner, rows: Sequence[dspy.Example], threads: int, *, until: float) -> Rollouts:
    rollouts: list[Rollout] = []
    waiting = list(rows[:MAX_ROWS])
    alone: list[float] = []
    for _ in range(2 if threads > 1 else MAX_ROWS):
        if waiting and (not rollouts or time.perf_counter() < until):
            rollouts.append(run(waiting.pop(0)))
            if rollouts[-1].uncached:
                alone.append(rollouts[-1].seconds)
    together: list[float] = []
    while waiting and time.perf_counter() < until:
        batch, waiting = waiting[:threads], waiting[threads:]
        started = time.perf_counter()
        parallel = _in_parallel(run, batch, threads)
        rollouts += parallel
        if all(rollout.uncached for rollout in parallel) and len(batch) == threads:
            together.append((time.perf_counter() - started) / len(batch))
    # The first one alone also loads the model; it counts only if there is no other.
    in_turn = fmean(alone[1:] or alone) if alone else None
    at_once = in_turn if threads == 1 else fmean(together) if together else None
    return Rollouts(rollouts=tuple(rollouts), in_turn=in_turn, at_once=at_once)


def _in_parallel(run: _Runner, batch: Sequence[dspy.Example], threads: int) -> list[Rollout]:
    # DSPy's settings live in context variables, which threads do not inherit; each call needs its own copy.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: pair[0].run(run, pair[1]), [(copy_context(), row) for row in batch]))
