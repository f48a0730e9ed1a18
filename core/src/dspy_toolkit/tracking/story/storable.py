"""Text that every database takes: models answer with anything, and one bad character would hold back a whole run."""

import re
from dataclasses import replace
from typing import Any

from dspy_toolkit.runs.wire import Record

__all__ = ["storable", "storable_record"]

# PostgreSQL has no NUL in a text; half of a surrogate pair is not UTF-8.
_REFUSED = re.compile("[\x00\ud800-\udfff]")


def storable_record(record: Record) -> Any:
    """The record with `storable` values."""
    return replace(record, **storable(vars(record)))  # type: ignore[type-var]  # every record is a dataclass


def storable(value: Any) -> Any:
    """Plain data with every character that cannot be stored replaced by U+FFFD."""
    if isinstance(value, str):
        return _REFUSED.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value
