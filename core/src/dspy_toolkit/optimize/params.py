"""The parameters of an optimizer, and reading them from Python values or from the strings of a command line."""

from collections.abc import Mapping
from typing import Any

import pydantic_core
from pydantic import BaseModel, ConfigDict, ValidationError

from dspy_toolkit.errors import SettingsError, UnknownNameError

__all__ = ["OptimizerParams", "parameter_values", "parse_params"]


class OptimizerParams(BaseModel):
    """Base of an optimizer's parameters: each field has an annotation, a default and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())


def parse_params(optimizer: Any, values: Mapping[str, Any], *, name: str) -> Any:
    """The optimizer's `Params` with these values and its defaults for the rest.

    A string is read as the annotated type, as the command line gives it ("4", "true", "null", "[1, 2]"). Raises
    UnknownNameError for a parameter that does not exist, SettingsError for a value of the wrong type. `name` is the
    optimizer's in those messages.
    """
    model: type[BaseModel] = optimizer.Params
    for key in values:
        if key not in model.model_fields:
            raise UnknownNameError(f"parameter of the optimizer {name!r}", key, model.model_fields)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error
    invalid = {problem["loc"][0] for problem in first.errors() if problem["loc"]}
    try:
        return model.model_validate({key: _parsed(values[key]) if key in invalid else values[key] for key in values})
    except ValidationError as error:
        second = error
    # Of those that are still wrong, the message speaks of the value as it was given.
    still_invalid = [problem["loc"][:1] for problem in second.errors()]
    problem = next((problem for problem in first.errors() if problem["loc"][:1] in still_invalid), second.errors()[0])
    reason = problem["msg"][:1].lower() + problem["msg"][1:]
    if not problem["loc"]:
        raise SettingsError(f"The parameters of {name} do not go together: {reason}.") from second
    key = str(problem["loc"][0])
    raise SettingsError(f"The parameter {name}.{key} is {values[key]!r}; {reason}.") from second


def _parsed(value: Any) -> Any:
    """The value that a string holds as JSON, else the value."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return pydantic_core.from_json(value)
    except ValueError:
        return value


def parameter_values(params: BaseModel) -> dict[str, Any]:
    """All parameters by name, as Python values."""
    return {name: getattr(params, name) for name in type(params).model_fields}
