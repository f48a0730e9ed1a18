"""What a run returns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import dspy

from dspy_toolkit.evaluation.results import ErrorGroup, Evaluation
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.stats.intervals import Comparison, ScoreEstimate
from dspy_toolkit.values import plain

__all__ = ["OptimizationResult", "ResultStatus"]

ResultStatus = Literal["finished", "budget", "interrupted", "failed"]
"""How a run ended. `budget`: a budget ended it, and the best program until then was measured."""


@dataclass(frozen=True, kw_only=True)
class OptimizationResult:
    """One optimization run: scores on the held-out rows before and after, what it cost, what it was made from.

    `program` is the optimized program, without an LM. `rows` is how many rows of each set were used. `errors` are the
    failures of the search; those of the evaluations are in the evaluations. A result that comes with
    OptimizationInterrupted has what was finished: `optimized` and `comparison` are None, `program` and `baseline` may
    be. `reason` is why this optimizer was taken, where it was chosen by rule; `run` the id of the run's record, if it
    has one; `note` what a budget that ended it has to say; `models` those
    of predictors that bring an LM of their own, which `model` does not answer for.
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
    baseline_evaluation: Evaluation | None
    optimized_evaluation: Evaluation | None
    comparison: Comparison | None
    usage: Usage
    errors: tuple[ErrorGroup, ...]
    seconds: float
    reason: str = ""
    status: ResultStatus = "finished"
    run: str = ""
    note: str = ""
    models: Mapping[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> ScoreEstimate | None:
        """The unoptimized program's score on the test rows."""
        return self.baseline_evaluation and self.baseline_evaluation.score

    @property
    def optimized(self) -> ScoreEstimate | None:
        """The optimized program's score on the same rows."""
        return self.optimized_evaluation and self.optimized_evaluation.score

    @property
    def promoted(self) -> bool:
        """Whether the paired interval clears the baseline, so that the program may replace it."""
        return self.comparison is not None and self.comparison.clears

    @property
    def lm_calls(self) -> int:
        """Calls not answered from the cache, of the whole run."""
        return self.usage.lm_calls

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data: everything but the program and the single rows."""
        return {
            "run": self.run,
            "status": self.status,
            "note": self.note,
            "task": self.task,
            "model": self.model,
            **({"models": dict(self.models)} if self.models else {}),
            "optimizer": self.optimizer,
            "reason": self.reason,
            "parameters": plain(dict(self.parameters)),
            "metric": self.metric,
            "seed": self.seed,
            "data_digest": self.data_digest,
            "rows": dict(self.rows),
            "baseline": self.baseline and asdict(self.baseline),
            "optimized": self.optimized and asdict(self.optimized),
            "comparison": self.comparison and asdict(self.comparison),
            "promoted": self.promoted,
            "lm_calls": self.lm_calls,
            "usage": asdict(self.usage),
            "errors": self._all_errors(),
            "seconds": self.seconds,
        }

    def _all_errors(self) -> list[dict[str, Any]]:
        stages = {
            "baseline": self.baseline_evaluation.errors if self.baseline_evaluation else (),
            "search": self.errors,
            "optimized": self.optimized_evaluation.errors if self.optimized_evaluation else (),
        }
        return [{"stage": stage, **asdict(group)} for stage, groups in stages.items() for group in groups]
