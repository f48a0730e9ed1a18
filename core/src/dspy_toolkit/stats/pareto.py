"""Programs that no other program beats in everything."""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.evaluation.evaluate import Evaluation

__all__ = ["by_parts", "fewer_tokens", "less_time", "mean_score", "pareto_front"]

T = TypeVar("T")


def pareto_front(
    candidates: Mapping[str, T], objectives: Mapping[str, Callable[[T], float]]
) -> dict[str, dict[str, float]]:
    """The candidates that no other dominates, in the order given, each with its objectives; more is better.

    One candidate dominates another when it is at least as good in every objective and better in one; equal candidates
    stay both. Raises OptimizationError without objectives, or when one is no number.
    """
    if not objectives:
        raise OptimizationError("There is no objective to compare by; give at least one.")
    values = {name: {key: value(each) for key, value in objectives.items()} for name, each in candidates.items()}
    for name, found in values.items():
        for key, value in found.items():
            if math.isnan(value):
                raise OptimizationError(f"The objective {key!r} of {name!r} is no number, so it cannot be compared.")
    return {
        name: found
        for name, found in values.items()
        if not any(_dominates(list(other.values()), list(found.values())) for other in values.values())
    }


def mean_score(evaluation: Evaluation) -> float:
    """Objective: the score, 0-100."""
    return evaluation.score.score


def less_time(evaluation: Evaluation) -> float:
    """Objective: minus the mean seconds of a row, the metric's own included."""
    return -sum(result.seconds for result in evaluation.results) / len(evaluation.results)


def fewer_tokens(evaluation: Evaluation) -> float:
    """Objective: minus the mean tokens of a row, read and written; answers from the cache count none."""
    return -(evaluation.usage.input_tokens + evaluation.usage.output_tokens) / len(evaluation.results)


def by_parts(evaluation: Evaluation) -> dict[str, Callable[[Evaluation], float]]:
    """One objective for each part of a combined metric, from an evaluation made with it."""
    return {name: lambda each, name=name: each.parts[name] for name in evaluation.parts}


def _dominates(one: list[float], other: list[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
