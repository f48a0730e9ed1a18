"""Text that every database takes: models answer with anything, and one bad character would hold back a whole run."""

import re
from typing import Any

__all__ = ["storable"]

# PostgreSQL has no NUL in a text; half of a surrogate pair is not UTF-8.
_REFUSED = re.compile("[\x00\ud800-\udfff]")


def storable(value: Any) -> Any:
    """Plain data with every character that cannot be stored replaced by U+FFFD."""
    if isinstance(value, str):
        return _REFUSED.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(each) for key, each in value.items()}
    return [storable(each) for each in value] if isinstance(value, list) else value
