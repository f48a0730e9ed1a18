"""What a run returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.optimize.evaluate import ErrorGroup, Evaluation, Usage
from dspy_toolkit.optimize.scores import Comparison, ScoreEstimate

__all__ = ["OptimizationResult"]


@dataclass(frozen=True, kw_only=True)
class OptimizationResult:
    """One optimization run: scores on the held-out rows before and after, what it cost, what it was made from.

    `promoted` says whether the paired interval clears the baseline. A result that comes with OptimizationInterrupted
    has only what was finished: `optimized` and `comparison` are None, `baseline` may be, `program` may be.
    """

    program: dspy.Module | None
    task: str
    model: str
    optimizer: str
    parameters: Mapping[str, Any]
    metric: str
    seed: int
    data_digest: str
    rows: Mapping[str, int]
    baseline: ScoreEstimate | None
    optimized: ScoreEstimate | None
    comparison: Comparison | None
    baseline_evaluation: Evaluation | None
    optimized_evaluation: Evaluation | None
    usage: Usage
    errors: tuple[ErrorGroup, ...]
    seconds: float

    @property
    def promoted(self) -> bool:
        return self.comparison is not None and self.comparison.clears

    @property
    def lm_calls(self) -> int:
        return self.usage.lm_calls

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data: everything but the program and the single rows."""
        raise NotImplementedError
