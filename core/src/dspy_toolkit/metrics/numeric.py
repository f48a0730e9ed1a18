"""Numbers that may be a little off."""

import math
import re
from typing import Any

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.fields import FieldMetric

__all__ = ["NumericTolerance", "as_number", "numeric"]

_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?\Z")


class NumericTolerance(FieldMetric):
    """The share of the fields whose number is within max(absolute, relative * |label|) of the label.

    Text that is a number counts as one, with or without commas between thousands; what is no finite number scores 0.
    A label of 0 needs `absolute`. Keep the tolerance well below the spread of the labels, or the constant answer in
    their middle is right for most rows.
    """

    def __init__(self, *fields: str, relative: float = 0.01, absolute: float = 0.0):
        if not 0 <= relative < math.inf or not 0 <= absolute < math.inf:
            raise MetricError(f"relative is {relative} and absolute {absolute}; expected tolerances of 0 or more.")
        super().__init__(*fields)
        self._relative = relative
        self._absolute = absolute

    def compare(self, expected: Any, got: Any) -> float:
        wanted, found = as_number(expected), as_number(got)
        if wanted is None:
            raise MetricError(f"the label {expected!r} is no finite number")
        return float(found is not None and abs(found - wanted) <= max(self._absolute, self._relative * abs(wanted)))

    def describe(self, field: str, expected: Any, got: Any, score: float) -> str:
        found = as_number(got)
        if found is None:
            return f"{field!r} is {got!r}, which is no number; expected {expected!r}."
        off = found - (as_number(expected) or 0.0)
        verdict = "close enough to" if score else "too far from"
        return f"{field!r} is {got!r}, {verdict} the expected {expected!r} (off by {off:+.4g})."


numeric = NumericTolerance()


def as_number(value: Any) -> float | None:
    """The finite number that a value is or that a text spells, else None. True and False are no numbers."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip()
        if _GROUPED.match(value):
            value = value.replace(",", "")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
