"""One metric made of several. The feedback names each part with its score; `Score.parts` keeps the scores.

Parts that are set metrics are refused: a set's score cannot be told from one row.
"""

from collections.abc import Callable, Iterable, Sequence
from math import floor, prod
from typing import Any

import dspy

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.metric import AnyMetric, Metric
from dspy_toolkit.metrics.score import Score

__all__ = ["lexicographic", "mean", "product", "threshold", "weighted"]

_EXACT = 2**53  # the integers below are exact as floats


def weighted(*parts: tuple[AnyMetric, float], name: str | None = None) -> Metric:
    """The weighted mean: `weighted((exact_match, 3), (rouge_l, 1))`. Weights are above 0 and need not sum to 1.

    What one part gives can make up for what another lacks; where it must not, use `product` or `lexicographic`.
    """
    weights = [weight for _, weight in parts]
    if not all(isinstance(weight, int | float) and 0 < weight < float("inf") for weight in weights):
        raise MetricError(f"The weights are {weights}; expected numbers above 0.")
    total = sum(weights)
    shares = tuple(weight / total for weight in weights)
    return _combined(
        "weighted",
        [part for part, _ in parts],
        lambda scores: sum(share * score for share, score in zip(shares, scores, strict=True)),
        name,
        [f"{part} x {weight:g}" for part, weight in zip(_names(part for part, _ in parts), weights, strict=True)],
    )


def mean(metrics: Sequence[AnyMetric], *, name: str | None = None) -> Metric:
    """The plain mean of several metrics; one alone is itself. Raises MetricError for none."""
    parts = [Metric(metric) for metric in metrics]
    if not parts:
        raise MetricError("There is no metric to score with; give at least one.")
    if len(parts) == 1:
        return parts[0]
    return weighted(*((part, 1.0) for part in parts), name=name or f"mean({', '.join(part.name for part in parts)})")


def product(*parts: AnyMetric, name: str | None = None) -> Metric:
    """The product: a row scores 0 as soon as one part does."""
    return _combined("product", parts, prod, name)


def threshold(part: AnyMetric, at_least: float, *, name: str | None = None) -> Metric:
    """1 where the part scores `at_least` (above 0, up to 1), else 0."""
    if not 0 < at_least <= 1:
        raise MetricError(f"The threshold is {at_least}; expected above 0 and up to 1.")
    return _combined(
        "threshold",
        [part],
        lambda scores: float(scores[0] >= at_least),
        name,
        [f"{_names([part])[0]} >= {at_least:g}"],
        verdict=lambda score: f"{'Reached' if score else 'Missed'} the bar of {at_least:g}.",
    )


def lexicographic(*parts: AnyMetric, levels: int = 100, name: str | None = None) -> Metric:
    """Rows ordered by the first part, those that tie by the second, and so on.

    Each part is rounded to `levels` steps, and the steps are the digits of one number: any step of an earlier part
    outweighs all of the later ones. Programs are compared by means over rows, so there a later part can outweigh up to
    1/(levels + 1) of an earlier one.
    """
    if levels < 1 or (levels + 1) ** len(parts) > _EXACT:
        raise MetricError(
            f"{len(parts)} parts of {levels} levels cannot be told apart in one score; use fewer of either, at least 1."
        )

    def ordered(scores: Sequence[float]) -> float:
        number = 0
        for score in scores:
            number = number * (levels + 1) + floor(score * levels + 0.5)
        return number / ((levels + 1) ** len(scores) - 1)

    return _combined("lexicographic", parts, ordered, name)


class _Combined:
    """What the Metric wraps: calls the parts, makes one score of theirs."""

    def __init__(
        self, parts: Sequence[Metric], score: Callable[[Sequence[float]], float], verdict: Callable[[float], str] | None
    ):
        self._parts = dict(zip(_unique(part.name for part in parts), parts, strict=True))
        self._score = score
        self._verdict = verdict

    def __call__(self, gold: Any, pred: Any, trace: Any, pred_name: str | None, pred_trace: Any) -> Score:
        scores = {name: part.score(gold, pred, trace, pred_name, pred_trace) for name, part in self._parts.items()}
        total = self._score([score.score for score in scores.values()])
        sentences = [f"{name} {score.score:.2f}: {score.feedback}".strip() for name, score in scores.items()]
        if self._verdict is not None:
            sentences.insert(0, self._verdict(total))
        parts = {name: score.score for name, score in scores.items()}
        for name, score in scores.items():
            parts.update({f"{name}/{inner}": value for inner, value in score.parts.items()})
        return Score(score=total, feedback=" ".join(sentences), parts=parts)

    def check(self, rows: Iterable[dspy.Example]) -> None:
        rows = list(rows)
        for part in self._parts.values():
            part.check(rows)


def _combined(
    kind: str,
    parts: Sequence[AnyMetric],
    score: Callable[[Sequence[float]], float],
    name: str | None,
    shown: Sequence[str] | None = None,
    verdict: Callable[[float], str] | None = None,
) -> Metric:
    metrics = [Metric(part) for part in parts]
    if not metrics:
        raise MetricError(f"There is nothing to make a {kind} metric of; give at least one part.")
    for metric in metrics:
        if metric.set_metric is not None:
            raise MetricError(
                f"{metric.name} scores a whole set, so it cannot be part of a {kind} metric of rows. Use it alone, or "
                "take it from the same predictions with `measure(evaluation, rows, metric)`."
            )
    shown = [metric.name for metric in metrics] if shown is None else shown
    return Metric(_Combined(metrics, score, verdict), name=name or f"{kind}({', '.join(shown)})")


def _names(parts: Iterable[AnyMetric]) -> list[str]:
    return [Metric(part).name for part in parts]


def _unique(names: Iterable[str]) -> list[str]:
    """Names made different by a number where two are the same."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return unique
