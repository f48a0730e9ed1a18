"""Scores with intervals, and whether one run beats another on the same rows. No array library, no DSPy.

All scores here are on DSPy's 0-100 scale; a metric's own 0-1 scores are multiplied by 100 once, by `evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Comparison", "ScoreEstimate", "compare", "estimate"]

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class ScoreEstimate:
    """A mean score on the 0-100 scale with its 95 % bootstrap interval, over `n` rows."""

    score: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Second run minus first run, row by row, on the 0-100 scale.

    `difference` is the mean of the paired differences, `low`/`high` its 95 % bootstrap interval, `p_value` that of the
    two-sided sign test (ties left out), `wins`/`losses`/`ties` the rows where the second run scored higher, lower, the same.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    ties: int

    @property
    def clears(self) -> bool:
        """Whether the interval lies above zero: the gate for promoting a program."""
        return self.low > 0


def estimate(scores: Sequence[float], *, seed: int = 0) -> ScoreEstimate:
    """Mean and percentile-bootstrap interval of per-row scores (0-100)."""
    raise NotImplementedError


def compare(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Comparison:
    """Paired bootstrap and sign test of per-row scores (0-100) of two runs on the same rows, in the same order."""
    raise NotImplementedError
