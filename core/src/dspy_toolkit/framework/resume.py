"""Resuming a run by name: with the options it was begun with, and nothing else but a larger budget."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dspy

from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted
from dspy_toolkit.framework.options import RunOptions
from dspy_toolkit.framework.resources import Model, default_model
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.optimize.optimizer import named_optimizer, optimizer_name, parameter_values, parse_params
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.runs.runs import Run, resume_command

__all__ = ["limit_flag", "limit_value", "resume_error", "resumed_options"]


def resumed_options(run: Run, plugins: PluginManager, options: RunOptions) -> RunOptions:
    """The options `run` was begun with. Those of `options` must be the same, but for rows and metrics in hand, limits,
    threads and allowed errors, which win.

    Raises OptimizationError naming both values.
    """
    recorded = run.options
    _check_same(run, plugins, options)
    return replace(
        options,
        dataset=recorded.dataset if options.dataset is None else options.dataset,
        metrics=options.metrics or recorded.metrics,
        optimizer=recorded.optimizer if isinstance(options.optimizer, str | None) else options.optimizer,
        model=_model(recorded.model, options.model),
        seed=recorded.seed,
        rows=recorded.rows,
        parameters=recorded.parameters,
        num_threads=options.num_threads or recorded.num_threads,
        limits=_larger(run, recorded.limits, options.limits),
        max_errors=recorded.max_errors if options.max_errors is None else options.max_errors,
        resume=run.id,
    )


def _model(recorded: str | None, requested: Model) -> Model:
    """An LM in hand or in DSPy's settings if it is the recorded model, else its name."""
    for model in (requested, default_model()):
        if isinstance(model, dspy.BaseLM) and LMInfo.of(model).model == recorded:
            return model
    return recorded


def _check_same(run: Run, plugins: PluginManager, options: RunOptions) -> None:
    recorded, name = run.options, run.request.optimizer or ""
    optimizer = recorded.optimizer if options.optimizer is None else options.optimizer
    if optimizer != recorded.optimizer and named_optimizer(plugins, optimizer)[0] != name:
        raise _different(run, "optimizer", recorded.optimizer, optimizer_name(optimizer))
    for option, was, value in (("model", recorded.model, options.model), ("seed", recorded.seed, options.seed)):
        requested = value if isinstance(value, str | int | None) else LMInfo.of(value).model
        if requested is not None and requested != was:
            raise _different(run, option, was, requested)
    for subset, count in options.rows.items():
        if count != recorded.rows.get(subset):
            raise _different(run, f"rows {subset}", recorded.rows.get(subset, "all"), count)
    _, checked = named_optimizer(plugins, name if isinstance(optimizer, str | None) else optimizer)
    values = parameter_values(parse_params(checked, options.parameters, name=name))
    for parameter, value in options.parameters.items():
        if values[parameter] != run.request.parameters[parameter]:
            raise _different(run, f"param {parameter}", run.request.parameters[parameter], value)


def resume_error(name: str, error: OptimizationError, stored: str) -> OptimizationError:
    """The error, with the version that is `stored`, if any, and the command that resumes the run."""
    partial = error.partial
    if not isinstance(partial, OptimizationResult) or not partial.run:
        return error
    command = resume_command(name, partial.run)
    if not isinstance(error, OptimizationInterrupted):
        larger = " and a larger budget" if partial.status == "budget" else ""
        return OptimizationError(f"{error} Fix the cause, then resume with: {command}{larger}", partial=partial)
    recorded = "What is finished is recorded"
    if stored:
        recorded += f", and the best program so far is {stored}, not yet measured"
    return OptimizationInterrupted(f"{error} {recorded}. Resume with: {command}", partial=partial)


def _larger(run: Run, recorded: Mapping[str, float], limits: Limits | None) -> Limits:
    larger = {**recorded, **(limits.active() if limits else {})}
    if run.status == "budget" and not any(larger[name] > recorded[name] for name in recorded):
        spent = ", ".join(f"{value:g} {name}" for name, value in recorded.items())
        name, value = next(iter(recorded.items()))
        raise OptimizationError(
            f"The budget of the run {run.id} is spent ({spent}); resume it with a larger one, for example "
            f"{limit_flag(name)} {2 * limit_value(name, value):g}."
        )
    return Limits(**larger)  # type: ignore[arg-type]  # JSON keeps whole numbers whole


def limit_flag(limit: str) -> str:
    """The option of the command line for one of the limits."""
    return {"seconds": "--max-minutes"}.get(limit, f"--max-{limit}")


def limit_value(limit: str, value: float) -> float:
    """A limit's value in that option's unit."""
    return value / 60 if limit == "seconds" else value


def _different(run: Run, option: str, recorded: Any, requested: Any) -> OptimizationError:
    return OptimizationError(
        f"The run {run.id} was begun with {option} = {recorded}, not {requested}. Leave it out to resume that run, or "
        "leave out --resume to begin a new one."
    )
