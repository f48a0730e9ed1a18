"""Metrics that compare fields of the prediction with labelled fields of the row, whatever else the two carry.

Each here is a class, made for chosen fields (`ExactMatch("answer")`), and one instance that compares every labelled
field: every field of the row that is not an input.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import dspy

from dspy_toolkit.errors import DataError, MetricError
from dspy_toolkit.metrics.metric import Score
from dspy_toolkit.values import plain

__all__ = [
    "Accuracy",
    "ExactMatch",
    "FieldMetric",
    "TokenF1",
    "accuracy",
    "check_labels",
    "exact_match",
    "f1",
    "labelled_fields",
    "normalized",
    "same",
    "token_f1",
]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class FieldMetric:
    """Scores each labelled field from 0 to 1 with `compare`, which subclasses write; `combine` makes one score of them.

    `fields` are the fields to compare; none means every labelled field of the row.
    """

    def __init__(self, *fields: str):
        self._fields = fields
        self.__name__ = f"{type(self).__name__}({', '.join(fields)})" if fields else type(self).__name__

    def __call__(self, gold: dspy.Example, pred: dspy.Prediction, trace: Any = None) -> Score:
        scores = []
        sentences = []
        for field in labelled_fields(gold, self._fields):
            expected = gold[field]
            if field not in pred:
                score, sentence = 0.0, f"The prediction has no {field!r}; expected {expected!r}."
            else:
                score = self.compare(expected, pred[field])
                sentence = self.describe(field, expected, pred[field], score)
            scores.append(score)
            sentences.append(sentence)
        return Score(score=self.combine(scores), feedback=" ".join(sentences))

    def check(self, rows: Iterable[dspy.Example]) -> None:
        """Raises DataError for the first row without the label that is to be compared."""
        check_labels(self.__name__, rows, self._fields)

    def compare(self, expected: Any, got: Any) -> float:
        """How right `got` is, from 0 to 1, where the label says `expected`."""
        raise NotImplementedError

    def combine(self, scores: Sequence[float]) -> float:
        return sum(scores) / len(scores)

    def describe(self, field: str, expected: Any, got: Any, score: float) -> str:
        if score == 1:
            return f"{field!r} is right."
        return f"{field!r} is {got!r}; expected {expected!r}."


class ExactMatch(FieldMetric):
    """1 if every field is equal to its label, else 0.

    Text is compared after the normalisation of SQuAD's evaluation script (Rajpurkar et al. 2016): lower case, without
    punctuation, articles and surplus blanks. A label that is a list of texts means any of them, where the prediction
    is a text. Everything else is compared as plain JSON data, so a pydantic object equals the dictionary that makes it.
    """

    def compare(self, expected: Any, got: Any) -> float:
        if isinstance(got, str) and isinstance(expected, list | tuple) and expected:
            return max(self.compare(each, got) for each in expected)
        if isinstance(got, str) and isinstance(expected, str):
            return float(normalized(expected) == normalized(got))
        return float(same(expected, got))

    def combine(self, scores: Sequence[float]) -> float:
        return float(all(score == 1 for score in scores))


class Accuracy(FieldMetric):
    """The share of the fields that are equal to their labels as they stand (text without surrounding blanks)."""

    def compare(self, expected: Any, got: Any) -> float:
        return float(same(expected, got))


class TokenF1(FieldMetric):
    """SQuAD's token F1 (Rajpurkar et al. 2016), averaged over the fields; against the best label where there is a
    list.
    """

    def compare(self, expected: Any, got: Any) -> float:
        if isinstance(expected, list | tuple) and expected:
            return max(self.compare(each, got) for each in expected)
        return f1(str(expected), str(got))

    def describe(self, field: str, expected: Any, got: Any, score: float) -> str:
        if 0 < score < 1:
            return f"{field!r} is {got!r}, which shares words with the expected {expected!r} (F1 {score:.2f})."
        return super().describe(field, expected, got, score)


exact_match = ExactMatch()
token_f1 = TokenF1()
accuracy = Accuracy()


def labelled_fields(gold: dspy.Example, fields: Sequence[str] = ()) -> tuple[str, ...]:
    """`fields`, or all labelled fields of the row. Raises MetricError when the row lacks one or has none."""
    for field in fields:
        if field not in gold:
            raise MetricError(f"the row has no field {field!r} to compare with")
    found = tuple(fields) or tuple(gold.labels().keys())
    if not found:
        raise MetricError("the row has no labelled field to compare with")
    return found


def check_labels(metric: str, rows: Iterable[dspy.Example], fields: Sequence[str] = ()) -> None:
    """Raises DataError for the first row without its labels."""
    for number, row in enumerate(rows, start=1):
        try:
            labelled_fields(row, fields)
        except MetricError as error:
            raise DataError(
                f"The metric {metric} cannot score row {number}: {error}. Label the rows, "
                "or score them with a metric that needs no labels, such as an LLM judge."
            ) from error


def normalized(text: str) -> str:
    """SQuAD's `normalize_answer`: lower case, then no punctuation, then no articles, then single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(expected: str, got: str) -> float:
    """2PR/(P+R) over the normalised words as multisets; if either text has none, 1 if both have none else 0 (SQuAD
    2.0).
    """
    wanted, found = normalized(expected).split(), normalized(got).split()
    if not wanted or not found:
        return float(wanted == found)
    shared = sum((Counter(wanted) & Counter(found)).values())
    return 2 * shared / (len(wanted) + len(found))


def same(expected: Any, got: Any) -> bool:
    """Equal as plain JSON data: text without surrounding blanks, floats but for rounding, True apart from 1."""
    if isinstance(expected, str) and isinstance(got, str):
        return expected.strip() == got.strip()
    expected, got = _plain(expected), _plain(got)
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, int | float) and isinstance(got, int | float):
        return math.isclose(expected, got, rel_tol=1e-9, abs_tol=1e-12)
    return bool(expected == got)


def _plain(value: Any) -> Any:
    try:
        return plain(value)
    except DataError:
        return value
