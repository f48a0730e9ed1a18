"""Finding an optimizer by name and checking its parameters."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dspy_toolkit.errors import OptimizationError, PluginError, SettingsError, UnknownNameError
from dspy_toolkit.plugins import Found, PluginManager
from dspy_toolkit.types import OptimizerEntry

__all__ = ["check_parameters", "find_optimizer", "parameters_of"]

DSPY_NAMES = {
    "bettertogether": "core/better-together",
    "bootstrapfewshot": "core/bootstrap",
    "bootstrapfewshotwithrandomsearch": "core/random-search",
    "bootstraprs": "core/random-search",
    "copro": "core/copro",
    "ensemble": "core/ensemble",
    "gepa": "core/gepa",
    "knnfewshot": "core/knn",
    "labeledfewshot": "core/labeled",
    "miprov2": "core/mipro",
    "simba": "core/simba",
}
"""DSPy's class names, lower case, and what does the same here."""


def find_optimizer(plugins: PluginManager, name: str, *, project: str | None = None) -> Found[OptimizerEntry]:
    """The optimizer called `name`: `bootstrap`, `core/bootstrap`, or DSPy's own name `BootstrapFewShot`, in any case.

    Raises UnknownNameError, closest first, or DuplicateNameError.
    """
    entries = plugins.entries(OptimizerEntry)
    wanted = DSPY_NAMES.get(name.lower(), name)
    try:
        return plugins.get(OptimizerEntry, wanted, project=project)
    except UnknownNameError:
        same = [each for each in entries if wanted.lower() in (each.lower(), each.partition("/")[2].lower())]
        if len(same) == 1:
            return entries[same[0]]
        plain = {found.entry.name for found in entries.values()} | set(entries)
        raise UnknownNameError("optimizer", name, plain) from None


def parameters_of(optimizer: Callable[..., Any], name: str) -> dict[str, inspect.Parameter]:
    """An optimizer's keyword-only parameters. Raises PluginError when one has no annotation or no default."""
    parameters = {
        each.name: each
        for each in inspect.signature(optimizer, eval_str=True).parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for each in parameters.values():
        if inspect.Parameter.empty in (each.annotation, each.default):
            raise PluginError(
                f"The parameter {each.name!r} of the optimizer {name!r} needs an annotation and a default."
            )
    return parameters


def check_parameters(optimizer: Callable[..., Any], name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of an optimizer, defaults filled in, values converted to the annotated types.

    A string is read as the annotated type, as the command line gives it ("4", "true", "null", "[1, 2]"). Raises
    UnknownNameError for a parameter that does not exist, SettingsError for a value of the wrong type.
    """
    if not callable(optimizer):
        raise OptimizationError(f"The optimizer {name!r} is {optimizer!r}; expected a function of an OptimizerJob.")
    parameters = parameters_of(optimizer, name)
    for given in values:
        if given not in parameters:
            raise UnknownNameError(f"parameter of the optimizer {name!r}", given, parameters)
    return {
        key: _converted(values[key], each.annotation, f"{name}.{key}") if key in values else each.default
        for key, each in parameters.items()
    }


def _converted(value: Any, annotation: Any, where: str) -> Any:
    adapter = TypeAdapter(annotation)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error
    if isinstance(value, str | bytes):
        try:
            return adapter.validate_json(value)
        except ValidationError:
            pass  # the first message speaks of the value as it was given
    reason = problem.errors()[0]["msg"]
    raise SettingsError(f"The parameter {where} is {value!r}; {reason[:1].lower()}{reason[1:]}.") from problem
