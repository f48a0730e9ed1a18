"""Typed values as plain JSON and back, with floats that JSON has no word for."""

import math
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

__all__ = ["decode", "encode"]

_FLOAT = "$float"
"""`{"$float": "nan"}`: a loss that diverged is a result like any other, and standard JSON cannot write it."""


def encode(adapter: TypeAdapter[Any], value: Any) -> Any:
    """The value as what `json.dumps` writes. Numbers and arrays of array libraries become plain numbers and lists.

    Raises ValueError for a value that is neither. Whether it has the adapter's type is checked by `decode`.
    """
    # In two steps, because pydantic's JSON mode writes an infinite float in an untyped field as null.
    python = adapter.dump_python(value, warnings="none")
    return _tag(to_jsonable_python(python, inf_nan_mode="constants", fallback=_plain))


def decode(adapter: TypeAdapter[Any], document: Any) -> Any:
    """The typed value in a document that `encode` made. Raises pydantic's ValidationError."""
    return adapter.validate_python(_untag(document))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"an object of type {type(value).__name__} cannot be written as JSON")


def _tag(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, dict):
        return {key: _tag(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tag(item) for item in value]
    return value


def _untag(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _untag(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_untag(item) for item in value]
    return value
