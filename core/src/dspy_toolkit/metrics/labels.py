"""Precision, recall and F1 of one labelled field over a set of predictions, as scikit-learn defines them.

A row that failed, or whose prediction lacks the field, is a miss for its label and belongs to no predicted label.
Where a quotient is 0/0 it counts as 0 (scikit-learn's `zero_division=0`).
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dspy

from dspy_toolkit.errors import DataError, MetricError
from dspy_toolkit.metrics.fields import check_labels, labelled_fields
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.metrics.set_metric import SetMetric
from dspy_toolkit.values import plain

__all__ = [
    "F1",
    "Average",
    "LabelCounts",
    "Precision",
    "Recall",
    "by_label",
    "label_key",
    "label_text",
    "macro_f1",
    "weighted_f1",
]

Average = Literal["macro", "weighted", "micro"]

_NOTHING = None  # the predicted label of a row that failed


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """How often a label was predicted rightly, is in the rows, and was predicted at all."""

    right: int = 0
    labelled: int = 0
    predicted: int = 0

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.labelled if self.labelled else 0.0

    @property
    def f1(self) -> float:
        both = self.labelled + self.predicted
        return 2 * self.right / both if both else 0.0


class _LabelMetric(SetMetric):
    """`field` may be left out where the rows have one labelled field.

    `average`: "macro" is the mean over labels, so that a rare label counts as much as a frequent one and a constant
    answer scores badly; "weighted" weighs labels by how often the rows have them; "micro" counts all labels together.
    `labels` are those averaged over; by default all that occur, in rows or predictions. `positive` asks for the score
    of that one label instead of an average.
    """

    def __init__(
        self,
        field: str | None = None,
        *,
        average: Average = "macro",
        labels: Sequence[Any] | None = None,
        positive: Any = None,
    ):
        if average not in ("macro", "weighted", "micro"):
            raise MetricError(f"average is {average!r}; expected 'macro', 'weighted' or 'micro'.")
        if positive is not None and labels is not None:
            raise MetricError("Give either `positive`, for the score of one label, or `labels`, to average over them.")
        self._fields = () if field is None else (field,)
        self._average = average
        self._labels = None if labels is None else tuple(dict.fromkeys(label_key(label) for label in labels))
        self._positive = None if positive is None else label_key(positive)
        kind = average if positive is None else f"of {positive!r}"
        self.__name__ = f"{type(self).__name__}({', '.join([*self._fields, kind])})"

    def measure(self, counts: LabelCounts) -> float:
        raise NotImplementedError

    def row(self, gold: dspy.Example, pred: dspy.Prediction) -> Score:
        field = self._field(gold)
        if field not in pred:
            return Score(score=0.0, feedback=f"The prediction has no {field!r}; expected {gold[field]!r}.")
        if label_key(gold[field]) == label_key(pred[field]):
            return Score(score=1.0, feedback=f"{field!r} is right.")
        return Score(score=0.0, feedback=f"{field!r} is {pred[field]!r}; expected {gold[field]!r}.")

    def observe(self, gold: dspy.Example, pred: dspy.Prediction | None) -> tuple[Hashable, Hashable]:
        field = self._field(gold)
        got = _NOTHING if pred is None or field not in pred else label_key(pred[field])
        return label_key(gold[field]), got

    def over(self, counts: Mapping[Any, int]) -> float:
        table = by_label(counts)
        if self._positive is not None:
            return self.measure(table.get(self._positive, LabelCounts()))
        labels = [table.get(label, LabelCounts()) for label in (table if self._labels is None else self._labels)]
        if self._average == "micro":
            return self.measure(_sum(labels))
        if self._average == "macro":
            return _quotient(sum(map(self.measure, labels)), len(labels))
        weight = sum(label.labelled for label in labels)
        return _quotient(sum(label.labelled * self.measure(label) for label in labels), weight)

    def check(self, rows: Iterable[dspy.Example]) -> None:
        rows = list(rows)
        check_labels(self.__name__, rows, self._fields)
        try:
            there = {label_key(row[self._field(row)]): row[self._field(row)] for row in rows}
        except MetricError as error:
            raise DataError(f"The metric {self.__name__} cannot score these rows: {error}") from error
        for wanted in [self._positive] if self._positive is not None else self._labels or ():
            if rows and wanted not in there:
                have = ", ".join(sorted(repr(value) for value in there.values())[:10])
                raise DataError(
                    f"The metric {self.__name__} asks for the label {label_text(wanted)}, which no row has; "
                    f"the rows have: {have}."
                )

    def _field(self, gold: dspy.Example) -> str:
        field, *others = fields = labelled_fields(gold, self._fields)
        if others:
            raise MetricError(
                f"the rows have several labelled fields ({', '.join(fields)}); name the one to score, as in "
                f"{type(self).__name__}({field!r})"
            )
        return field


class Precision(_LabelMetric):
    """Of the rows given a label, the share that have it. For one `positive` label it rises when that label is only
    given where it is certain; F1 does not.
    """

    def measure(self, counts: LabelCounts) -> float:
        return counts.precision


class Recall(_LabelMetric):
    """Of the rows that have a label, the share given it; the macro average is also called balanced accuracy. For one
    `positive` label the constant answer has recall 1: use F1.
    """

    def measure(self, counts: LabelCounts) -> float:
        return counts.recall


class F1(_LabelMetric):
    """The harmonic mean of each label's precision and recall, averaged."""

    def measure(self, counts: LabelCounts) -> float:
        return counts.f1


macro_f1 = F1()
weighted_f1 = F1(average="weighted")


def by_label(counts: Mapping[tuple[Hashable, Hashable], int]) -> dict[Hashable, LabelCounts]:
    """The counts of each label, from how often each pair (label, predicted label) occurs."""
    right: dict[Hashable, int] = {}
    labelled: dict[Hashable, int] = {}
    predicted: dict[Hashable, int] = {}
    for (expected, got), count in counts.items():
        labelled[expected] = labelled.get(expected, 0) + count
        if got is not _NOTHING:
            predicted[got] = predicted.get(got, 0) + count
        if expected == got:
            right[expected] = right.get(expected, 0) + count
    return {
        label: LabelCounts(
            right=right.get(label, 0), labelled=labelled.get(label, 0), predicted=predicted.get(label, 0)
        )
        for label in dict.fromkeys([*labelled, *predicted])
    }


def _sum(labels: Iterable[LabelCounts]) -> LabelCounts:
    labels = list(labels)
    return LabelCounts(
        right=sum(label.right for label in labels),
        labelled=sum(label.labelled for label in labels),
        predicted=sum(label.predicted for label in labels),
    )


def _quotient(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else 0.0


def label_key(value: Any) -> Hashable:
    """Text as it is but for blanks around it; anything else as a pair, so that True is not 1 and 1 is not "1"."""
    data = plain(value)
    if isinstance(data, str):
        return data.strip()
    if isinstance(data, float) and data.is_integer():
        data = int(data)
    return ("json", json.dumps(data, sort_keys=True))


def label_text(key: Hashable) -> str:
    """A key as people read it."""
    return key[1] if isinstance(key, tuple) else repr(key)
