"""What a metric says about one row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Score"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score from 0 to 1 and the sentence that says why (may be empty).

    `parts` are the scores, from 0 to 1 and by name, that a combined score was made of.
    """

    score: float
    feedback: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
