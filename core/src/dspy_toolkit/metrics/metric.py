"""One metric, however it was written: a score from 0 to 1 and a sentence that says why."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError

__all__ = ["Metric", "Score"]

_ROUNDING = 1e-9  # how far outside 0..1 a sum of floats may end up


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score from 0 to 1 and the sentence that says why (may be empty)."""

    score: float
    feedback: str = ""


class Metric:
    """Wraps a function that returns bool, float, dict(score=, feedback=), Score or dspy.Prediction(score=, feedback=).

    The function takes two to five positional arguments: `(gold, pred, trace, pred_name, pred_trace)`. The wrapper is
    what DSPy's optimizers are given. Called with two arguments, or with GEPA's five, it returns
    `dspy.Prediction(score=, feedback=)`. Called with a trace and no predictor's name, which is how demonstrations are
    bootstrapped, it returns the bool `score >= threshold`: `bool(Prediction(score=0.0))` is True and would accept wrong
    demonstrations. A Metric holds no state and may be called from several threads if the function may.
    """

    def __init__(self, metric: "Callable[..., Any] | Metric", *, name: str | None = None, threshold: float = 0.5):
        self._function: Callable[..., Any] = metric._function if isinstance(metric, Metric) else metric
        self.name = name or (metric.name if isinstance(metric, Metric) else _name_of(metric))
        self.__name__ = self.name
        self.threshold = threshold
        self._arity = _arity(self._function, self.name)

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, threshold={self.threshold})"

    def with_threshold(self, threshold: float) -> "Metric":
        """The same metric with another bar for demonstrations (0 to 1)."""
        return Metric(self, threshold=threshold)

    @classmethod
    def mean(cls, metrics: "Sequence[Callable[..., Any] | Metric]", *, name: str | None = None) -> "Metric":
        """The plain mean of several metrics; its feedback names each with its score. Raises MetricError for none."""
        parts = [cls(metric) for metric in metrics]
        if not parts:
            raise MetricError("There is no metric to score with; give at least one.")
        if len(parts) == 1:
            return parts[0]

        def mean(gold: Any, pred: Any, trace: Any, pred_name: str | None, pred_trace: Any) -> Score:
            scores = [part.score(gold, pred, trace, pred_name, pred_trace) for part in parts]
            feedback = " ".join(
                f"{part.name} {score.score:.2f}: {score.feedback}" for part, score in zip(parts, scores, strict=True)
            )
            return Score(score=sum(score.score for score in scores) / len(scores), feedback=feedback)

        return cls(mean, name=name or f"mean({', '.join(part.name for part in parts)})")

    def score(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Score:
        """Raises MetricError, with the metric, the row and the value, when the function raises or returns no score."""
        arguments = (gold, pred, trace, pred_name, pred_trace)[: self._arity]
        try:
            returned = self._function(*arguments)
        except Exception as error:  # a stranger's function can raise anything
            raise MetricError(f"The metric {self.name!r} raised {_error(error)} on the row {_row(gold)}.") from error
        value, feedback = _parts(returned)
        if isinstance(value, bool):
            value = float(value)
        if not isinstance(value, Real) or not -_ROUNDING <= float(value) <= 1 + _ROUNDING:  # NaN compares false
            raise MetricError(
                f"The metric {self.name!r} returned {_short(returned)} on the row {_row(gold)}; "
                "expected a score from 0 to 1, as a bool, a number, or a dspy.Prediction(score=..., feedback=...)."
            )
        return Score(score=min(max(float(value), 0.0), 1.0), feedback="" if feedback is None else str(feedback))

    def __call__(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Any:
        score = self.score(gold, pred, trace, pred_name, pred_trace)
        if trace is not None and pred_name is None:
            return score.score >= self.threshold
        return dspy.Prediction(score=score.score, feedback=score.feedback)


def _name_of(metric: Any) -> str:
    return getattr(metric, "__name__", None) or type(metric).__name__


def _arity(function: Any, name: str) -> int:
    """How many of the five arguments to pass."""
    if not callable(function):
        raise MetricError(f"The metric {name!r} is {_short(function)}; expected something to call with (gold, pred).")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return 2
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        return 5
    positional = [
        each
        for each in parameters
        if each.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(each.default is inspect.Parameter.empty for each in positional)
    if len(positional) < 2 or required > 5:
        raise MetricError(
            f"The metric {name!r} takes {len(positional)} arguments; "
            "expected two to five: (gold, pred, trace=None, pred_name=None, pred_trace=None)."
        )
    return min(len(positional), 5)


def _parts(returned: Any) -> tuple[Any, Any]:
    if isinstance(returned, Mapping):
        return returned.get("score"), returned.get("feedback")
    if isinstance(returned, dspy.Example | Score):
        return getattr(returned, "score", None), getattr(returned, "feedback", None)
    return returned, ""


def _row(gold: Any) -> str:
    if isinstance(gold, dspy.Example):
        try:
            return _short(dict(gold.inputs().items()))
        except ValueError:  # an example whose inputs were never set
            return _short(dict(gold.items()))
    return _short(gold)


def _error(error: Exception) -> str:
    return f"{type(error).__name__}: {_short(str(error), quote=False)}"


def _short(value: Any, *, quote: bool = True) -> str:
    text = " ".join((repr(value) if quote else str(value)).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
