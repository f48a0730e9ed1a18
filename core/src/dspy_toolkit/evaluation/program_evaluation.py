"""A program measured on rows: one score for each metric, what went wrong, what it cost, and every answer."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from dspy_toolkit.evaluation.confusion import Confusion, confusions
from dspy_toolkit.evaluation.repeats import Noise, combined, total_usage
from dspy_toolkit.evaluation.results import Evaluation, RowResult
from dspy_toolkit.evaluation.rows import EvaluationRows, labelled, labels
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.programs.target import Target
from dspy_toolkit.values import plain

__all__ = ["ProgramEvaluation"]


@dataclass(frozen=True, kw_only=True)
class ProgramEvaluation:
    """A program's repeats on the same rows, each with every metric; the first metric decides.

    `whole` is all repeats as one: a row's score is its mean, and its answer the worst of them. `noise` is by metric,
    empty for one repeat. `confusions` count the answers of all repeats. `partial` says what is missing, or is empty.
    """

    name: str
    model: str
    rows: EvaluationRows
    seed: int
    repeats: tuple[Evaluation, ...]
    whole: Evaluation
    noise: Mapping[str, Noise]
    confusions: tuple[Confusion, ...]
    partial: str = ""

    @classmethod
    def of(
        cls,
        target: Target,
        *,
        model: str,
        rows: EvaluationRows,
        seed: int,
        repeats: Sequence[Evaluation],
        partial: str = "",
    ) -> "ProgramEvaluation":
        noise = {name: Noise.of([repeat.by(name) for repeat in repeats]) for name in repeats[0].metrics}
        fields = labelled(target.plain(), rows.examples)
        return cls(
            name=target.shown,
            model=model,
            rows=rows,
            seed=seed,
            repeats=tuple(repeats),
            whole=combined(repeats, seed=seed),
            noise={name: spread for name, spread in noise.items() if spread is not None},
            confusions=tuple(confusions(fields, rows.examples, repeats)),
            partial=partial,
        )

    @cached_property
    def metrics(self) -> dict[str, Evaluation]:
        """All repeats as one, by each metric."""
        return {name: self.whole.by(name) for name in self.whole.metrics}

    @property
    def metric(self) -> str:
        """The metric that decides: the first."""
        return next(iter(self.metrics))

    @property
    def evaluation(self) -> Evaluation:
        """By the metric that decides."""
        return self.metrics[self.metric]

    @property
    def deterministic(self) -> bool | None:
        """Whether all repeats gave the same answers; None for one repeat."""
        return self.noise[self.metric].deterministic if self.noise else None

    @property
    def usage(self) -> Usage:
        """Of all repeats."""
        return total_usage(self.repeats)

    @property
    def seconds(self) -> float:
        return sum(repeat.seconds for repeat in self.repeats)

    def lowest(self, count: int) -> tuple[RowResult, ...]:
        """The rows that scored lowest by the metric that decides, the worst first, without those that scored 100."""
        worst = sorted(self.evaluation.results, key=lambda result: (result.score, result.row))
        return tuple(result for result in worst[:count] if result.score < 100)

    def labels(self, row: int) -> Mapping[str, Any]:
        """A row's labels (from 1): every field that is not an input."""
        return labels(self.rows.examples[row - 1])

    def part(self, numbers: Collection[int], repeats: int, target: Target) -> "ProgramEvaluation":
        """The same with these rows (from 1) and so many repeats only."""
        fewer = [repeat.only(set(numbers), self.rows.examples, seed=self.seed) for repeat in self.repeats[:repeats]]
        return replace(
            ProgramEvaluation.of(target, model=self.model, rows=self.rows, seed=self.seed, repeats=fewer),
            partial=self.partial,
        )

    def records(self) -> Iterator[dict[str, Any]]:
        """One dictionary for each row of each repeat: inputs, labels, prediction, and scores by metric."""
        for number, repeat in enumerate(self.repeats, start=1):
            for result in repeat.results:
                fields = result.to_dict()
                yield {
                    "row": result.row,
                    "repeat": number,
                    "inputs": fields["inputs"],
                    "labels": plain(self.labels(result.row), fallback=repr),
                    "prediction": fields["prediction"] or None,
                    "scores": {name: 100 * score.score for name, score in result.scores.items()},
                    "feedback": {name: score.feedback for name, score in result.scores.items()},
                    "errors": {name: failure.message for name, failure in result.failures.items()},
                    "completion": None if result.failure is None else result.failure.completion,
                    "seconds": result.seconds,
                }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data: everything but the single rows, which `records` has."""
        return {
            "program": self.name,
            "model": self.model,
            "rows": {"used": len(self.evaluation.results), "available": self.rows.available, "of": self.rows.shown},
            "seed": self.seed,
            "repeats": len(self.repeats),
            "metrics": {name: _measured(by_metric, self.noise.get(name)) for name, by_metric in self.metrics.items()},
            "deterministic": self.deterministic,
            "confusions": [confusion.to_dict() for confusion in self.confusions],
            "usage": asdict(self.usage),
            "seconds": self.seconds,
            "partial": self.partial or None,
        }


def _measured(evaluation: Evaluation, noise: Noise | None) -> dict[str, Any]:
    fields = evaluation.to_dict()
    for name in ("usage", "seconds", "rows"):
        del fields[name]
    return {**fields, "noise": noise.to_dict() if noise else None}
