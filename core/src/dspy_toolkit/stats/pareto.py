"""Programs that no other program beats in everything."""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from dspy_toolkit.errors import OptimizationError

__all__ = ["pareto_front"]

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
    values = {
        name: {key: value(candidate) for key, value in objectives.items()} for name, candidate in candidates.items()
    }
    for name, reached in values.items():
        for key, value in reached.items():
            if math.isnan(value):
                raise OptimizationError(f"The objective {key!r} of {name!r} is no number, so it cannot be compared.")
    return {
        name: reached
        for name, reached in values.items()
        if not any(_dominates(list(other.values()), list(reached.values())) for other in values.values())
    }


def _dominates(one: list[float], other: list[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
