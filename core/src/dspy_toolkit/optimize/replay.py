"""Results of runs as their journals tell them, in this process or another."""

from collections.abc import Mapping
from typing import cast

from dspy_toolkit.evaluation.results import ErrorGroup, Evaluation, MetricResult, RowResult
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.optimize.result import OptimizationResult, ResultStatus
from dspy_toolkit.runs.records import EstimateRecord, ResultRecord, RowRecord, read_records
from dspy_toolkit.runs.runs import Run
from dspy_toolkit.stats.intervals import Comparison, ScoreEstimate

__all__ = ["recall"]


def recall(run: Run) -> OptimizationResult | None:
    """The result of a run that ended, without its program (the bundle has that); None for one that did not end."""
    if run.end is None or run.result is None:
        return None
    result = run.result
    rows: dict[str, dict[int, RowResult]] = {"baseline": {}, "optimized": {}}
    for entry in read_records(run.folder, RowRecord):  # a resumed run has some twice; the last counts
        if (stage := entry.record.stage) in rows:
            rows[stage][entry.record.row] = RowResult.of_record(entry.record, result.metric)
    return OptimizationResult(
        program=None,
        task=result.task,
        model=result.model,
        models=result.models,
        optimizer=result.optimizer,
        reason=result.reason,
        parameters=result.parameters,
        metric=result.metric,
        seed=result.seed,
        data_digest=result.data_digest,
        rows=result.rows,
        baseline_evaluation=_evaluation(result, result.baseline, "baseline", rows["baseline"]),
        # Where a budget ended the search before it kept a program, nothing was measured again.
        optimized_evaluation=_evaluation(result, result.optimized, "optimized", rows["optimized"] or rows["baseline"]),
        comparison=result.comparison and Comparison(**vars(result.comparison)),
        usage=result.usage or Usage(),
        errors=_errors(result, "search"),
        seconds=result.seconds or 0.0,
        status=cast(ResultStatus, run.end.status),
        run=run.id,
        note=result.note,
    )


def _evaluation(
    result: ResultRecord, score: EstimateRecord | None, stage: str, rows: Mapping[int, RowResult]
) -> Evaluation | None:
    if score is None:
        return None
    results = tuple(rows[number] for number in sorted(rows))
    return Evaluation(
        results=results,
        metrics={result.metric: MetricResult(score=ScoreEstimate(**vars(score)), errors=_errors(result, stage))},
        usage=Usage(),
        seconds=sum(row.seconds for row in results),
    )


def _errors(result: ResultRecord, stage: str) -> tuple[ErrorGroup, ...]:
    groups = [dict(vars(group)) for group in result.errors if group.stage == stage]
    return tuple(ErrorGroup(**{name: value for name, value in group.items() if name != "stage"}) for group in groups)
