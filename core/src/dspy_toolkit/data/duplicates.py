"""When two rows are the same row."""

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["deduplicate", "normal_form"]

T = TypeVar("T")

_TRAILING = re.compile(r"[\s.?!]+\Z")


def normal_form(value: Any, *, loose: bool = False) -> Any:
    """Plain JSON data with its texts in one form: Unicode's NFC, single blanks, none around.

    `loose` is for telling whether a row was copied: compatibility forms (NFKC), upper and lower case, and the full
    stops, question and exclamation marks at the end make no difference either.
    """
    if isinstance(value, str):
        text = " ".join(unicodedata.normalize("NFKC" if loose else "NFC", value).split())
        return (_TRAILING.sub("", text).casefold() or text) if loose else text
    if isinstance(value, Mapping):
        return {key: normal_form(item, loose=loose) for key, item in value.items()}
    if isinstance(value, list):
        return [normal_form(item, loose=loose) for item in value]
    return value


def deduplicate(rows: Iterable[T], key: Callable[[T], Hashable]) -> tuple[list[T], int]:
    """The first of all rows with equal keys, in order, and how many others there were."""
    unique: dict[Hashable, T] = {}
    total = 0
    for row in rows:
        total += 1
        unique.setdefault(key(row), row)
    return list(unique.values()), total - len(unique)
