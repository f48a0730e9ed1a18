"""One metric, however it was written: a score from 0 to 1 and a sentence that says why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy

__all__ = ["Metric", "Score"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score from 0 to 1 and the sentence that says why (may be empty)."""

    score: float
    feedback: str


class Metric:
    """Wraps a function that returns bool, float, dict(score=, feedback=) or dspy.Prediction(score=, feedback=).

    The function takes 2 to 5 positional arguments `(gold, pred, trace, pred_name, pred_trace)`. The wrapper is what
    DSPy's optimizers are given: called with two arguments or GEPA's five it returns a Prediction(score, feedback);
    called with a trace and no predictor name (bootstrapping) it returns the bool `score >= threshold`, because
    `bool(Prediction(score=0.0))` is True and would accept wrong demonstrations.
    """

    def __init__(self, metric: Callable[..., Any], *, name: str | None = None, threshold: float = 0.5):
        raise NotImplementedError

    def score(
        self,
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> Score:
        """Raises MetricError naming the metric, the value and the row's inputs when the function raises or returns no score."""
        raise NotImplementedError

    def __call__(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Any:
        raise NotImplementedError

    def with_threshold(self, threshold: float) -> "Metric":
        """The same metric with another bar for demonstrations (0 to 1)."""
        raise NotImplementedError
