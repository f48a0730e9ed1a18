"""One optimization from data to result.

baseline on the test rows ──▶ search on train and validation ──▶ the same test rows again ──▶ paired comparison
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError, OptimizationError, OptimizationInterrupted, ToolkitError
from dspy_toolkit.metrics.metric import Metric, Score
from dspy_toolkit.optimize.context import ContextWindow
from dspy_toolkit.optimize.data import Splits, digest
from dspy_toolkit.optimize.evaluate import Evaluation, evaluate_metered, group_errors
from dspy_toolkit.optimize.events import Emitter, EventSink, Stage
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizers import check_parameters
from dspy_toolkit.optimize.plan import Plan, plan
from dspy_toolkit.optimize.quiet import quiet
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.scores import Comparison
from dspy_toolkit.optimize.set_scores import compare_evaluations
from dspy_toolkit.optimize.usage import DeadLM, Ended, Meter, StopRequested, interrupting

__all__ = ["optimize"]


def optimize(
    program: dspy.Module,
    *,
    data: Splits,
    metric: Metric | Callable[..., Any],
    optimizer: Callable[..., dspy.Module],
    optimizer_name: str = "",
    parameters: Mapping[str, Any] | None = None,
    lm: Any,
    adapter: dspy.Adapter | None = None,
    seed: int = 0,
    num_threads: int = 1,
    task: str = "",
    reason: str = "",
    connect: Callable[[str], Any] | None = None,
    on_event: EventSink | None = None,
    stop: threading.Event | None = None,
    planned: Plan | None = None,
) -> OptimizationResult:
    """Optimize `program`, which is left as it was. `optimizer` is what an OptimizerEntry's reference leads to.

    `reason` is why this optimizer, if it was chosen by `select_optimizer`; it is told as a note and is in the result.
    `connect` turns a model string into an LM, for optimizers with a parameter that names a second model. Demonstrations
    that do not fit the model's context are left out, the last first, and a note says so. `planned` is what `plan` said
    of this run; without it one is made here, without measuring. Events carry the calls it expects.

    Raises OptimizationError when a stage cannot be finished (the LM is gone, every row fails), with what was finished
    so far as `partial`; OptimizationInterrupted on Ctrl-C or when `stop` is set, likewise; UnknownNameError or
    SettingsError for a parameter that does not exist or has a bad value.
    """
    name = optimizer_name or getattr(optimizer, "__name__", type(optimizer).__name__)
    stop = stop or threading.Event()
    meter = Meter(stop)
    run = _Run(
        program=program,
        data=data,
        metric=_RecordingMetric(metric),
        optimizer=optimizer,
        optimizer_name=name,
        parameters=check_parameters(optimizer, name, parameters or {}),
        lm=lm,
        adapter=adapter,
        seed=seed,
        num_threads=num_threads,
        task=task,
        reason=reason,
        connect=connect,
        stop=stop,
        meter=meter,
        emitter=Emitter(on_event, meter),
    )
    run.metric.check([*data.train, *data.validation, *data.test])
    run.preflight()
    run.plan(planned)
    try:
        run.baseline = run.evaluate(program, "baseline")
        run.found = run.search()
        run.optimized = run.evaluate(run.found, "optimized")
        run.comparison = compare_evaluations(run.baseline, run.optimized, seed=seed)
    except KeyboardInterrupt as interruption:  # between two stages
        raise OptimizationInterrupted("Stopped.", partial=run.result()) from interruption
    except OptimizationError as error:
        if isinstance(error.partial, Evaluation) and run.baseline is None:
            run.baseline = error.partial
        error.partial = run.result()
        raise
    return run.result()


class _RecordingMetric(Metric):
    """The metric as optimizers are given it: DSPy swallows what a metric raises, so it is remembered here."""

    def __init__(self, metric: Metric | Callable[..., Any], **options: Any):
        super().__init__(metric, **options)
        self.raised: list[MetricError] = metric.raised if isinstance(metric, _RecordingMetric) else []

    def with_threshold(self, threshold: float) -> "_RecordingMetric":
        return _RecordingMetric(self, threshold=threshold)

    def score(self, *arguments: Any, **keywords: Any) -> Score:
        try:
            return super().score(*arguments, **keywords)
        except MetricError as error:
            self.raised.append(error)
            raise


@dataclass(kw_only=True)
class _Run:
    """The state of one run: what it was given, then what it has found."""

    program: dspy.Module
    data: Splits
    metric: _RecordingMetric
    optimizer: Callable[..., dspy.Module]
    optimizer_name: str
    parameters: dict[str, Any]
    lm: Any
    adapter: dspy.Adapter | None
    seed: int
    num_threads: int
    task: str
    reason: str
    connect: Callable[[str], Any] | None
    stop: threading.Event
    meter: Meter
    emitter: Emitter
    baseline: Evaluation | None = None
    found: dspy.Module | None = None
    optimized: Evaluation | None = None
    comparison: Comparison | None = None
    planned: Plan | None = None
    _notes: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def evaluate(self, program: dspy.Module, stage: Stage) -> Evaluation:
        return evaluate_metered(
            program,
            self.data.test,
            Metric(self.metric),
            lm=self.lm,
            adapter=self.adapter,
            num_threads=self.num_threads,
            seed=self.seed,
            stage=stage,
            meter=self.meter,
            emitter=self.emitter,
            stop=self.stop,
        )

    def preflight(self) -> None:
        """What makes the run pointless is said before any LM call."""
        check = getattr(self.optimizer, "preflight", None)
        if check is not None:
            with self._context():
                check(self.job(), **self.parameters)
        if self.reason:
            self.emitter.note("search", f"{self.optimizer_name}: {self.reason}")

    def plan(self, given: Plan | None) -> None:
        """Have progress and the record say what is expected."""
        self.planned = given
        if given is None:
            try:
                self.planned = plan(
                    self.program, data=self.data, metric=Metric(self.metric), optimizer=self.optimizer,
                    optimizer_name=self.optimizer_name, parameters=self.parameters, lm=self.lm, adapter=self.adapter,
                    seed=self.seed, num_threads=self.num_threads, task=self.task, reason=self.reason,
                    connect=self.connect, measure=False, checked=True,
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001  # a plugin's forecast or adapter; the run needs no plan
                self.emitter.note("search", f"This run could not be planned: {type(error).__name__}: {error}")
        if self.planned is not None and not self.planned.unknown:
            self.emitter.planned_calls = round(self.planned.total().calls.expected)

    def job(self) -> OptimizerJob:
        return OptimizerJob(
            program=self.program,
            train=self.data.train,
            validation=self.data.validation,
            metric=self.metric,
            lm=self.lm,
            seed=self.seed,
            num_threads=self.num_threads,
            stop=self.stop,
            on_report=self._reported,
            on_keep=self._kept,
            on_note=self._noted,
            connect=self.connect,
        )

    def search(self) -> dspy.Module:
        self.emitter.start("search", None, message=self.optimizer_name)
        self.meter.revive()
        try:
            with interrupting(self.meter), self.meter.counting(), self._context(), quiet():
                found = self.optimizer(self.job(), **self.parameters)
                if isinstance(found, dspy.Module):
                    found = self._fitting(found)
        except (KeyboardInterrupt, StopRequested) as interruption:
            raise OptimizationInterrupted("Stopped during the search.") from interruption
        except Ended as ended:
            raise ended.cause from None
        except DeadLM as dead:
            model = getattr(self.lm, "model", "")
            raise OptimizationError(
                f"The LM {model!r} stopped answering during the search: {type(dead.cause).__name__}: {dead.cause}"
            ) from dead.cause
        except ToolkitError:
            raise
        except Exception as error:  # an optimizer is a stranger's code; what the run has so far goes with the error
            raise OptimizationError(
                f"The optimizer {self.optimizer_name!r} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, dspy.Module):
            raise OptimizationError(
                f"The optimizer {self.optimizer_name!r} returned a {type(found).__name__}; expected a dspy.Module."
            )
        self.emitter.finish("search", self._done, score=None)
        return found

    _done: int = 0

    def _context(self) -> AbstractContextManager[None]:
        adapter = {} if self.adapter is None else {"adapter": self.adapter}
        return dspy.context(lm=self.lm, disable_history=True, **adapter)

    def _fitting(self, program: dspy.Module) -> dspy.Module:
        window = ContextWindow.of(self.lm)
        if window is None:
            return program
        return window.fit(program, self.data, note=self._noted)

    def _reported(self, done: int, total: int | None, score: float | None, message: str) -> None:
        self.meter.check()
        self._done = done
        with _sink():
            self.emitter.progress("search", done, total, score=score, message=message)

    def _kept(self, program: dspy.Module, score: float | None, message: str) -> None:
        self.meter.check()
        self.found = self._fitting(program)
        with _sink():
            self.emitter.candidate("search", self._done, None, score=score, message=message)

    def _noted(self, message: str) -> None:
        with self._lock:
            if message in self._notes:
                return
            self._notes.add(message)
        with _sink():
            self.emitter.note("search", message)

    def result(self) -> OptimizationResult:
        return OptimizationResult(
            program=self.found,
            task=self.task,
            model=str(getattr(self.lm, "model", type(self.lm).__name__)),
            optimizer=self.optimizer_name,
            reason=self.reason,
            parameters=self.parameters,
            metric=self.metric.name,
            seed=self.seed,
            data_digest=digest(self.data),
            rows=self.data.sizes,
            baseline_evaluation=self.baseline,
            optimized_evaluation=self.optimized,
            comparison=self.comparison,
            usage=self.meter.usage,
            errors=group_errors([(None, error) for error in self.metric.raised]),
            seconds=self.emitter.seconds,
        )


@contextmanager
def _sink() -> Iterator[None]:
    """What the event sink raises must end the run, and DSPy forgets the Exceptions of callbacks."""
    try:
        yield
    except Exception as error:  # a stranger's function; it is raised again by `search`
        raise Ended(error) from error
