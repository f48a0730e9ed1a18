"""Going on with a run: with what it was begun with, and nothing else but a larger budget."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted
from dspy_toolkit.optimize.limits import Limits
from dspy_toolkit.optimize.optimizers import check_parameters, find_optimizer
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.runs import Run
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.types import resolve

__all__ = ["asked_again", "asked_with", "command", "flag", "going_on", "limits_given", "rows_again", "shown"]


def asked_again(
    run: Run,
    plugins: PluginManager,
    *,
    optimizer: str | None,
    model: str | None,
    seed: int | None,
    rows: Mapping[str, int],
    parameters: Mapping[str, Any],
    num_threads: int | None,
    limits: Limits | None,
    max_errors: int | None,
) -> dict[str, Any]:
    """The options `run` was begun with, for `DSPyFramework.optimize_module`. Those given must be the same or None, but
    for limits, threads and allowed errors, which win.

    Raises OptimizationError naming what was and what is given.
    """
    had = run.about["options"]
    name = run.identity["optimizer"]
    if (
        optimizer is not None
        and optimizer != had["optimizer"]
        and find_optimizer(plugins, optimizer).entry.name != name
    ):
        raise _other(run, "optimizer", had["optimizer"], optimizer)
    for option, value in (("model", model), ("seed", seed)):
        if value is not None and value != had[option]:
            raise _other(run, option, had[option], value)
    for each, count in rows.items():
        if count != had["rows"].get(each):
            raise _other(run, f"rows {each}", had["rows"].get(each, "all"), count)
    function = resolve(find_optimizer(plugins, name).entry.optimizer)
    for each, value in check_parameters(function, name, parameters).items():
        if each in parameters and value != run.identity["parameters"][each]:
            raise _other(run, f"param {each}", run.identity["parameters"][each], parameters[each])
    return {
        "optimizer": had["optimizer"],
        "model": had["model"],
        "seed": had["seed"],
        "rows": had["rows"],
        "num_threads": num_threads or had["num_threads"],
        "limits": _larger(run, had.get("limits", {}), limits),
        "max_errors": had.get("max_errors") if max_errors is None else max_errors,
        **had["parameters"],
    }


def limits_given(limits: Limits | None) -> dict[str, float]:
    """Those that limit something."""
    return {name: value for name, value in asdict(limits or Limits()).items() if value is not None}


def asked_with(name: str, dataset: Any, metrics: Any) -> dict[str, Any]:
    """What a run was asked with, as far as it can be written down: rows in a file and metrics with names."""
    asked: dict[str, Any] = {"name": name}
    if isinstance(dataset, str | os.PathLike):
        asked["dataset"] = str(Path(dataset).absolute())
    named = [metrics] if isinstance(metrics, str) else metrics
    if isinstance(named, Sequence) and named and all(isinstance(metric, str) for metric in named):
        asked["metrics"] = list(named)
    return asked


def rows_again(run: Run, dataset: Any, metrics: Any) -> tuple[Any, Any]:
    """The rows and metrics that are given, or those `run` was begun with."""
    had = run.about["options"]
    return dataset if dataset is not None else had.get("dataset"), metrics or had.get("metrics")


def command(run: Run) -> str:
    """What to type to go on with a run."""
    return _command(run.about.get("options", {}).get("name", run.task), run.id)


def _command(name: str, run: str) -> str:
    return f"dspy-toolkit optimize {shlex.quote(name)} --resume {run}"


def going_on(name: str, error: OptimizationError, stored: Sequence[str], task: str) -> OptimizationError:
    """The error, with what it leaves behind (versions `stored` of `task`) and the command that goes on from there."""
    partial = error.partial
    if not isinstance(partial, OptimizationResult) or not partial.run:
        return error
    typed = _command(name, partial.run)
    if not isinstance(error, OptimizationInterrupted):
        larger = " and a larger budget" if partial.status == "budget" else ""
        return OptimizationError(f"{error} Go on, once that is mended, with: {typed}{larger}", partial=partial)
    kept = "What is done is kept"
    if stored:
        kept += f", and the best program so far is {task}@{stored[-1]}, not yet measured"
    return OptimizationInterrupted(f"{error} {kept}. Go on with: {typed}", partial=partial)


def _larger(run: Run, had: Mapping[str, float], limits: Limits | None) -> Limits:
    now = {**had, **limits_given(limits)}
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
