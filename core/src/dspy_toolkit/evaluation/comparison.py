"""Two programs on the same rows: the paired difference, and the rows that changed."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.evaluation.repeats import noise_floor
from dspy_toolkit.evaluation.results import Evaluation, RowResult
from dspy_toolkit.programs.target import Target
from dspy_toolkit.stats.intervals import Comparison, compare
from dspy_toolkit.stats.set_intervals import compare_sets

__all__ = ["Change", "ProgramComparison", "compare_evaluations"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row (from 1) that the two programs score or answer differently; `difference` is second minus first, 0-100."""

    row: int
    first: RowResult
    second: RowResult
    labels: Mapping[str, Any]

    @property
    def difference(self) -> float:
        return self.second.score - self.first.score


@dataclass(frozen=True, kw_only=True)
class ProgramComparison:
    """`comparisons` are second minus first by metric, the first metric deciding. `noise_floors` are what equally good
    programs would differ by, empty without repeats. `partial` says what is missing, or is empty.
    """

    first: ProgramEvaluation
    second: ProgramEvaluation
    comparisons: Mapping[str, Comparison]
    noise_floors: Mapping[str, float]
    partial: str = ""

    @classmethod
    def of(
        cls, first: ProgramEvaluation, second: ProgramEvaluation, targets: tuple[Target, Target], *, partial: str = ""
    ) -> "ProgramComparison":
        """On the rows and repeats that both finished. Raises OptimizationError if there are none."""
        finished = [{result.row for result in side.evaluation.results} for side in (first, second)]
        both = finished[0] & finished[1]
        if not both:
            raise OptimizationError("No row was finished by both programs, so there is nothing to compare.")
        repeats = min(len(first.repeats), len(second.repeats))
        if finished[0] != finished[1] or len(first.repeats) != len(second.repeats):
            first = first.part(both, repeats, targets[0])
            second = second.part(both, repeats, targets[1])
        floors = {name: noise_floor(first.noise.get(name), second.noise.get(name)) for name in first.metrics}
        return cls(
            first=first,
            second=second,
            comparisons={
                name: compare_evaluations(evaluation, second.metrics[name], seed=first.seed)
                for name, evaluation in first.metrics.items()
            },
            noise_floors={name: floor for name, floor in floors.items() if floor is not None},
            partial=partial,
        )

    @property
    def metric(self) -> str:
        """The metric that decides: the first."""
        return self.first.metric

    @property
    def comparison(self) -> Comparison:
        """By the metric that decides."""
        return self.comparisons[self.metric]

    @property
    def clears(self) -> bool:
        """Whether the second program's interval lies above the first: the gate."""
        return self.comparison.clears and not self.partial

    @property
    def changes(self) -> tuple[Change, ...]:
        """The rows that are scored or answered differently, the largest difference first."""
        pairs = zip(self.first.evaluation.results, self.second.evaluation.results, strict=True)
        changed = [
            Change(row=first.row, first=first, second=second, labels=self.first.labels(first.row))
            for first, second in pairs
            if first.score != second.score or _answered(first) != _answered(second)
        ]
        return tuple(sorted(changed, key=lambda change: (-abs(change.difference), change.row)))

    @property
    def cost_difference(self) -> dict[str, float] | None:
        """Second minus first: calls, tokens, seconds, money. None where one was stopped: it did less."""
        if self.partial:
            return None
        return {
            **asdict(self.second.usage - self.first.usage),
            "seconds": self.second.seconds - self.first.seconds,
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """One dictionary for each row of each repeat of each program, `program` saying which."""
        for side, evaluation in (("a", self.first), ("b", self.second)):
            for record in evaluation.records():
                yield {"program": side, **record}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data: everything but the single rows."""
        return {
            "a": self.first.to_dict(),
            "b": self.second.to_dict(),
            "comparisons": {
                name: {**asdict(comparison), "clears": comparison.clears, "noise_floor": self.noise_floors.get(name)}
                for name, comparison in self.comparisons.items()
            },
            "clears": self.clears,
            "changed_rows": len(self.changes),
            "cost_difference": self.cost_difference,
            "partial": self.partial or None,
        }


def compare_evaluations(first: Evaluation, second: Evaluation, *, seed: int = 0) -> Comparison:
    """Second minus first on the same rows, by the metric that decides: the score of the set where it is a SetMetric,
    else the mean of the rows.
    """
    metric = second.set_metric
    if metric is None or first.observations is None or second.observations is None:
        return compare(first.scores, second.scores, seed=seed)
    observed = (first.observations, second.observations)
    return compare_sets(metric.score_of, observed, (first.scores, second.scores), seed=seed)


def _answered(result: RowResult) -> Any:
    fields = result.to_dict()
    return fields["prediction"], fields["error"]
