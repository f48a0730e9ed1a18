"""Going on with a run: with what it was begun with, and nothing else but a larger budget."""

from collections.abc import Mapping, Sequence
from typing import Any

from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted
from dspy_toolkit.framework.request import OptimizationRequest
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.optimize.optimizer import find_optimizer, load_optimizer, parameter_values, parse_params
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.runs.runs import Run, resume_command

__all__ = ["asked_again", "flag", "going_on", "shown"]


def asked_again(run: Run, plugins: PluginManager, request: OptimizationRequest) -> OptimizationRequest:
    """The request `run` was begun with. What `request` says must be the same, but for rows and metrics in hand, limits,
    threads and allowed errors, which win.

    Raises OptimizationError naming what was and what is given.
    """
    recorded = run.options
    _check_same(run, plugins, request)
    return OptimizationRequest(
        dataset=recorded.dataset if request.dataset is None else request.dataset,
        metrics=request.metrics or recorded.metrics,
        optimizer=recorded.optimizer,
        model=recorded.model,
        seed=recorded.seed,
        rows=recorded.rows,
        parameters=recorded.parameters,
        num_threads=request.num_threads or recorded.num_threads,
        limits=_larger(run, recorded.limits, request.limits),
        max_errors=recorded.max_errors if request.max_errors is None else request.max_errors,
    )


def _check_same(run: Run, plugins: PluginManager, request: OptimizationRequest) -> None:
    recorded, name = run.options, run.request.optimizer or ""
    optimizer = request.optimizer
    if optimizer not in (None, recorded.optimizer) and find_optimizer(plugins, optimizer).entry.name != name:
        raise _other(run, "optimizer", recorded.optimizer, optimizer)
    for option, was, value in (("model", recorded.model, request.model), ("seed", recorded.seed, request.seed)):
        if value is not None and value != was:
            raise _other(run, option, was, value)
    for set_name, count in request.rows.items():
        if count != recorded.rows.get(set_name):
            raise _other(run, f"rows {set_name}", recorded.rows.get(set_name, "all"), count)
    recorded_optimizer = load_optimizer(find_optimizer(plugins, name).entry)
    checked = parameter_values(parse_params(recorded_optimizer, request.parameters, name=name))
    for parameter, value in request.parameters.items():
        if checked[parameter] != run.request.parameters[parameter]:
            raise _other(run, f"param {parameter}", run.request.parameters[parameter], value)


def going_on(name: str, error: OptimizationError, stored: Sequence[str], task: str) -> OptimizationError:
    """The error, with what it leaves behind (versions `stored` of `task`) and the command that goes on from there."""
    partial = error.partial
    if not isinstance(partial, OptimizationResult) or not partial.run:
        return error
    typed = resume_command(name, partial.run)
    if not isinstance(error, OptimizationInterrupted):
        larger = " and a larger budget" if partial.status == "budget" else ""
        return OptimizationError(f"{error} Go on, once that is mended, with: {typed}{larger}", partial=partial)
    kept = "What is done is kept"
    if stored:
        kept += f", and the best program so far is {task}@{stored[-1]}, not yet measured"
    return OptimizationInterrupted(f"{error} {kept}. Go on with: {typed}", partial=partial)


def _larger(run: Run, had: Mapping[str, float], limits: Limits | None) -> Limits:
    now = {**had, **(limits.active() if limits else {})}
    if run.status == "budget" and not any(now[name] > had[name] for name in had):
        spent = ", ".join(f"{value:g} {name}" for name, value in had.items())
        name, value = next(iter(had.items()))
        raise OptimizationError(
            f"The budget of the run {run.id} is spent ({spent}); give a larger one to go on, for example "
            f"{flag(name)} {2 * shown(name, value):g}."
        )
    return Limits(**now)  # type: ignore[arg-type]  # JSON keeps whole numbers whole


def flag(limit: str) -> str:
    """The option of the command line for one of the limits."""
    return {"seconds": "--max-minutes"}.get(limit, f"--max-{limit}")


def shown(limit: str, value: float) -> float:
    """A limit's value as that option has it."""
    return value / 60 if limit == "seconds" else value


def _other(run: Run, what: str, had: Any, given: Any) -> OptimizationError:
    return OptimizationError(
        f"The run {run.id} was begun with {what} = {had}, and {given} is given. Leave it out to go on with that run, "
        "or leave out --resume to begin a new one."
    )
