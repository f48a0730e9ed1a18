"""What a run is going to take, said before it begins: calls, tokens, minutes and money, each with a range."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.optimize.planning.amount import NOTHING, Amount
from dspy_toolkit.values import plain

__all__ = ["Plan", "PlanRow"]

PlanStage = Literal["baseline", "search", "optimized"]


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One line of a plan. `calls` leaves out what the cache will answer. `seconds` is None where nothing was measured,
    `cost` (US dollars) where the model has no list price.
    """

    stage: PlanStage
    what: str
    model: str
    calls: Amount
    read: Amount
    written: Amount
    seconds: Amount | None = None
    cost: Amount | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        amounts = {"calls": self.calls, "input_tokens": self.read, "output_tokens": self.written}
        optional = {"seconds": self.seconds, "cost": self.cost}
        return {
            "stage": self.stage,
            "what": self.what,
            "model": self.model,
            **{name: amount.to_dict() for name, amount in amounts.items()},
            **{name: amount and amount.to_dict() for name, amount in optional.items()},
            "why": self.why,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run before it begins. `unknown` is why nothing can be said of the search, or empty. `measured` has what the
    calibration asked for, or is None without one.
    """

    task: str
    model: str
    optimizer: str
    reason: str
    parameters: Mapping[str, Any]
    rows: Mapping[str, int]
    num_threads: int
    lines: tuple[PlanRow, ...]
    notes: tuple[str, ...] = ()
    unknown: str = ""
    measured: Usage | None = None
    measured_seconds: float = 0.0

    def total(self, stage: PlanStage | None = None) -> PlanRow:
        """All lines, or those of a stage, as one; without the search where that is unknown."""
        lines = [line for line in self.lines if stage in (None, line.stage)]
        seconds = [line.seconds for line in lines if line.seconds is not None]
        costs = [line.cost for line in lines if line.cost is not None]
        return PlanRow(
            stage=stage or "search",
            what="total",
            model="",
            calls=sum((line.calls for line in lines), NOTHING),
            read=sum((line.read for line in lines), NOTHING),
            written=sum((line.written for line in lines), NOTHING),
            seconds=sum(seconds, NOTHING) if seconds else None,
            cost=sum(costs, NOTHING) if costs else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "task": self.task,
            "model": self.model,
            "optimizer": self.optimizer,
            "reason": self.reason,
            "parameters": plain(dict(self.parameters)),
            "rows": dict(self.rows),
            "num_threads": self.num_threads,
            "lines": [line.to_dict() for line in self.lines],
            "total": self.total().to_dict(),
            "notes": list(self.notes),
            "unknown": self.unknown,
            "measured": None if self.measured is None else {**vars(self.measured), "seconds": self.measured_seconds},
        }
