"""The state of one optimization and its stages; `optimize` in `run.py` is what makes one.

baseline on the test rows ──▶ search on train and validation ──▶ the same test rows again ──▶ paired comparison
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspy_toolkit.data.splits import Splits, digest
from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted, ToolkitError
from dspy_toolkit.evaluation.evaluate import Evaluation, RowResult, evaluate_metered, group_errors
from dspy_toolkit.evaluation.failures import Failures
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.limits import BudgetSpent
from dspy_toolkit.lm.meter import DeadLM, Ended, Meter, StopRequested, interrupting
from dspy_toolkit.lm.quiet import quiet
from dspy_toolkit.lm.usage import Call, Usage
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.budget import Budget, prompt_bytes, prompts
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, parameter_values
from dspy_toolkit.optimize.planning.plan import Plan, plan
from dspy_toolkit.optimize.result import OptimizationResult, ResultStatus
from dspy_toolkit.runs.events import Emitter, Event, EventSink, Stage
from dspy_toolkit.runs.history import Before
from dspy_toolkit.runs.identity import about, identity, state_of
from dspy_toolkit.runs.recorded_metric import RecordedMetric, Scores
from dspy_toolkit.runs.recorder import Recorder
from dspy_toolkit.stats.intervals import Comparison
from dspy_toolkit.stats.set_intervals import compare_evaluations

__all__ = ["Optimization", "Saved"]

Saved = tuple[str, str]
"""The version a program was stored as, `task@v3`, and the path of its bundle."""


@dataclass(kw_only=True)
class Optimization:
    """What a run was given, then what it has found."""

    program: dspy.Module
    data: Splits
    metric: RecordedMetric
    scores: Scores
    optimizer: Optimizer
    optimizer_name: str
    params: Any
    lm: Any
    adapter: dspy.Adapter | None
    seed: int
    num_threads: int
    task: str
    reason: str
    connect: Callable[[str], Any] | None
    stop: threading.Event
    budget: Budget
    failures: Failures
    before: Before | None
    record: Recorder
    on_event: EventSink | None
    save: Callable[[OptimizationResult], Saved] | None
    baseline: Evaluation | None = None
    found: dspy.Module | None = None
    optimized: Evaluation | None = None
    comparison: Comparison | None = None
    spent: BudgetSpent | None = None
    planned: Plan | None = None
    _candidates: int = 0
    _done: int = 0
    _notes: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.lm_info = LMInfo.of(self.lm)
        before = self.before
        self.meter = self._meter(lambda: before.usage if before else Usage(), before.seconds if before else 0.0)
        self._searching = self.meter  # which a budget may part from the meter of what comes after
        self.emitter = Emitter(self._tell, self.meter, run=self.id)

    @property
    def id(self) -> str:
        return self.record.journal.folder.name if self.record.journal is not None else ""

    @property
    def parameters(self) -> dict[str, Any]:
        return parameter_values(self.params)

    # --- the run

    def make(self, options: Mapping[str, Any]) -> OptimizationResult:
        """Everything, from the checks to the recorded end."""
        self.metric.check([*self.data.train, *self.data.validation, *self.data.test])
        self.preflight()
        self.plan()
        if self.record.journal is not None:
            asked = self._identity()
            if self.before is not None:
                self.before.check(self.id, asked)
            self.record.begin(asked, about(options))
            if self.planned is not None:
                self.record.plan(self.planned)
        try:
            self._stages()
        except KeyboardInterrupt as interruption:  # between two stages
            raise OptimizationInterrupted("Stopped.", partial=self.end("interrupted")) from interruption
        except OptimizationError as error:
            if isinstance(error.partial, Evaluation) and self.baseline is None:
                self.baseline = error.partial
            stopped = isinstance(error, OptimizationInterrupted)
            error.partial = self.end("interrupted" if stopped else "budget" if self.spent else "failed")
            raise
        except Exception:  # what a stranger's function raised goes to whoever gave it; the record says that it ended
            self.end("failed")
            raise
        return self.end("budget" if self.spent else "finished")

    def preflight(self) -> None:
        """What makes the run pointless is said before any LM call."""
        self.budget.check()
        if self.before is None:  # else some of it is in the cache
            self.budget.check_covers(self._prompts)
        with self._context():
            self.optimizer.check(self.job(), self.params)

    def plan(self) -> None:
        """Have progress and the record say what is expected."""
        if self.planned is None:
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

    def _stages(self) -> None:
        if self.reason:
            self.emitter.note("search", f"{self.optimizer_name}: {self.reason}")
        if self.record.journal is not None and self.lm_info.cache is False:
            self.emitter.note(
                "baseline", "This LM's answers are not kept (cache is off): going on with this run will ask again."
            )
        self.meter.limits = self.budget.baseline()
        try:
            self.baseline = self.evaluate(self.program, "baseline")
        except BudgetSpent as spent:
            self.spent = spent
            raise OptimizationError(
                f"The baseline alone needs more than the budget: {spent}. Give more, or draw fewer test rows."
            ) from None
        self.budget.measured(max(self.baseline.seconds, self.before.baseline_seconds if self.before else 0.0))
        self.meter.limits = self.budget.search()
        self.found = self.search()
        self.meter.limits = self.budget.limits
        self._measure()

    def _measure(self) -> None:
        """The result of the search on the test rows, and against the baseline."""
        assert self.found is not None
        assert self.baseline is not None
        if self.spent is not None and self._candidates == 0:
            # Nothing was found, so the program is the one that was measured.
            self.optimized = self.baseline
        else:
            try:
                self.optimized = self.evaluate(self.found, "optimized")
            except BudgetSpent as spent:
                self.spent = self.spent or spent
                self.emitter.note("optimized", f"The program found could not be measured: {spent}.")
                return
        self.comparison = compare_evaluations(self.baseline, self.optimized, seed=self.seed)

    def end(self, status: ResultStatus) -> OptimizationResult:
        """The result, stored and recorded."""
        result = self.result(status)
        version = bundle = None
        if self.save is not None and result.program is not None and status != "failed":
            try:
                version, bundle = self.save(result)
            except ToolkitError:
                self.record.end("failed", result.to_dict(), version=None, bundle=None)
                raise
        self.record.end(status, result.to_dict(), version=version, bundle=bundle)
        return result

    # --- stages

    def evaluate(self, program: dspy.Module, stage: Stage) -> Evaluation:
        self.record.stage = stage
        return evaluate_metered(
            program,
            self.data.test,
            RecordedMetric(self.metric, scores=self.scores),
            lm=self.lm,
            adapter=self.adapter,
            num_threads=self.num_threads,
            seed=self.seed,
            stage=stage,
            meter=self.meter,
            emitter=self.emitter,
            stop=self.stop,
            on_row=self._evaluated,
        )

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
            connect=self.connect and self._connected,
        )

    def search(self) -> dspy.Module:
        self.record.stage = "search"
        self.emitter.start("search", None, message=self.optimizer_name)
        self.meter.revive()
        try:
            with interrupting(self.meter), self.meter.counting(), self._context(), self._failing(), quiet():
                found = self.optimizer.compile(self.job(), self.params)
                if isinstance(found, dspy.Module):
                    found = self._fitting(found)
        except (KeyboardInterrupt, StopRequested) as interruption:
            raise OptimizationInterrupted("Stopped during the search.") from interruption
        except BudgetSpent as spent:
            found = self._best_so_far(spent)
        except Ended as ended:
            raise ended.cause from None
        except DeadLM as dead:
            raise OptimizationError(
                f"The LM {self.lm_info.model!r} stopped answering during the search: "
                f"{type(dead.cause).__name__}: {dead.cause}"
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

    def _best_so_far(self, spent: BudgetSpent) -> dspy.Module:
        """The search ends here, well: threads still at work get no further call, and the rest is for measuring."""
        self.spent = spent
        searching = self._searching
        searching.interrupt()
        self.meter = self.emitter.meter = self._meter(lambda: searching.committed, searching.seconds)
        what = "the best program so far is measured" if self.found is not None else "no program was found yet"
        self.emitter.note("search", f"The search ends, and {what}: {self.budget.share(spent)}.")
        return self.found if self.found is not None else self.program.deepcopy()

    # --- what the stages are told with

    def _meter(self, before: Callable[[], Usage], seconds: float) -> Meter:
        return Meter(
            self.stop, limits=self.budget.limits, on_call=self._called, earlier=before, earlier_seconds=seconds
        )

    def _context(self) -> AbstractContextManager[None]:
        adapter = {} if self.adapter is None else {"adapter": self.adapter}
        return dspy.context(lm=self.lm, disable_history=True, **adapter)

    def _failing(self) -> AbstractContextManager[None]:
        return dspy.context(callbacks=[*dspy.settings.get("callbacks", []), self.failures])

    def _fitting(self, program: dspy.Module) -> dspy.Module:
        window = ContextWindow.of(self.lm)
        if window is None:
            return program
        return window.fit(program, self.data, note=self._noted)

    def _connected(self, model: str) -> Any:
        assert self.connect is not None
        lm = self.connect(model)
        self.budget.check_price(lm)
        return lm

    def _tell(self, event: Event) -> None:
        self.record.event(event)
        if self.on_event is not None:
            self.on_event(event)
        journal = self.record.journal
        if journal is not None and (trouble := journal.take_trouble()):
            self.emitter.note(event.stage, trouble)

    def _called(self, call: Call) -> None:
        self.record.call(call)
        if self.record.stage == "baseline":
            self.budget.measure(call)

    def _evaluated(self, stage: Stage, row: RowResult) -> None:
        self.record.row(stage, row)
        if row.error is not None:
            self.failures.add(f"row {row.row}: {row.error}")

    def _reported(self, done: int, total: int | None, score: float | None, message: str) -> None:
        self._searching.check()
        self._done = done
        with _sink():
            self.emitter.progress("search", done, total, score=score, message=message)

    def _kept(self, program: dspy.Module, score: float | None, message: str) -> None:
        self._searching.check()
        found = self._fitting(program)
        with self._lock:
            self._candidates += 1
            self.record.candidate(self._candidates, score=score, message=message, state=lambda: state_of(found))
            self.found = found
        if self.budget.limited:
            self._keep_back(found)
        with _sink():
            self.emitter.candidate("search", self._done, None, score=score, message=message)

    def _prompts(self) -> Iterator[Sequence[Mapping[str, Any]]]:
        for row in self.data.test:
            yield from prompts(self.program, row, self.adapter)

    def _keep_back(self, program: dspy.Module) -> None:
        """Longer prompts, or more of them, take more when they are measured."""
        row = self.data.test[0]
        first = prompt_bytes(self.program, row, self.adapter)
        self.budget.found(prompt_bytes(program, row, self.adapter) / max(1, first))
        self.meter.limits = self.budget.search()

    def _noted(self, message: str) -> None:
        with self._lock:
            if message in self._notes:
                return
            self._notes.add(message)
        with _sink():
            self.emitter.note("search", message)

    def _identity(self) -> dict[str, Any]:
        return identity(
            program=self.program,
            data=self.data,
            metric=self.metric.name,
            optimizer=self.optimizer_name,
            parameters=self.parameters,
            lm=self.lm,
            adapter=self.adapter,
            seed=self.seed,
            task=self.task,
        )

    def result(self, status: ResultStatus) -> OptimizationResult:
        return OptimizationResult(
            program=self.found,
            task=self.task,
            model=self.lm_info.model,
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
            errors=group_errors(self.failures.found),
            seconds=self.meter.seconds,
            status=status,
            run=self.id,
            note="" if self.spent is None else self.budget.share(self.spent),
        )


@contextmanager
def _sink() -> Iterator[None]:
    """What the event sink raises must end the run, and DSPy forgets the Exceptions of callbacks."""
    try:
        yield
    except Exception as error:  # a stranger's function; it is raised again by `search`
        raise Ended(error) from error
