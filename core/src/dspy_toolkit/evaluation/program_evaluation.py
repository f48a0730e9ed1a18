"""A program measured on rows: one score for each metric, what went wrong, what it cost, and every answer."""

import enum
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dspy

from dspy_toolkit.evaluation.confusion import Confusion
from dspy_toolkit.evaluation.evaluate import Evaluation, RowResult
from dspy_toolkit.evaluation.repeats import Noise, combined, total_usage
from dspy_toolkit.evaluation.rows import EvaluationRows, labelled, labels
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics.labels import label_key
from dspy_toolkit.programs.target import Target

__all__ = ["ProgramEvaluation", "completion_of"]

_FEW = 12
"""Different labels up to which a table of labels and answers can be read."""

_DISTINCT_SHARE = 0.5
"""Where more of the rows than this have a label of their own, it is free text, not a class."""


@dataclass(frozen=True, kw_only=True)
class ProgramEvaluation:
    """`metrics` has an Evaluation by each metric's name, the first deciding; `repeats` the same for each repeat.

    Where there were repeats, a row's score in `metrics` is its mean, and its answer the worst of them. `noise` is by
    metric, empty for one repeat. `confusions` count the answers of all repeats. `partial` says what is missing, or is
    empty.
    """

    name: str
    model: str
    rows: EvaluationRows
    seed: int
    repeats: tuple[Mapping[str, Evaluation], ...]
    metrics: Mapping[str, Evaluation]
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
        repeats: Sequence[Mapping[str, Evaluation]],
        partial: str = "",
    ) -> "ProgramEvaluation":
        names = list(repeats[0])
        each = {name: [repeat[name] for repeat in repeats] for name in names}
        noise = {name: Noise.of(evaluations) for name, evaluations in each.items()}
        first = [repeat[names[0]] for repeat in repeats]
        return cls(
            name=target.shown,
            model=model,
            rows=rows,
            seed=seed,
            repeats=tuple(repeats),
            metrics={name: combined(evaluations, seed=seed) for name, evaluations in each.items()},
            noise={name: found for name, found in noise.items() if found is not None},
            confusions=tuple(_confusions(target.plain(), rows.examples, first)),
            partial=partial,
        )

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
        return total_usage([repeat[self.metric] for repeat in self.repeats])

    @property
    def seconds(self) -> float:
        return sum(repeat[self.metric].seconds for repeat in self.repeats)

    def lowest(self, count: int) -> tuple[RowResult, ...]:
        """The rows that scored lowest by the metric that decides, the worst first, without those that scored 100."""
        worst = sorted(self.evaluation.results, key=lambda result: (result.score, result.row))
        return tuple(result for result in worst[:count] if result.score < 100)

    def labels(self, row: int) -> Mapping[str, Any]:
        """What a row, from 1, has beside its inputs."""
        return labels(self.rows.examples[row - 1])

    def part(self, numbers: Sequence[int], repeats: int, target: Target) -> "ProgramEvaluation":
        """The same with these rows (from 1) and so many repeats only."""
        from dspy_toolkit.evaluation.several import evaluation_of

        wanted = set(numbers)

        def kept(each: Evaluation) -> Evaluation:
            results = [result for result in each.results if result.row in wanted]
            return evaluation_of(each.set_metric, results, self.rows.examples, each, self.seed)

        fewer = [{name: kept(each) for name, each in repeat.items()} for repeat in self.repeats[:repeats]]
        return replace(
            ProgramEvaluation.of(target, model=self.model, rows=self.rows, seed=self.seed, repeats=fewer),
            partial=self.partial,
        )

    def records(self) -> Iterator[dict[str, Any]]:
        """One dictionary for each row of each repeat: what was asked, answered, expected, and said of it."""
        for number, repeat in enumerate(self.repeats, start=1):
            for results in zip(*(each.results for each in repeat.values()), strict=True):
                by_metric = dict(zip(repeat, results, strict=True))
                plain = results[0].to_dict()
                yield {
                    "row": plain["row"],
                    "repeat": number,
                    "inputs": plain["inputs"],
                    "labels": replace(results[0], inputs=self.labels(plain["row"])).to_dict()["inputs"],
                    "prediction": plain["prediction"] or None,
                    "scores": {name: result.score for name, result in by_metric.items()},
                    "feedback": {name: result.feedback for name, result in by_metric.items()},
                    "errors": {name: result.error for name, result in by_metric.items() if result.error},
                    "completion": completion_of(results[0]),
                    "seconds": plain["seconds"],
                }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data: everything but the single rows, which `records` has."""
        return {
            "program": self.name,
            "model": self.model,
            "rows": {"used": len(self.evaluation.results), "available": self.rows.available, "of": self.rows.shown},
            "seed": self.seed,
            "repeats": len(self.repeats),
            "metrics": {name: _measured(each, self.noise.get(name)) for name, each in self.metrics.items()},
            "deterministic": self.deterministic,
            "confusions": [confusion.to_dict() for confusion in self.confusions],
            "usage": asdict(self.usage),
            "seconds": self.seconds,
            "partial": self.partial or None,
        }


def completion_of(result: RowResult) -> str | None:
    """The model's raw answer, where it could not be parsed."""
    text = getattr(result.raised, "lm_response", None)
    return None if text is None else str(text)


def _measured(evaluation: Evaluation, noise: Noise | None) -> dict[str, Any]:
    plain = evaluation.to_dict()
    kept = {key: plain[key] for key in plain if key not in ("usage", "seconds", "rows")}
    for group in kept["errors"]:
        group["completion"] = next(
            (
                text
                for result in evaluation.results
                if result.row == group["row"] and (text := completion_of(result)) is not None
            ),
            None,
        )
    return {**kept, "noise": noise.to_dict() if noise else None}


def _confusions(
    program: dspy.Module, rows: Sequence[dspy.Example], repeats: Sequence[Evaluation]
) -> Iterator[Confusion]:
    for field, annotation in labelled(program, rows).items():
        results = [result for repeat in repeats for result in repeat.results if field in rows[result.row - 1]]
        golds = [rows[result.row - 1][field] for result in results]
        options = _options(annotation)
        distinct = {label_key(gold) for gold in golds}
        if not options and (
            len(distinct) > min(_FEW, _DISTINCT_SHARE * len(golds) / len(repeats))
            or not all(isinstance(gold, str | int | float | bool) for gold in golds)
        ):
            continue
        yield Confusion.of(
            field,
            [
                (gold, None if result.prediction is None else result.prediction.get(field))
                for gold, result in zip(golds, results, strict=True)
            ],
            options=options,
        )


def _options(annotation: Any) -> list[Any]:
    """The values a type allows, where they are few and told."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [_options(each) for each in get_args(annotation) if each is not type(None)]
        return [value for each in members for value in each] if all(members) else []
    if origin is Literal:
        return list(get_args(annotation))
    if annotation is bool:
        return [True, False]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return list(annotation)
    return []
