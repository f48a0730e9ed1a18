"""Scores of a whole set of predictions that are no mean of row scores, such as macro F1."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.score import Score

__all__ = ["SetMetric"]


class SetMetric(ABC):
    """A score of a set, computed from how often each observation occurs in it.

        rows ──observe──▶ observations ──count──▶ {observation: count} ──over──▶ one score from 0 to 1

    Counts are all that a bootstrap over rows has to draw again, so every set metric has an interval. Given as a metric,
    its rows score as `row` says (which is what optimizers search by, and read feedback from), and the set's score is
    the one that is reported, compared and decides on promotion. Holds no state.
    """

    __name__: str

    @abstractmethod
    def row(self, gold: dspy.Example, pred: dspy.Prediction) -> Score:
        """The score of one row."""

    @abstractmethod
    def observe(self, gold: dspy.Example, pred: dspy.Prediction | None) -> Hashable:
        """What of a row the set's score depends on, for example (label, predicted label). `pred` is None for a row
        that failed, which must count against the program.
        """

    @abstractmethod
    def over(self, counts: Mapping[Any, int]) -> float:
        """The score, from 0 to 1, of a set in which each observation occurs so often. There is at least one."""

    def score_of(self, counts: Mapping[Any, int]) -> float:
        """`over`, checked to be a score from 0 to 1. Raises MetricError."""
        score = self.over(counts)
        if not isinstance(score, int | float) or not -1e-9 <= score <= 1 + 1e-9:  # NaN compares false
            raise MetricError(f"The metric {self.__name__!r} returned {score!r} for a set; expected 0 to 1.")
        return min(max(float(score), 0.0), 1.0)

    def check(self, rows: Iterable[dspy.Example]) -> None:  # noqa: B027  # most need no check
        """Raise DataError or MetricError if these rows cannot be scored, whatever is predicted."""

    def __call__(self, gold: dspy.Example, pred: dspy.Prediction, trace: Any = None) -> Score:
        return self.row(gold, pred)
