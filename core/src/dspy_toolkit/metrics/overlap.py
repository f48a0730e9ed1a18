"""Fields that hold several things in no order: tags, entities, files to change."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.fields import FieldMetric, normalized
from dspy_toolkit.values import plain

__all__ = ["SetOverlap", "set_f1"]

Measure = Literal["f1", "jaccard", "precision", "recall"]


class SetOverlap(FieldMetric):
    """How much the set in the field has in common with the set in the label, averaged over the fields.

    With A things predicted, B labelled and C in both: precision C/A, recall C/B, jaccard C/(A+B-C), f1 2C/(A+B). Two
    empty sets score 1, one empty set 0. Order and repetition do not matter; texts are compared after SQuAD's
    normalisation, everything else as plain JSON data. A field that holds no list or set is a set of one thing; None is
    empty. Recall alone is 1 for an answer that lists everything, and precision alone for one that lists a single sure
    thing; f1 and jaccard give neither away.
    """

    def __init__(self, *fields: str, measure: Measure = "f1"):
        if measure not in ("f1", "jaccard", "precision", "recall"):
            raise MetricError(f"measure is {measure!r}; expected 'f1', 'jaccard', 'precision' or 'recall'.")
        super().__init__(*fields)
        self._measure = measure

    def compare(self, expected: Any, got: Any) -> float:
        wanted, found = set(_items(expected)), set(_items(got))
        shared = len(wanted & found)
        if not wanted or not found:
            return float(wanted == found)
        if self._measure == "precision":
            return shared / len(found)
        if self._measure == "recall":
            return shared / len(wanted)
        if self._measure == "jaccard":
            return shared / len(wanted | found)
        return 2 * shared / (len(wanted) + len(found))

    def describe(self, field: str, expected: Any, got: Any, score: float) -> str:
        wanted, found = _items(expected), _items(got)
        missing = [wanted[key] for key in wanted if key not in found]
        surplus = [found[key] for key in found if key not in wanted]
        if not missing and not surplus:
            return f"{field!r} is right."
        lacks = f" lacks {', '.join(map(repr, missing))}" if missing else ""
        has = f" has {', '.join(map(repr, surplus))} too much" if surplus else ""
        return f"{field!r}{lacks}{' and' if lacks and has else ''}{has}."


set_f1 = SetOverlap()


def _items(value: Any) -> dict[str, Any]:
    """What is in a set, by what makes two things equal."""
    if value is None:
        return {}
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) and not _is_model(value)
    items = {}
    for item in value if several else [value]:
        items.setdefault(_key(item), item)
    return items


def _key(item: Any) -> str:
    if isinstance(item, str):
        return f"'{normalized(item) or item.strip()}"
    data = plain(item)
    return json.dumps(int(data) if isinstance(data, float) and data.is_integer() else data, sort_keys=True)


def _is_model(value: Any) -> bool:
    return hasattr(type(value), "model_fields")  # pydantic's models iterate over their fields
