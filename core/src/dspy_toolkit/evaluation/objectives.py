"""Objectives of evaluations for `pareto_front`: score, time, tokens, and the parts of a combined metric."""

from collections.abc import Callable

from dspy_toolkit.evaluation.results import Evaluation

__all__ = ["by_parts", "fewer_tokens", "less_time", "mean_score"]


def mean_score(evaluation: Evaluation) -> float:
    """Objective: the score, 0-100."""
    return evaluation.score.score


def less_time(evaluation: Evaluation) -> float:
    """Objective: minus the mean seconds of a row, the metric's own included."""
    return -sum(result.seconds for result in evaluation.results) / len(evaluation.results)


def fewer_tokens(evaluation: Evaluation) -> float:
    """Objective: minus the mean tokens of a row, read and written; answers from the cache count none."""
    return -(evaluation.usage.input_tokens + evaluation.usage.output_tokens) / len(evaluation.results)


def by_parts(example: Evaluation) -> dict[str, Callable[[Evaluation], float]]:
    """One objective for each part of a combined metric, from an evaluation made with it."""
    return {name: lambda evaluation, name=name: evaluation.parts[name] for name in example.parts}
