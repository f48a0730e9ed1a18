"""What a metric says about one row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Score"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score from 0 to 1 and the sentence that says why (may be empty).

    `parts` are the scores, from 0 to 1 and by name, that a combined score was made of.

    Counts as its number where DSPy adds scores up, and as true from 0.5 on, so that a metric of this package can be
    given to `dspy.Evaluate` and DSPy's optimizers as it is.
    """

    score: float
    feedback: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    def __float__(self) -> float:
        return self.score

    def __bool__(self) -> bool:
        return self.score >= 0.5

    def __add__(self, other: object) -> float:
        return self.score + float(other) if isinstance(other, int | float | Score) else NotImplemented

    __radd__ = __add__
