"""What a resumed run was asked to do and has used so far, as its journal has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.runs.events import Event
from dspy_toolkit.runs.identity import differences
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.records import CallRecord, EndRecord, RunStarted, read_records

__all__ = ["RunHistory"]


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """All sessions of a run so far. `status` is that of the last one, None if it was killed; `usage` has what was asked
    of the LMs, cache hits left out; `seconds` how long it all took, `baseline_seconds` how long the baseline took when
    its calls were really made.
    """

    identity: Mapping[str, Any]
    status: str | None
    usage: Usage
    seconds: float
    baseline_seconds: float

    @classmethod
    def of(cls, journal: Journal) -> "RunHistory | None":
        """None for a journal in which no run has begun."""
        identity: Mapping[str, Any] | None = None
        status, usage = None, Usage()
        seconds = baseline_started = baseline_seconds = previous = 0.0
        for entry in read_records(journal, RunStarted, CallRecord, Event, EndRecord):
            record = entry.record
            if not isinstance(record, RunStarted):  # between two sessions nobody works
                seconds += max(0.0, entry.time - previous)
            previous = entry.time
            if isinstance(record, RunStarted):
                identity, status = identity or record.identity, None
            elif isinstance(record, EndRecord):
                status = record.status
            elif isinstance(record, CallRecord):
                usage = usage if record.cached else usage + record.usage
            elif record.stage == "baseline" and record.kind == "stage_started":
                baseline_started = record.seconds
            elif record.stage == "baseline" and record.kind == "stage_finished":
                baseline_seconds = max(baseline_seconds, record.seconds - baseline_started)
        if identity is None:
            return None
        return cls(identity=identity, status=status, usage=usage, seconds=seconds, baseline_seconds=baseline_seconds)

    def check(self, run: str, identity: Mapping[str, Any]) -> None:
        """Raise OptimizationError when the run cannot be resumed, or would not be the same run."""
        if self.status == "finished":
            raise OptimizationError(f"The run {run} is finished; there is nothing to resume.")
        different = differences(self.identity, identity)
        if different:
            raise OptimizationError(
                f"The run {run} was asked to do something else: {'; '.join(different)}. Resume it with the same, or "
                "begin a new run."
            )
