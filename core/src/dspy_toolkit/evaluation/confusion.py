"""Which labels a program mistakes for which: the table of labels and answers of one field, and each label's F1."""

import enum
import types
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dspy

from dspy_toolkit.evaluation.results import Evaluation
from dspy_toolkit.metrics.labels import LabelCounts, by_label, label_key, label_text

__all__ = ["NO_ANSWER", "OTHER", "Confusion", "confusions"]

_FEW = 12
"""Different labels up to which a table of labels and answers can be read."""

_DISTINCT_SHARE = 0.5
"""Where more of the rows than this have a label of their own, it is free text, not a class."""

OTHER = "(other)"
NO_ANSWER = "(none)"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often each label was answered with what, for one field.

    `labels` are as they are shown: those that the field's type allows or the rows have. `counts` says how often a label
    (first) got an answer (second), both as shown; an answer that is none of the labels is OTHER, and that of a row that
    failed, or left the field out, is NO_ANSWER. `by_label` has the counts behind precision, recall and F1, which are
    scikit-learn's over these labels (`zero_division=0`).
    """

    field: str
    labels: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]
    by_label: Mapping[str, LabelCounts]

    @classmethod
    def of(cls, field: str, pairs: Iterable[tuple[Any, Any]], *, options: Sequence[Any] = ()) -> "Confusion":
        """From pairs of a label and the answer to it; None where there was none. `options` are labels in their order,
        whether or not a row has them; others follow, sorted.
        """
        keyed = [(label_key(gold), None if got is None else label_key(got)) for gold, got in pairs]
        counted: Counter[tuple[Hashable, Hashable]] = Counter(keyed)
        first = list(dict.fromkeys(label_key(option) for option in options))
        rest = sorted({gold for gold, _ in counted if gold not in first}, key=_order)
        keys = [*first, *rest]
        names = dict(zip(keys, _names(keys), strict=True))
        counts: Counter[tuple[str, str]] = Counter()
        for (gold, got), count in counted.items():
            counts[names[gold], NO_ANSWER if got is None else names.get(got, OTHER)] += count
        table = by_label(counted)
        return cls(
            field=field,
            labels=tuple(names.values()),
            counts=dict(counts),
            by_label={name: table.get(key, LabelCounts()) for key, name in names.items()},
        )

    @property
    def answers(self) -> tuple[str, ...]:
        """The columns: the labels, then OTHER and NO_ANSWER where they occur."""
        there = {got for _, got in self.counts}
        return (*self.labels, *(extra for extra in (OTHER, NO_ANSWER) if extra in there))

    @property
    def matrix(self) -> list[list[int]]:
        """Counts by label (down) and answer (across)."""
        return [[self.counts.get((label, answer), 0) for answer in self.answers] for label in self.labels]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def accuracy(self) -> float:
        """The share answered with their label, from 0 to 1."""
        return sum(self.counts.get((label, label), 0) for label in self.labels) / self.total if self.total else 0.0

    @property
    def macro_f1(self) -> float:
        """The plain mean of the labels' F1, of those that occur in rows or answers; from 0 to 1."""
        there = [label for label in self.by_label.values() if label.labelled or label.predicted]
        return sum(label.f1 for label in there) / len(there) if there else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "field": self.field,
            "labels": list(self.labels),
            "answers": list(self.answers),
            "matrix": self.matrix,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "by_label": {
                name: {
                    "precision": each.precision,
                    "recall": each.recall,
                    "f1": each.f1,
                    "rows": each.labelled,
                    "answered": each.predicted,
                }
                for name, each in self.by_label.items()
            },
        }


def confusions(
    fields: Mapping[str, Any], rows: Sequence[dspy.Example], repeats: Sequence[Evaluation]
) -> Iterator[Confusion]:
    """A table for each field with few different labels. `fields` are those that rows have labels for, with their types'
    annotations.
    """
    for field, annotation in fields.items():
        results = [result for repeat in repeats for result in repeat.results if field in rows[result.row - 1]]
        golds = [rows[result.row - 1][field] for result in results]
        options = _options(annotation)
        distinct = {label_key(gold) for gold in golds}
        if not options and (
            len(distinct) > min(_FEW, _DISTINCT_SHARE * len(golds) / len(repeats))
            or not all(isinstance(gold, str | int | float | bool) for gold in golds)
        ):
            continue
        yield Confusion.of(
            field,
            [
                (gold, None if result.prediction is None else result.prediction.get(field))
                for gold, result in zip(golds, results, strict=True)
            ],
            options=options,
        )


def _options(annotation: Any) -> list[Any]:
    """The values a type allows, where they are few and told."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [_options(each) for each in get_args(annotation) if each is not type(None)]
        return [value for each in members for value in each] if all(members) else []
    if origin is Literal:
        return list(get_args(annotation))
    if annotation is bool:
        return [True, False]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return list(annotation)
    return []


def _names(keys: Sequence[Hashable]) -> list[str]:
    """Each key's text; quoted where it would be taken for another's, as the text "1" for the number 1."""
    plain = [key if isinstance(key, str) else label_text(key) for key in keys]
    taken = Counter([*plain, OTHER, NO_ANSWER])
    names: list[str] = []
    for key, text in zip(keys, plain, strict=True):
        name = repr(key) if taken[text] > 1 and isinstance(key, str) else text
        while name in names:
            name = repr(name)
        names.append(name)
    return names


def _order(key: Hashable) -> tuple[int, float, str]:
    text = label_text(key)
    try:
        return (0, float(text), text) if not isinstance(key, str) else (1, 0.0, text)
    except ValueError:
        return (1, 0.0, text)
