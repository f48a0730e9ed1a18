"""One optimization, from its spec to its result.

baseline on the test rows ──▶ search on train and validation ──▶ the same test rows again ──▶ paired comparison
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dspy

from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted, ToolkitError
from dspy_toolkit.evaluation.comparison import compare_evaluations
from dspy_toolkit.evaluation.evaluate import EvaluationControls, RunStage, evaluate
from dspy_toolkit.evaluation.failures import Failures
from dspy_toolkit.evaluation.results import Evaluation, RowResult, group_errors
from dspy_toolkit.lm.limits import BudgetSpent
from dspy_toolkit.lm.meter import DeadLM, Ended, Meter, StopRequested, interrupting
from dspy_toolkit.lm.quiet import quiet
from dspy_toolkit.lm.usage import Call, Usage
from dspy_toolkit.optimize.budget import Budget
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.planning.planner import plan
from dspy_toolkit.optimize.result import OptimizationResult, ResultStatus
from dspy_toolkit.optimize.spec import RunControls, RunSpec
from dspy_toolkit.programs.own_lms import unpinned
from dspy_toolkit.runs.emitter import Emitter
from dspy_toolkit.runs.events import Event, Stage
from dspy_toolkit.runs.history import RunHistory
from dspy_toolkit.runs.identity import about, state_of
from dspy_toolkit.runs.metric_digest import metric_digest
from dspy_toolkit.runs.recorded_metric import RecordedMetric, Scores
from dspy_toolkit.runs.recorder import Recorder
from dspy_toolkit.runs.records import EndRecord, PlanRecord, RunStarted
from dspy_toolkit.stats.intervals import Comparison

__all__ = ["Optimization", "optimize"]


def optimize(spec: RunSpec, controls: RunControls | None = None) -> OptimizationResult:
    """Optimize `spec.program`, and measure it and the result on the test rows.

    Demonstrations that do not fit the model's context are left out, the last first, and a note says so. A journal that
    holds an unfinished run of the same spec resumes it: answers come from DSPy's cache, the metric's results from the
    journal.

    Raises OptimizationError when a stage cannot be finished (the LM is gone, every row fails), with what was finished
    so far as `partial`, or when the journal holds another run; OptimizationInterrupted on Ctrl-C or when
    `controls.stop` is set, likewise.
    """
    return Optimization(spec, controls or RunControls()).run()


class Optimization:
    """The state of one run. `best` is the program the search has handed over last, `spent` the limit that ended it."""

    def __init__(self, spec: RunSpec, controls: RunControls):
        self.spec = spec
        self.controls = controls
        journal = controls.journal
        self.id = "" if journal is None else journal.folder.name
        self.resumed = None if journal is None else RunHistory.of(journal)
        self.recorder = Recorder(journal)
        self.scores = Scores(journal, "" if journal is None else metric_digest(spec.metric))
        self.failures = Failures(controls.max_errors, spec.data)
        self.metric = RecordedMetric(spec.metric, scores=self.scores, on_error=self.failures.metric_raised)
        self.budget = Budget(spec, controls.limits)
        resumed = self.resumed
        self.meter = self._new_meter((lambda: resumed.usage) if resumed else Usage, resumed.seconds if resumed else 0.0)
        self.emitter = Emitter(self._on_event, self.meter, run=self.id)
        self.plan: Plan | None = controls.plan
        self.baseline: Evaluation | None = None
        self.best: dspy.Module | None = None
        self.optimized: Evaluation | None = None
        self.comparison: Comparison | None = None
        self.spent: BudgetSpent | None = None
        self._search_meter = self.meter  # what comes after a search that a budget ended has a meter of its own
        self._candidates = 0
        self._steps = 0
        self._notes: set[str] = set()
        self._lock = threading.Lock()

    # --- the run

    def run(self) -> OptimizationResult:
        """Everything, from the checks to the recorded end."""
        self.check()
        self.make_plan()
        if self.controls.journal is not None:
            identity = self.spec.identity()
            if self.resumed is not None:
                self.resumed.check(self.id, identity)
            self.recorder.begin(RunStarted(identity=identity), about(self.controls.options))
            if self.scores.outdated:
                self.emitter.note(
                    "baseline",
                    f"The metric {self.metric.name} is not the one this run was begun with: its {self.scores.outdated} "
                    "recorded results do not count, and rows are scored anew; the LM's answers are kept.",
                )
            if self.plan is not None:
                self.recorder.plan(PlanRecord(plan=self.plan.to_dict()))
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

    def check(self) -> None:
        """Raise what makes the run pointless before any LM call."""
        data = self.spec.data
        self.metric.check([*data.train, *data.validation, *data.test])
        self.budget.check()
        if self.resumed is None:  # else some of it is in the cache
            self.budget.check_covers_evaluations()
        with self.spec.context():
            self.spec.optimizer.check(self.job(), self.spec.params)

    def make_plan(self) -> None:
        """The plan that progress and the record show, unless there is one."""
        if self.plan is None:
            try:
                self.plan = plan(self.spec, self.controls, measure=False, checked=True)
            except Exception as error:  # noqa: BLE001  # a plugin's forecast or adapter; the run needs no plan
                self.emitter.note("search", f"This run could not be planned: {type(error).__name__}: {error}")
        if self.plan is not None and not self.plan.unknown:
            self.emitter.planned_calls = round(self.plan.total().calls.expected)

    def _stages(self) -> None:
        for note in (*self.controls.notes, *self._model_notes()):
            self.emitter.note("baseline", note)
        if self.spec.reason:
            self.emitter.note("search", f"{self.spec.optimizer_name}: {self.spec.reason}")
        if self.controls.journal is not None and self.spec.lm_info.cache is False:
            self.emitter.note(
                "baseline", "This LM's answers are not cached (cache is off), so resuming this run asks it again."
            )
        self.meter.limits = self.budget.baseline()
        try:
            self.baseline = self.evaluate(self.spec.program, "baseline")
        except BudgetSpent as spent:
            self.spent = spent
            raise OptimizationError(
                f"The baseline alone needs more than the budget: {spent}. Give more, or draw fewer test rows."
            ) from None
        self.budget.record_baseline(max(self.baseline.seconds, self.resumed.baseline_seconds if self.resumed else 0.0))
        self.meter.limits = self.budget.search()
        self.best = self.search()
        self.meter.limits = self.controls.limits
        self._evaluate_best(self.best, self.baseline)

    def _model_notes(self) -> list[str]:
        models = ", ".join(f"{name}: {model}" for name, model in self.spec.models.items())
        return [f"Predictors with models of their own, in every stage: {models}."] if models else []

    def _evaluate_best(self, best: dspy.Module, baseline: Evaluation) -> None:
        if self.spent is not None and self._candidates == 0:
            self.optimized = baseline  # of the same program
        else:
            try:
                self.optimized = self.evaluate(best, "optimized")
            except BudgetSpent as spent:
                self.spent = self.spent or spent
                self.emitter.note("optimized", f"The best program could not be measured: {spent}.")
                return
        self.comparison = compare_evaluations(baseline, self.optimized, seed=self.spec.seed)

    def end(self, status: ResultStatus) -> OptimizationResult:
        """The result, stored and recorded."""
        result = self.result(status)
        version = bundle = None
        if self.controls.save is not None and result.program is not None and status != "failed":
            try:
                version, bundle = self.controls.save(result)
            except ToolkitError:
                self.recorder.end(EndRecord(status="failed", result=result.to_dict()))
                raise
        self.recorder.end(EndRecord(status=status, result=result.to_dict(), version=version, bundle=bundle))
        return result

    def result(self, status: ResultStatus) -> OptimizationResult:
        spec = self.spec
        return OptimizationResult(
            program=self.best,
            task=spec.task,
            model=spec.model,
            models=spec.models,
            optimizer=spec.optimizer_name,
            reason=spec.reason,
            parameters=spec.parameters,
            metric=spec.metric_name,
            seed=spec.seed,
            data_digest=spec.data_digest,
            rows=spec.data.sizes,
            baseline_evaluation=self.baseline,
            optimized_evaluation=self.optimized,
            comparison=self.comparison,
            usage=self.meter.usage,
            errors=group_errors(self.failures.found),
            seconds=self.meter.seconds,
            status=status,
            run=self.id,
            note="" if self.spent is None else self.budget.explain(self.spent),
        )

    # --- stages

    def evaluate(self, program: dspy.Module, stage: Stage) -> Evaluation:
        self.recorder.stage = stage
        shared = RunStage(name=stage, meter=self.meter, emitter=self.emitter, on_row=self._on_row)
        return evaluate(
            program,
            self.spec.data.test,
            RecordedMetric(self.metric, scores=self.scores),
            lm=self.spec.lm,
            adapter=self.spec.adapter,
            seed=self.spec.seed,
            controls=EvaluationControls(num_threads=self.controls.num_threads, stage=shared),
        )

    def job(self) -> OptimizerJob:
        return OptimizerJob(
            program=self.spec.search_program,
            train=self.spec.data.train,
            validation=self.spec.data.validation,
            metric=self.metric,
            lm=self.spec.lm,
            seed=self.spec.seed,
            num_threads=self.controls.num_threads,
            stop=self.controls.stop,
            on_report=self._on_report,
            on_keep=self._on_keep,
            on_note=self._on_note,
            connect=self.controls.connect and self._connect,
        )

    def search(self) -> dspy.Module:
        self.recorder.stage = "search"
        name = self.spec.optimizer_name
        self.emitter.start("search", None, message=name)
        self.meter.revive()
        try:
            with interrupting(self.meter), self.meter.counting(), self.spec.context(), self._failing(), quiet():
                best = self.spec.optimizer.compile(self.job(), self.spec.params)
                if isinstance(best, dspy.Module):
                    best = self._fit(unpinned(best))
        except (KeyboardInterrupt, StopRequested) as interruption:
            raise OptimizationInterrupted("Stopped during the search.") from interruption
        except BudgetSpent as spent:
            best = self._best_so_far(spent)
        except Ended as ended:
            raise ended.cause from None
        except DeadLM as dead:
            raise OptimizationError(
                f"The LM {self.spec.model!r} stopped answering during the search: "
                f"{type(dead.cause).__name__}: {dead.cause}"
            ) from dead.cause
        except ToolkitError:
            raise
        except Exception as error:  # an optimizer is a stranger's code; what the run has so far goes with the error
            raise OptimizationError(f"The optimizer {name!r} failed: {type(error).__name__}: {error}") from error
        if not isinstance(best, dspy.Module):
            raise OptimizationError(f"The optimizer {name!r} returned a {type(best).__name__}; expected a dspy.Module.")
        self.emitter.finish("search", self._steps, score=None)
        return best

    def _best_so_far(self, spent: BudgetSpent) -> dspy.Module:
        """End the search for its budget: threads still at work get no further call, and the rest is for measuring."""
        self.spent = spent
        searching = self._search_meter
        searching.interrupt()
        self.meter = self.emitter.meter = self._new_meter(lambda: searching.committed, searching.seconds)
        what = "the best program so far is measured" if self.best is not None else "there is no candidate yet"
        self.emitter.note("search", f"The search ends, and {what}: {self.budget.explain(spent)}.")
        return self.best if self.best is not None else self.spec.program.deepcopy()

    # --- called by the stages

    def _new_meter(self, earlier: Callable[[], Usage], seconds: float) -> Meter:
        return Meter(
            self.controls.stop,
            limits=self.controls.limits,
            on_call=self._on_call,
            earlier=earlier,
            earlier_seconds=seconds,
        )

    def _failing(self) -> AbstractContextManager[None]:
        return dspy.context(callbacks=[*dspy.settings.get("callbacks", []), self.failures])  # the meter is one

    def _fit(self, program: dspy.Module) -> dspy.Module:
        window = self.spec.window
        return program if window is None else window.fit(program, self.spec.data, note=self._on_note)

    def _connect(self, model: str) -> Any:
        assert self.controls.connect is not None
        lm = self.controls.connect(model)
        self.budget.check_price(lm)
        return lm

    def _on_event(self, event: Event) -> None:
        self.recorder.event(event)
        if self.controls.on_event is not None:
            self.controls.on_event(event)
        journal = self.controls.journal
        if journal is not None and (trouble := journal.take_trouble()):
            self.emitter.note(event.stage, trouble)

    def _on_call(self, call: Call) -> None:
        self.recorder.call(call)
        if self.recorder.stage == "baseline":
            self.budget.record_call(call)

    def _on_row(self, stage: Stage, row: RowResult) -> None:
        self.recorder.row(row.record(stage))
        if row.error is not None:
            self.failures.add(f"row {row.row}: {row.error}")

    def _on_report(self, done: int, total: int | None, score: float | None, message: str) -> None:
        self._search_meter.check()
        self._steps = done
        with _ending():
            self.emitter.progress("search", done, total, score=score, message=message)

    def _on_keep(self, program: dspy.Module, score: float | None, message: str) -> None:
        self._search_meter.check()
        candidate = self._fit(unpinned(program))
        with self._lock:
            self._candidates += 1
            self.recorder.candidate(self._candidates, score=score, message=message, state=lambda: state_of(candidate))
            self.best = candidate
        if self.budget.limited:
            self.budget.scale_reserve(candidate)
            self.meter.limits = self.budget.search()
        with _ending():
            self.emitter.candidate("search", self._steps, None, score=score, message=message)

    def _on_note(self, message: str) -> None:
        with self._lock:
            if message in self._notes:
                return
            self._notes.add(message)
        with _ending():
            self.emitter.note("search", message)


@contextmanager
def _ending() -> Iterator[None]:
    """End the run for what a subscriber raises: DSPy ignores the Exceptions of callbacks."""
    try:
        yield
    except Exception as error:  # a stranger's function; `search` raises it again
        raise Ended(error) from error
