"""One optimization from data to result.

baseline on the test rows ──▶ search on train and validation ──▶ the same test rows again ──▶ paired comparison
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError, OptimizationError, OptimizationInterrupted
from dspy_toolkit.metrics.metric import Metric, Score
from dspy_toolkit.optimize.data import Splits, digest
from dspy_toolkit.optimize.evaluate import Evaluation, evaluate_metered, group_errors
from dspy_toolkit.optimize.events import Emitter, EventSink, Stage
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizers import check_parameters
from dspy_toolkit.optimize.quiet import quiet
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.scores import Comparison
from dspy_toolkit.optimize.set_scores import compare_evaluations
from dspy_toolkit.optimize.usage import DeadLM, Meter, StopRequested

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
    on_event: EventSink | None = None,
    stop: threading.Event | None = None,
) -> OptimizationResult:
    """Optimize `program`, which is left as it was. `optimizer` is what an OptimizerEntry's reference leads to.

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
        stop=stop,
        meter=meter,
        emitter=Emitter(on_event, meter),
    )
    run.metric.check([*data.train, *data.validation, *data.test])
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
    stop: threading.Event
    meter: Meter
    emitter: Emitter
    baseline: Evaluation | None = None
    found: dspy.Module | None = None
    optimized: Evaluation | None = None
    comparison: Comparison | None = None
    raised: list[tuple[int | None, Exception | None]] = field(default_factory=list)

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

    def search(self) -> dspy.Module:
        job = OptimizerJob(
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
        )
        adapter = {} if self.adapter is None else {"adapter": self.adapter}
        self.emitter.start("search", None, message=self.optimizer_name)
        try:
            with self.meter.counting(), dspy.context(lm=self.lm, disable_history=True, **adapter), quiet():
                found = self.optimizer(job, **self.parameters)
        except (KeyboardInterrupt, StopRequested) as interruption:
            raise OptimizationInterrupted("Stopped during the search.") from interruption
        except DeadLM as dead:
            model = getattr(self.lm, "model", "")
            raise OptimizationError(
                f"The LM {model!r} stopped answering during the search: {type(dead.cause).__name__}: {dead.cause}"
            ) from dead.cause
        if not isinstance(found, dspy.Module):
            raise OptimizationError(
                f"The optimizer {self.optimizer_name!r} returned a {type(found).__name__}; expected a dspy.Module."
            )
        self.emitter.finish("search", self._done, score=None)
        return found

    _done: int = 0

    def _reported(self, done: int, total: int | None, score: float | None, message: str) -> None:
        self.meter.check()
        self._done = done
        self.emitter.progress("search", done, total, score=score, message=message)

    def _kept(self, program: dspy.Module, score: float | None, message: str) -> None:
        self.meter.check()
        self.found = program
        self.emitter.candidate("search", self._done, None, score=score, message=message)

    def result(self) -> OptimizationResult:
        return OptimizationResult(
            program=self.found,
            task=self.task,
            model=str(getattr(self.lm, "model", type(self.lm).__name__)),
            optimizer=self.optimizer_name,
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
