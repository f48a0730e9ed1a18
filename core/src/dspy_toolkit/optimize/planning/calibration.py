"""A few seconds of the real program on training rows, to know what a rollout takes before a run is begun.

    a row alone (models load then) ─▶ a row alone ─▶ rows in all threads ─▶ rows in turn, with rows as demonstrations

The calls go through the LM's cache, so the run does not make them again; what the cache answers is not timed.
"""

import random
import threading
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
from dspy_toolkit.optimize.planning.forecast import Known

__all__ = ["Calibration", "Rollout", "Rollouts", "calibrate"]

ENOUGH = 8
"""So many rows of a kind tell enough."""


@dataclass(kw_only=True)
class Rollout:
    """What one row took. `calls` are the program's, `judging` the metric's; `demos` is what each predictor was asked
    and answered; `fresh` says that no answer came from the cache.
    """

    score: float = 0.0
    seconds: float = 0.0
    metric_seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)
    judging: list[Call] = field(default_factory=list)
    demos: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    error: Exception | None = None

    @property
    def fresh(self) -> bool:
        return bool(self.calls) and not any(call.cached for call in [*self.calls, *self.judging])


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
        return tuple(each.score for each in self.rollouts)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured: the program as it is, and with `labelled` rows as demonstrations."""

    bare: Rollouts
    shown: Rollouts
    labelled: int
    seconds: float
    usage: Usage

    @property
    def known(self) -> Known:
        return Known(bare=self.bare.scores, shown=self.shown.scores)

    @property
    def metric_seconds(self) -> float:
        return fmean(each.metric_seconds for each in (*self.bare.rollouts, *self.shown.rollouts))


_ROLLOUT: ContextVar[Rollout | None] = ContextVar("dspy_toolkit_rollout", default=None)
_JUDGING: ContextVar[bool] = ContextVar("dspy_toolkit_judging", default=False)


def calibrate(
    program: dspy.Module,
    rows: Sequence[dspy.Example],
    metric: Metric,
    *,
    lm: Any,
    adapter: dspy.Adapter | None,
    num_threads: int,
    seed: int,
    labelled: int = 0,
    seconds: float = 10.0,
    stop: threading.Event | None = None,
) -> Calibration:
    """Run `program` on some of `rows` until `seconds` are over (a row that has begun is finished) or enough is known.

    `labelled` is how many rows the search shows as demonstrations when it makes its own. Raises OptimizationError when
    no row could be done, with the first one's error as its cause.
    """
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    begun = time.perf_counter()
    meter = Meter(stop, on_call=_note)
    settings = {"trace": None, "disable_history": True, **({} if adapter is None else {"adapter": adapter})}
    try:
        with dspy.context(lm=lm, **settings), meter.counting(), quiet():
            # More than half of the time is kept for the rows with demonstrations, whose prompts are longer.
            half = begun + seconds * (0.5 if labelled else 1.0)
            bare = _measured(_Asking(program.deepcopy(), metric), rows, num_threads, until=half)
            shown = Rollouts()
            if labelled:
                taught = _Asking(_taught(program, rows, labelled), metric)
                shown = _measured(taught, rows, 1, until=begun + seconds)
    except DeadLM as dead:
        raise OptimizationError(f"{type(dead.cause).__name__}: {dead.cause}") from dead.cause
    except StopRequested:
        raise KeyboardInterrupt from None
    done = [*bare.rollouts, *shown.rollouts]
    if done and all(each.error is not None for each in done):
        raise OptimizationError(f"{type(done[0].error).__name__}: {done[0].error}") from done[0].error
    return Calibration(
        bare=bare,
        shown=shown,
        labelled=labelled,
        seconds=time.perf_counter() - begun,
        usage=meter.usage,
    )


def _note(call: Call) -> None:
    rollout = _ROLLOUT.get()
    if rollout is not None:
        (rollout.judging if _JUDGING.get() else rollout.calls).append(call)


@dataclass(frozen=True)
class _Asking:
    """A program and a metric, asked about one row at a time; from any thread."""

    program: dspy.Module
    metric: Metric

    def __call__(self, row: dspy.Example) -> Rollout:
        rollout = Rollout()
        token, begun = _ROLLOUT.set(rollout), time.perf_counter()
        try:
            with _without(self.program, row) as program, dspy.context(trace=[]):
                prediction = program(**row.inputs())
                rollout.demos = [(step[0].signature, {**step[1], **step[2]}) for step in dspy.settings.trace]
            self._score(rollout, row, prediction)
        except Exception as error:  # noqa: BLE001  # a row's failure costs that row, here as in the run
            rollout.error = error
        finally:
            rollout.seconds = time.perf_counter() - begun
            _ROLLOUT.reset(token)
        return rollout

    def _score(self, rollout: Rollout, row: dspy.Example, prediction: Any) -> None:
        token, begun = _JUDGING.set(True), time.perf_counter()
        try:
            rollout.score = self.metric.score(row, prediction).score
        finally:
            rollout.metric_seconds = time.perf_counter() - begun
            _JUDGING.reset(token)


@contextmanager
def _without(program: dspy.Module, row: dspy.Example) -> Iterator[dspy.Module]:
    """The program without `row` among its demonstrations, as BootstrapFewShot asks it."""
    if not any(row in predictor.demos for predictor in program.predictors()):
        yield program
        return
    copy = program.deepcopy()
    for predictor in copy.predictors():
        predictor.demos = [each for each in predictor.demos if each != row]
    yield copy


def _taught(program: dspy.Module, rows: list[dspy.Example], labelled: int) -> dspy.Module:
    """The program that makes demonstrations: DSPy's BootstrapFewShot asks this one."""
    copy = program.reset_copy()
    copy._compiled = False
    return dspy.LabeledFewShot(k=labelled).compile(copy, trainset=rows)


def _measured(ask: _Asking, rows: Sequence[dspy.Example], threads: int, *, until: float) -> Rollouts:
    done: list[Rollout] = []
    waiting = list(rows[:ENOUGH])
    alone: list[float] = []
    for _ in range(2 if threads > 1 else ENOUGH):
        if waiting and (not done or time.perf_counter() < until):
            done.append(ask(waiting.pop(0)))
            if done[-1].fresh:
                alone.append(done[-1].seconds)
    together: list[float] = []
    while waiting and time.perf_counter() < until:
        batch, waiting = waiting[:threads], waiting[threads:]
        begun = time.perf_counter()
        got = _at_once(ask, batch, threads)
        done += got
        if all(each.fresh for each in got) and len(batch) == threads:
            together.append((time.perf_counter() - begun) / len(batch))
    # The first one alone also loads the model; it counts only if there is no other.
    in_turn = fmean(alone[1:] or alone) if alone else None
    at_once = in_turn if threads == 1 else fmean(together) if together else None
    return Rollouts(rollouts=tuple(done), in_turn=in_turn, at_once=at_once)


def _at_once(ask: _Asking, batch: Sequence[dspy.Example], threads: int) -> list[Rollout]:
    # DSPy's settings live in context variables, which threads do not inherit; each call needs its own copy.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: pair[0].run(ask, pair[1]), [(copy_context(), row) for row in batch]))
