"""Results of runs as their journals tell them, in this process or another."""

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_toolkit.evaluation.evaluate import ErrorGroup, Evaluation, RowResult
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.runs.journal import read_journal
from dspy_toolkit.runs.runs import Run
from dspy_toolkit.stats.intervals import Comparison, ScoreEstimate

__all__ = ["recall"]


def recall(run: Run) -> OptimizationResult | None:
    """The result of a run that ended, without its program (the bundle has that); None for one that did not end."""
    told = run.result
    if told is None:
        return None
    rows: dict[str, dict[int, RowResult]] = {"baseline": {}, "optimized": {}}
    for entry in read_journal(run.folder, "row"):  # a run that was gone on with has some twice; the last counts
        if (stage := entry.data["stage"]) in rows:
            rows[stage][entry.data["row"]] = _row(entry.data)
    return OptimizationResult(
        program=None,
        **{name: told[name] for name in ("task", "model", "optimizer", "parameters", "metric", "seed")},
        **{name: told[name] for name in ("data_digest", "rows", "seconds", "reason", "status", "run", "note")},
        baseline_evaluation=_evaluation(told, "baseline", rows["baseline"]),
        # Where a budget ended the search before it found anything, nothing was measured again.
        optimized_evaluation=_evaluation(told, "optimized", rows["optimized"] or rows["baseline"]),
        comparison=told["comparison"] and Comparison(**told["comparison"]),
        usage=Usage(**told["usage"]),
        errors=_errors(told, "search"),
    )


def _evaluation(told: Mapping[str, Any], stage: str, rows: Mapping[int, RowResult]) -> Evaluation | None:
    if told[stage] is None:
        return None
    results = tuple(rows[number] for number in sorted(rows))
    return Evaluation(
        results=results,
        score=ScoreEstimate(**told[stage]),
        errors=_errors(told, stage),
        usage=Usage(),
        seconds=sum(result.seconds for result in results),
    )


def _errors(told: Mapping[str, Any], stage: str) -> tuple[ErrorGroup, ...]:
    found = []
    for group in told["errors"]:
        if group["stage"] == stage:
            found.append(ErrorGroup(**{name: value for name, value in group.items() if name != "stage"}))
    return tuple(found)


def _row(data: Mapping[str, Any]) -> RowResult:
    given = {name: value for name, value in data.items() if name not in ("stage", "prediction")}
    prediction = None if data["error"] is not None else dspy.Prediction(**data["prediction"])
    return RowResult(**given, prediction=prediction)
