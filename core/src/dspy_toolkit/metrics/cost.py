"""What an answer took: time and tokens.

Seconds and tokens of a prediction are noted where the program is called inside `evaluate` or `optimize`. An answer from
DSPy's cache took neither, so it has no cost that could be scored; evaluate cost with `cache=False` on the LM.
"""

from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.score import Score

__all__ = ["CallCost", "Latency", "TokenCost", "cost_of"]


@dataclass(frozen=True, kw_only=True)
class CallCost:
    """What one call of a program took. `seconds` is wall time, waiting for other rows on the same model included.

    LM calls in threads that the program itself starts (`dspy.Parallel`) are in the run's usage, not here.
    """

    seconds: float
    lm_calls: int
    cache_hits: int
    input_tokens: int
    output_tokens: int


def cost_of(pred: dspy.Prediction) -> CallCost:
    """Raises MetricError where the cost of the prediction is not known."""
    cost = getattr(pred, "_toolkit_cost", None)
    if not isinstance(cost, CallCost):
        raise MetricError("the prediction has no cost; it is noted inside `evaluate` and `optimize`")
    if cost.cache_hits:
        raise MetricError(
            f"{cost.cache_hits} of {cost.lm_calls + cost.cache_hits} LM calls were answered from the cache, so what "
            "this prediction takes is not known; give the LM cache=False"
        )
    return cost


class Latency:
    """1 for an answer in no time, falling evenly to 0 for one that takes `limit` seconds or longer.

    Run with `num_threads=1`, or it measures how the rows wait for each other. An empty answer is the fastest: combine
    it with a metric of the content, by `product` or `lexicographic`.
    """

    def __init__(self, limit: float):
        if not 0 < limit < float("inf"):
            raise MetricError(f"The limit is {limit} seconds; expected above 0.")
        self._limit = limit
        self.__name__ = f"Latency({limit:g} s)"

    def __call__(self, gold: dspy.Example, pred: dspy.Prediction, trace: Any = None) -> Score:
        seconds = cost_of(pred).seconds
        return Score(
            score=max(0.0, 1 - seconds / self._limit), feedback=f"Took {seconds:.2f} s of {self._limit:g} s allowed."
        )


class TokenCost:
    """1 for an answer without tokens, falling evenly to 0 for one that costs `limit` or more.

    An answer costs its input tokens times `input_price` plus its output tokens times `output_price`: tokens by default,
    money where prices per token are given, with the limit in the same unit. What was said of `Latency` and empty
    answers holds here too.
    """

    def __init__(self, limit: float, *, input_price: float = 1.0, output_price: float = 1.0):
        if not 0 < limit < float("inf") or min(input_price, output_price) < 0:
            raise MetricError(
                f"The limit is {limit} and the prices are {input_price} and {output_price}; expected a limit above 0 "
                "and prices of 0 or more."
            )
        self._limit = limit
        self._prices = (input_price, output_price)
        self.__name__ = f"TokenCost({limit:g})"

    def __call__(self, gold: dspy.Example, pred: dspy.Prediction, trace: Any = None) -> Score:
        cost = cost_of(pred)
        total = cost.input_tokens * self._prices[0] + cost.output_tokens * self._prices[1]
        return Score(
            score=max(0.0, 1 - total / self._limit),
            feedback=f"Cost {total:.4g} of {self._limit:g} allowed: {cost.input_tokens} tokens read, "
            f"{cost.output_tokens} written.",
        )
