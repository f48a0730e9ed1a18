"""One optimization from data to result."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import dspy

from dspy_toolkit.data.splits import Splits
from dspy_toolkit.evaluation.failures import Failures
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.budget import Budget
from dspy_toolkit.optimize.optimization import Optimization, Saved
from dspy_toolkit.optimize.optimizer import Optimizer, as_optimizer, parse_params
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.runs.history import Before
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.recorded_metric import RecordedMetric, Scores
from dspy_toolkit.runs.recorder import Recorder

__all__ = ["Saved", "optimize"]


def optimize(
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
    on_event: EventSink | None = None,
    stop: threading.Event | None = None,
    limits: Limits | None = None,
    max_errors: int | None = None,
    journal: Journal | None = None,
    options: Mapping[str, Any] | None = None,
    save: Callable[[OptimizationResult], Saved] | None = None,
    planned: Plan | None = None,
) -> OptimizationResult:
    """Optimize `program`, which is left as it was. `optimizer` is what an OptimizerEntry's reference leads to.

    `reason` is why this optimizer, if it was chosen by `select_optimizer`; it is told as a note and is in the result.
    `connect` turns a model string into an LM, for optimizers with a parameter that names a second model. Demonstrations
    that do not fit the model's context are left out, the last first, and a note says so.

    `limits` are those of the whole run; when the search has spent its share the best program so far is measured and is
    the result. More than `max_errors` failing rows end the run; None allows any number. What happens is written to
    `journal`, with `options`, which are what would ask for the run again; one that holds an unfinished run is gone on
    with: answers come from DSPy's cache and the metric's results from the journal. `save` is called with a result that
    has a program, finished or interrupted, before its end is recorded. `planned` is what `plan` said of this run;
    without it one is made here, without measuring. Events carry the calls it expects, the journal has all of it.

    Raises OptimizationError when a stage cannot be finished (the LM is gone, every row fails), with what was finished
    so far as `partial`, or when `journal` holds another run; OptimizationInterrupted on Ctrl-C or when `stop` is set,
    likewise; UnknownNameError or SettingsError for a parameter that does not exist or has a bad value.
    """
    name = optimizer_name or getattr(optimizer, "__name__", type(optimizer).__name__)
    optimizer = as_optimizer(optimizer, name=name)
    params = parse_params(optimizer, parameters or {}, name=name)
    before = Before.of(journal) if journal is not None else None
    failures = Failures(max_errors, data)
    scores = Scores(journal)
    budget = Budget(
        limits or Limits(),
        lm=lm,
        rows=len(data.test),
        predictors=len(program.predictors()),
        times=optimizer.rollouts_per_row(params),
    )
    run = Optimization(
        program=program,
        data=data,
        metric=RecordedMetric(metric, scores=scores, on_error=failures.metric_raised),
        scores=scores,
        optimizer=optimizer,
        optimizer_name=name,
        params=params,
        lm=lm,
        adapter=adapter,
        seed=seed,
        num_threads=num_threads,
        task=task,
        reason=reason,
        connect=connect,
        stop=stop or threading.Event(),
        budget=budget,
        failures=failures,
        before=before,
        record=Recorder(journal),
        on_event=on_event,
        save=save,
        planned=planned,
    )
    return run.make(options or {})
