"""One metric, however it was written: a score from 0 to 1 and a sentence that says why."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from math import nan
from numbers import Real
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.metrics.set_metric import SetMetric

__all__ = ["AnyMetric", "Metric", "Score"]

_ROUNDING = 1e-9  # how far outside 0..1 a sum of floats may end up
_PLAIN = (int, float)  # what most metrics return; looked for first, since the other checks are slow


class Metric:
    """Wraps a function that returns a bool, a number, (score, feedback), dict(score=, feedback=), Score or
    dspy.Prediction(score=, feedback=).

    The function may be `async`, or a dspy.Module. It takes two to five arguments: `(gold, pred, trace, pred_name,
    pred_trace)`; optional arguments of other names keep their defaults.

    The wrapper is what DSPy's optimizers are given. Called with two arguments, or with GEPA's five, it returns
    `dspy.Prediction(score=, feedback=)`. Called with a trace and no predictor's name, which is how demonstrations are
    bootstrapped, it returns the bool `score >= threshold`: `bool(Prediction(score=0.0))` is True and would accept wrong
    demonstrations. A Metric holds no state and may be called from several threads if the function may.

    `set_metric` is the SetMetric that was wrapped, or None: `evaluate` takes the score of the whole set from it.
    """

    def __init__(self, metric: "Callable[..., Any] | Metric", *, name: str | None = None, threshold: float = 0.5):
        self._function: Callable[..., Any] = metric._function if isinstance(metric, Metric) else metric
        self.set_metric: SetMetric | None = self._function if isinstance(self._function, SetMetric) else None
        self.name = name or (metric.name if isinstance(metric, Metric) else _name_of(metric))
        self.__name__ = self.name
        self.threshold = threshold
        self._passed, self._by_keyword = _arguments(self._function, self.name)

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, threshold={self.threshold})"

    @property
    def function(self) -> Callable[..., Any]:
        """What was wrapped."""
        return self._function

    def with_threshold(self, threshold: float) -> "Metric":
        """The same metric with another bar for demonstrations (0 to 1)."""
        return Metric(self, threshold=threshold)

    def check(self, rows: "Iterable[dspy.Example]") -> None:
        """Raise DataError or MetricError if the metric cannot score these rows whatever the prediction. Asks no LM.

        Only metrics with a `check(rows)` of their own, such as those of this package, can tell beforehand.
        """
        if (check := getattr(self._function, "check", None)) is not None:
            check(rows)

    def score(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Score:
        """Raises MetricError, with the metric, the row and the value, when the function raises or returns no score."""
        try:
            returned = self._call(gold, pred, trace, pred_name, pred_trace)
            if not isinstance(returned, _PLAIN) and inspect.isawaitable(returned):
                returned = _finished(returned)
        except Exception as error:  # a stranger's function can raise anything
            raise self._raised(error, gold) from error
        return self._checked(returned, gold)

    async def ascore(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Score:
        """`score` for async code: an `async` metric is awaited in the running loop; any other blocks it."""
        try:
            returned = self._call(gold, pred, trace, pred_name, pred_trace)
            if inspect.isawaitable(returned):
                returned = await returned
        except Exception as error:  # a stranger's function can raise anything
            raise self._raised(error, gold) from error
        return self._checked(returned, gold)

    def _call(self, gold: Any, pred: Any, trace: Any, pred_name: str | None, pred_trace: Any) -> Any:
        """Calls the function with those of the five arguments that it takes."""
        if pred_name is not None and self._passed < 4 and "pred_name" not in self._by_keyword:
            trace = None  # it would take GEPA, which wants feedback, for bootstrapping, which wants a bool
        arguments = (gold, pred, trace, pred_name, pred_trace)
        passed = arguments[: self._passed]
        if not self._by_keyword:
            return self._function(*passed)
        last_three: dict[str, Any] = dict(zip(_LAST_THREE, arguments[2:], strict=True))
        return self._function(*passed, **{name: last_three[name] for name in self._by_keyword})

    def _raised(self, error: Exception, gold: Any) -> MetricError:
        return MetricError(f"The metric {self.name!r} raised {_error(error)} on the row {_row(gold)}.")

    def _checked(self, returned: Any, gold: Any) -> Score:
        value, feedback = _parts(returned)
        number = float(value) if isinstance(value, _PLAIN) else _number(value)
        if not -_ROUNDING <= number <= 1 + _ROUNDING:  # NaN compares false
            raise MetricError(
                f"The metric {self.name!r} returned {_short(returned)} on the row {_row(gold)}; "
                "expected a score from 0 to 1, as a bool, a number, or a dspy.Prediction(score=..., feedback=...)."
            )
        return Score(
            score=min(max(number, 0.0), 1.0),
            feedback="" if feedback is None else str(feedback),
            parts=returned.parts if isinstance(returned, Score) else {},
        )

    def __call__(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Any:
        score = self.score(gold, pred, trace, pred_name, pred_trace)
        if trace is not None and pred_name is None:
            return score.score >= self.threshold
        # GEPA can keep a Pareto front over the parts; it looks for them under this name.
        parts = {"objective_scores": dict(score.parts)} if score.parts else {}
        return dspy.Prediction(score=score.score, feedback=score.feedback, **parts)


AnyMetric = Metric | Callable[..., Any]
"""A metric, however it was written."""


def _name_of(metric: Any) -> str:
    return getattr(metric, "__name__", None) or type(metric).__name__


def _arguments(function: Any, name: str) -> tuple[int, tuple[str, ...]]:
    """How many of the five arguments to pass by position, and which of the last three by keyword.

    Parameters of other names (`frac=1.0`, `ignore_case=True`) keep their defaults, unless they have none.
    """
    if not callable(function):
        raise MetricError(f"The metric {name!r} is {_short(function)}; expected something to call with (gold, pred).")
    try:
        if isinstance(function, dspy.Module):  # its __call__ takes anything and hands it to forward
            forward: Any = getattr(type(function), "forward")  # noqa: B009  # DSPy's Module does not declare it
            parameters = list(inspect.signature(forward).parameters.values())[1:]
        else:
            parameters = list(inspect.signature(function).parameters.values())
    except (AttributeError, TypeError, ValueError):  # a builtin without a signature, a module without forward
        return 2, ()
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return 5, ()
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(parameter.default is inspect.Parameter.empty for parameter in positional)
    if len(positional) < 2 or required > 5:
        raise MetricError(
            f"The metric {name!r} takes {len(positional)} arguments; "
            "expected two to five: (gold, pred, trace=None, pred_name=None, pred_trace=None)."
        )
    passed = 2
    while passed < min(len(positional), 5) and (passed < required or _takes(positional, passed)):
        passed += 1
    others = [
        parameter.name for parameter in [*positional[passed:], *parameters] if parameter not in positional[:passed]
    ]
    by_keyword = tuple(each for each in _LAST_THREE[passed - 2 :] if each in others)
    return passed, by_keyword


_LAST_THREE: Sequence[str] = ("trace", "pred_name", "pred_trace")


def _takes(positional: Sequence[inspect.Parameter], place: int) -> bool:
    """Whether the optional parameter at this place takes what DSPy passes there: by its name, or by None as its
    default where DSPy's own optimizers pass by position.
    """
    parameter = positional[place]
    if parameter.name in _LAST_THREE:
        return parameter.name == _LAST_THREE[place - 2]
    by_position = place == 2 or (len(positional) == 5 and positional[2].default is None)
    return parameter.default is None and by_position


def _finished(returned: Awaitable[Any]) -> Any:
    """The result of a coroutine, in a loop of its own; in a thread of its own where this one runs a loop already."""

    async def finished() -> Any:
        return await returned

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(finished())
    done: list[Any] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            done.append(asyncio.run(finished()))
        except Exception as error:  # noqa: BLE001  # raised again in the caller's thread
            raised.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return done[0]


def _number(value: Any) -> float:
    """A number of another library, such as numpy's or Decimal; NaN for what is no number."""
    if not isinstance(value, Real | Decimal) and getattr(value, "size", None) == 1 and hasattr(value, "item"):
        value = value.item()  # numpy's bool and arrays of one number
    return float(value) if isinstance(value, Real | Decimal) else nan


def _parts(returned: Any) -> tuple[Any, Any]:
    if isinstance(returned, _PLAIN):
        return returned, ""
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], str):
        return returned
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
