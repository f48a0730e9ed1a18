"""Making a plan: what a run is going to take.

the optimizer's forecast ─▶ calibration on training rows ─▶ forecast again, with what was measured ─▶ the plan
"""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from dspy_toolkit.data.splits import Splits
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.calibration import Calibration, calibrate
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work
from dspy_toolkit.optimize.planning.plan import Plan, PlanRow, PlanStage
from dspy_toolkit.optimize.planning.pricing import Spending
from dspy_toolkit.optimize.planning.prompt_lengths import Lengths
from dspy_toolkit.optimize.spec import RunControls, RunSpec

__all__ = ["plan"]


def plan(spec: RunSpec, controls: RunControls | None = None, *, measure: bool = True, checked: bool = False) -> Plan:
    """What `optimize(spec, controls)` will take.

    With `measure`, some training rows are run for about ten seconds, which gives calls and tokens per row, how often
    rows pass, and minutes. Without, tokens come from rendering the rows' prompts, and there are no minutes. `checked`
    says that the run's checks were made. Raises what `optimize` raises before its first call; a model that does not
    answer the calibration is a note in the plan.
    """
    controls = controls or RunControls()
    data, metric = spec.data, Metric(spec.metric)
    if not checked:
        metric.check([*data.train, *data.validation, *data.test])
    notes: dict[str, None] = {}
    job = OptimizerJob(
        program=spec.search_program, train=data.train, validation=data.validation, metric=metric, lm=spec.lm,
        seed=spec.seed, num_threads=controls.num_threads, stop=threading.Event(), on_report=_ignored, on_keep=_ignored,
        on_note=notes.setdefault, connect=controls.connect,
    )  # fmt: skip
    with spec.context():
        if not checked:
            spec.optimizer.check(job, spec.params)
        forecast = spec.optimizer.forecast(job, TrainingScores(), spec.params)
        measured = None
        if measure:
            measured = _calibrated(job, spec.adapter, forecast, notes)
            forecast = spec.optimizer.forecast(job, measured.scores if measured else TrainingScores(), spec.params)
        lengths = Lengths.of(spec.program, data.train, spec.lm, spec.adapter, measured)
        spending = Spending(lm=spec.lm, lengths=lengths, measured=measured, num_threads=controls.num_threads)
        lines = _lines(spending, data, forecast)
    name = spec.optimizer_name
    return Plan(
        task=spec.task,
        model=spec.model,
        optimizer=name,
        reason=spec.reason,
        parameters=spec.parameters,
        rows=data.sizes,
        num_threads=controls.num_threads,
        lines=tuple(lines),
        notes=(*notes, *_limits(spec), *spending.notes),
        unknown="" if forecast is not None else f"the optimizer {name!r} does not say what it will ask for",
        measured=None if measured is None else measured.usage,
        measured_seconds=0.0 if measured is None else measured.seconds,
    )


def _calibrated(
    job: OptimizerJob, adapter: dspy.Adapter | None, forecast: Forecast | None, notes: dict[str, None]
) -> Calibration | None:
    work = () if forecast is None else forecast.work
    demos = round(max((step.demos for step in work if step.in_turn), default=0))
    try:
        return calibrate(job, adapter, demos=demos)
    except OptimizationError as error:
        notes[f"Nothing could be measured, so there are no minutes here: {error}"] = None
        return None


def _lines(spending: Spending, data: Splits, forecast: Forecast | None) -> list[PlanRow]:
    rows = len(data.test)
    search = () if forecast is None else forecast.work
    final = Final() if forecast is None else forecast.final
    programs = "" if final.programs == 1 else f", {final.programs} programs each"
    baseline = Work(what="baseline", rollouts=Amount.of(rows), why=f"the program on {rows} test rows")
    # What does not change is measured a second time for nothing, if the LM has a cache.
    optimized = Work(
        what="optimized",
        rollouts=Amount.of(rows),
        demos=final.demos,
        repeats=Amount(0, final.unchanged * rows, rows),
        why=f"the result on the same {rows} rows{programs}",
    )
    instructed = any(work.calls for work in search)
    lines = [_row("search", work, line) for work in search for line in spending.of(work, instructed=instructed)]
    return [
        *(_row("baseline", baseline, line) for line in spending.of(baseline)),
        *_less_measured(lines, spending),
        *(
            _row("optimized", optimized, line)
            for line in spending.of(optimized, instructed=True, programs=final.programs)
        ),
    ]


def _row(stage: PlanStage, work: Work, line: Mapping[str, Any]) -> PlanRow:
    return PlanRow(stage=stage, what=work.what, why=work.why, **line)


def _less_measured(lines: list[PlanRow], spending: Spending) -> list[PlanRow]:
    """What the calibration asked may come from the cache in the search: that much less at least."""
    if not spending.cached or spending.measured is None:
        return lines
    used = spending.measured.usage
    less = {"calls": used.lm_calls, "read": used.input_tokens, "written": used.output_tokens}
    for number, line in enumerate(lines):
        if line.stage == "search" and line.model == spending.model:
            now = {name: getattr(line, name) - Amount(0, 0, most) for name, most in less.items()}
            return [*lines[:number], dataclasses.replace(line, **now), *lines[number + 1 :]]
    return lines


def _limits(spec: RunSpec) -> Sequence[str]:
    window = spec.window
    return () if window is None else (f"The model's context leaves {window.limit} tokens for a prompt.",)


def _ignored(*_: Any) -> None:
    """A plan has no progress and stores nothing."""
