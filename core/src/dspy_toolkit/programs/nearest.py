"""A program that shows each call the demonstrations most like it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import dspy

__all__ = ["Entry", "Nearest", "text_of"]

Entry = tuple[str, Mapping[str, Any]]
"""The text to compare with, and a demonstration for each predictor by name."""


class Nearest(dspy.Module):
    """Runs `module` with the demonstrations of the `k` entries most like the call's inputs, the likest last.

    Likeness is the cosine of counts of character trigrams, ties by order: no model, the same on every machine. Calls
    from several threads are fine; `module` itself, which has no demonstrations, is left as it is.
    """

    def __init__(self, module: dspy.Module, entries: Sequence[Entry], *, k: int):
        super().__init__()
        self.module = module.deepcopy()
        for predictor in self.module.predictors():
            predictor.demos = []
        self.entries = [(text, dict(demos)) for text, demos in entries]
        self.k = k
        self._vectors = [_trigrams(text) for text, _ in self.entries]

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return self.chosen(inputs)(**inputs)

    def chosen(self, inputs: Mapping[str, Any]) -> dspy.Module:
        """The module with the demonstrations it has for `inputs`."""
        query = _trigrams(text_of(inputs))
        order = sorted(range(len(self.entries)), key=lambda number: -_cosine(query, self._vectors[number]))
        return self._showing([self.entries[number][1] for number in reversed(order[: self.k])])

    def pooled(self) -> dspy.Module:
        """The module with all demonstrations, in order; `places` says whose they are."""
        return self._showing([demos for _, demos in self.entries])

    def places(self) -> list[tuple[str, dict[str, int]]]:
        """Each entry's text, and where in `pooled` its demonstrations are, by predictor."""
        counts: Counter[str] = Counter()
        places = []
        for text, demos in self.entries:
            places.append((text, {name: counts[name] for name in demos}))
            counts.update(demos.keys())
        return places

    @classmethod
    def placed(cls, pooled: dspy.Module, places: Sequence[tuple[str, Mapping[str, int]]], *, k: int) -> "Nearest":
        """The inverse of `pooled` and `places`. Raises IndexError or KeyError where they do not fit."""
        demos = {name: list(predictor.demos) for name, predictor in pooled.named_predictors()}
        entries = [(text, {name: demos[name][at] for name, at in where.items()}) for text, where in places]
        return cls(pooled, entries, k=k)

    def _showing(self, demos: Sequence[Mapping[str, Any]]) -> dspy.Module:
        module = self.module.deepcopy()
        for name, predictor in module.named_predictors():
            predictor.demos = [entry[name] for entry in demos if name in entry]
        return module


def text_of(inputs: Mapping[str, Any]) -> str:
    """What of a call's inputs is compared: names and values, in the order of the names."""
    return "  ".join(f"{name}: {value}" for name, value in sorted(inputs.items()))


def _trigrams(text: str) -> Counter[str]:
    padded = f"  {text.lower()}  "
    return Counter(padded[start : start + 3] for start in range(len(padded) - 2))


def _cosine(first: Counter[str], second: Counter[str]) -> float:
    if len(second) < len(first):
        first, second = second, first
    shared = sum(count * second[gram] for gram, count in first.items())
    return shared / sqrt(sum(n * n for n in first.values()) * sum(n * n for n in second.values()))
