"""What a run that goes on was asked and has spent so far, as its journal tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.runs.identity import differences
from dspy_toolkit.runs.journal import Journal

__all__ = ["Before"]


@dataclass(frozen=True, kw_only=True)
class Before:
    """All sessions of a run so far. `usage` has what was asked of the LMs, cache hits left out; `seconds` how long it
    all took, `baseline_seconds` how long the baseline took when its calls were really made.
    """

    identity: Mapping[str, Any]
    status: str | None
    usage: Usage
    seconds: float
    baseline_seconds: float

    @classmethod
    def of(cls, journal: Journal) -> "Before | None":
        """None for a journal in which nothing was begun."""
        first, status = None, None
        spent = dict.fromkeys(("lm_calls", "failures", "input_tokens", "output_tokens"), 0)
        cost = seconds = begun = baseline = last = 0.0
        for entry in journal.entries("run", "call", "event", "end"):
            data = entry.data
            # Between two sessions nobody works.
            seconds += 0.0 if entry.kind == "run" else max(0.0, entry.time - last)
            last = entry.time
            if entry.kind == "run":
                first, status = first or data, None
            elif entry.kind == "end":
                status = data["status"]
            elif entry.kind == "event" and data["stage"] == "baseline":
                if data["kind"] == "stage_started":
                    begun = data["seconds"]
                elif data["kind"] == "stage_finished":
                    baseline = max(baseline, data["seconds"] - begun)
            elif entry.kind == "call" and not data["cached"]:
                spent["lm_calls"] += max(1, len(data["outputs"]))
                spent["failures"] += data["error"] is not None
                spent["input_tokens"] += data["input_tokens"]
                spent["output_tokens"] += data["output_tokens"]
                cost += data["cost"] or 0.0
        if first is None:
            return None
        return cls(
            identity=first,
            status=status,
            usage=Usage(**spent, cost=cost),
            seconds=seconds,
            baseline_seconds=baseline,
        )

    def check(self, run: str, identity: Mapping[str, Any]) -> None:
        """Raise OptimizationError when the run cannot go on, or would not be the same run."""
        if self.status == "finished":
            raise OptimizationError(f"The run {run} is finished; there is nothing to go on with.")
        different = differences(self.identity, identity)
        if different:
            raise OptimizationError(
                f"The run {run} was asked to do something else: {'; '.join(different)}. Go on with the same, or begin "
                "a new run."
            )
