"""A program that shows each call the demonstrations most like it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import dspy

__all__ = ["Entry", "Nearest"]

Entry = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The inputs of one row, and its demonstration for each predictor by name."""


class Nearest(dspy.Module):
    """Runs `module` with the `k` entries whose inputs are most like the call's as demonstrations, the likest last.

    Likeness is the cosine of counts of character trigrams, ties by order: no model, the same on every machine. Calls
    from several threads are fine; `module` itself is left as it is.
    """

    def __init__(self, module: dspy.Module, entries: Sequence[Entry], *, k: int):
        super().__init__()
        self.module = module
        self.entries = [(dict(inputs), dict(demos)) for inputs, demos in entries]
        self.k = k
        self._vectors = [_trigrams(inputs) for inputs, _ in self.entries]

    def forward(self, **inputs: Any) -> dspy.Prediction:
        asked = _trigrams(inputs)
        order = sorted(range(len(self.entries)), key=lambda number: -_cosine(asked, self._vectors[number]))
        chosen = [self.entries[number][1] for number in reversed(order[: self.k])]
        module = self.module.deepcopy()
        for name, predictor in module.named_predictors():
            predictor.demos = [demos[name] for demos in chosen if name in demos]
        return module(**inputs)


def _trigrams(inputs: Mapping[str, Any]) -> Counter[str]:
    text = "  ".join(f"{name}: {value}" for name, value in sorted(inputs.items()))
    padded = f"  {text.lower()}  "
    return Counter(padded[start : start + 3] for start in range(len(padded) - 2))


def _cosine(first: Counter[str], second: Counter[str]) -> float:
    if len(second) < len(first):
        first, second = second, first
    shared = sum(count * second[gram] for gram, count in first.items())
    return shared / sqrt(sum(n * n for n in first.values()) * sum(n * n for n in second.values()))
