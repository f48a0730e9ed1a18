"""What a run is going to take, said before it begins: calls, tokens, minutes and money, each with a range.

the optimizer's forecast ─▶ calibration on training rows ─▶ forecast again, with what was measured ─▶ the plan
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dspy

from dspy_toolkit.data.splits import Splits
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, as_optimizer, parameter_values, parse_params
from dspy_toolkit.optimize.planning.amount import NOTHING, Amount
from dspy_toolkit.optimize.planning.calibration import Calibration, calibrate
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known
from dspy_toolkit.optimize.planning.pricing import Spending
from dspy_toolkit.optimize.planning.prompt_lengths import Lengths
from dspy_toolkit.values import plain

__all__ = ["Plan", "PlanRow", "plan"]

PlanStage = Literal["baseline", "search", "optimized"]


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One line of a plan. `calls` leaves out what the cache will answer. `seconds` is None where nothing was measured,
    `cost` (US dollars) where the model has no list price.
    """

    stage: PlanStage
    what: str
    model: str
    calls: Amount
    read: Amount
    written: Amount
    seconds: Amount | None = None
    cost: Amount | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        amounts = {"calls": self.calls, "input_tokens": self.read, "output_tokens": self.written}
        optional = {"seconds": self.seconds, "cost": self.cost}
        return {
            "stage": self.stage,
            "what": self.what,
            "model": self.model,
            **{name: amount.to_dict() for name, amount in amounts.items()},
            **{name: amount and amount.to_dict() for name, amount in optional.items()},
            "why": self.why,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run before it begins. `unknown` is why nothing can be said of the search, or empty. `measured` has what the
    calibration asked for, or is None without one.
    """

    task: str
    model: str
    optimizer: str
    reason: str
    parameters: Mapping[str, Any]
    rows: Mapping[str, int]
    num_threads: int
    lines: tuple[PlanRow, ...]
    notes: tuple[str, ...] = ()
    unknown: str = ""
    measured: Usage | None = None
    measured_seconds: float = 0.0

    def total(self, stage: PlanStage | None = None) -> PlanRow:
        """All lines, or those of a stage, as one; without the search where that is unknown."""
        lines = [line for line in self.lines if stage in (None, line.stage)]
        seconds = [line.seconds for line in lines if line.seconds is not None]
        costs = [line.cost for line in lines if line.cost is not None]
        return PlanRow(
            stage=stage or "search",
            what="total",
            model="",
            calls=sum((line.calls for line in lines), NOTHING),
            read=sum((line.read for line in lines), NOTHING),
            written=sum((line.written for line in lines), NOTHING),
            seconds=sum(seconds, NOTHING) if seconds else None,
            cost=sum(costs, NOTHING) if costs else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "task": self.task,
            "model": self.model,
            "optimizer": self.optimizer,
            "reason": self.reason,
            "parameters": plain(dict(self.parameters)),
            "rows": dict(self.rows),
            "num_threads": self.num_threads,
            "lines": [line.to_dict() for line in self.lines],
            "total": self.total().to_dict(),
            "notes": list(self.notes),
            "unknown": self.unknown,
            "measured": None if self.measured is None else {**vars(self.measured), "seconds": self.measured_seconds},
        }


def plan(
    program: dspy.Module,
    *,
    data: Splits,
    metric: Metric | Callable[..., Any],
    optimizer: Optimizer | Callable[..., dspy.Module],
    optimizer_name: str = "",
    parameters: Mapping[str, Any] | None = None,
    lm: Any,
    adapter: dspy.Adapter | None = None,
    seed: int = 0,
    num_threads: int = 1,
    task: str = "",
    reason: str = "",
    connect: Callable[[str], Any] | None = None,
    measure: bool = True,
    checked: bool = False,
) -> Plan:
    """What `optimize` with the same arguments will take.

    With `measure`, some training rows are run for about ten seconds, which gives calls and tokens per row, how often
    rows pass, and minutes. Without, tokens come from rendering the rows' prompts, and there are no minutes. `checked`
    says that the run's checks were made. Raises what `optimize` raises before its first call; a model that does not
    answer the calibration is a note in the plan.
    """
    name = optimizer_name or getattr(optimizer, "__name__", type(optimizer).__name__)
    metric = Metric(metric)
    optimizer = as_optimizer(optimizer, name=name)
    params = parse_params(optimizer, parameters or {}, name=name)
    if not checked:
        metric.check([*data.train, *data.validation, *data.test])
    notes: dict[str, None] = {}
    job = OptimizerJob(
        program=program, train=data.train, validation=data.validation, metric=metric, lm=lm, seed=seed,
        num_threads=num_threads, stop=threading.Event(), on_report=_ignored, on_keep=_ignored, on_note=notes.setdefault,
        connect=connect,
    )  # fmt: skip
    settings = {"lm": lm, **({} if adapter is None else {"adapter": adapter})}
    with dspy.context(**settings):
        if not checked:
            optimizer.check(job, params)
        forecast = optimizer.forecast(job, Known(), params)
        measured = None
        if measure:
            measured = _calibrated(job, adapter, forecast, notes)
            forecast = optimizer.forecast(job, measured.known if measured else Known(), params)
        lengths = Lengths.of(program, data.train, lm, adapter, measured)
        spending = Spending(lm=lm, lengths=lengths, measured=measured, num_threads=num_threads)
        lines = _lines(spending, data, forecast)
    return Plan(
        task=task,
        model=LMInfo.of(lm).model,
        optimizer=name,
        reason=reason,
        parameters=parameter_values(params),
        rows=data.sizes,
        num_threads=num_threads,
        lines=tuple(lines),
        notes=(*notes, *_limits(lm), *spending.notes),
        unknown="" if forecast is not None else f"the optimizer {name!r} does not say what it will ask for",
        measured=None if measured is None else measured.usage,
        measured_seconds=0.0 if measured is None else measured.seconds,
    )


def _calibrated(
    job: OptimizerJob, adapter: dspy.Adapter | None, forecast: Forecast | None, notes: dict[str, None]
) -> Calibration | None:
    work = () if forecast is None else forecast.work
    try:
        return calibrate(
            job.program,
            job.train,
            job.metric,
            lm=job.lm,
            adapter=adapter,
            num_threads=job.num_threads,
            seed=job.seed,
            labelled=round(max((each.labelled for each in work if each.in_turn), default=0)),
        )
    except OptimizationError as error:
        notes[f"Nothing could be measured, so there are no minutes here: {error}"] = None
        return None


def _lines(spending: Spending, data: Splits, forecast: Forecast | None) -> list[PlanRow]:
    test = Amount.of(len(data.test))
    why = f"the program on {len(data.test)} test rows"
    lines = [PlanRow(stage="baseline", what="baseline", why=why, **each) for each in spending.rollouts(test)]
    final = Final()
    if forecast is not None:
        final = forecast.final
        for work in forecast.work:
            lines += [PlanRow(stage="search", what=work.what, why=work.why, **each) for each in spending.of(work)]
        lines = _less_measured(lines, spending)
    # What does not change is measured a second time for nothing, if the LM has a cache.
    repeats = Amount(0, final.unchanged * len(data.test), len(data.test))
    after = spending.rollouts(
        test, made=final.made, labelled=final.labelled, programs=final.programs, repeats=repeats, instructed=True
    )
    programs = "" if final.programs == 1 else f", {final.programs} programs each"
    why = f"the result on the same {len(data.test)} rows{programs}"
    return [*lines, *(PlanRow(stage="optimized", what="optimized", why=why, **each) for each in after)]


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


def _limits(lm: Any) -> Sequence[str]:
    window = ContextWindow.of(lm)
    return () if window is None else (f"The model's context leaves {window.limit} tokens for a prompt.",)


def _ignored(*_: Any) -> None:
    """A plan has no progress and keeps nothing."""
