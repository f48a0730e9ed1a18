"""One way to write a value as plain JSON data, and one to write it on a short line."""

import json
from collections.abc import Callable
from typing import Any

from pydantic_core import to_jsonable_python

from dspy_toolkit.errors import DataError

__all__ = ["canonical_json", "describe", "plain", "shortened", "type_name"]


def plain(value: Any, *, fallback: Callable[[Any], Any] | None = None) -> Any:
    """A value as JSON has it: pydantic models as objects, dates as ISO text, sets sorted.

    `fallback` (`repr`, `type_name`) writes what JSON cannot hold; without one, raises DataError for such a value.
    NaN and infinities stay floats.
    """
    if isinstance(value, set | frozenset):
        return sorted((plain(item, fallback=fallback) for item in value), key=canonical_json)
    try:
        return to_jsonable_python(value, fallback=fallback)
    except (TypeError, ValueError) as error:
        raise DataError(f"A value of type {type(value).__name__} cannot be written as JSON: {error}") from error


def canonical_json(value: Any) -> bytes:
    """Plain data as JSON with sorted keys and no blanks: equal bytes for equal data."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def type_name(value: Any) -> str:
    """`<module.Class>`. A repr may hold an address, which differs in every process."""
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def shortened(value: Any, width: int = 60) -> str:
    """A text, or the repr of anything else, on one line, cut to `width` characters."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def describe(error: BaseException, width: int = 500) -> str:
    """`<type>: <message>`, the message on one line."""
    return f"{type(error).__name__}: {shortened(str(error), width)}"
