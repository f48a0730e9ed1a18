"""What there is to send to MLflow, in plain words: the story makes it of the journal, the mirror writes it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dspy_toolkit.runs.records import CallRecord, CandidateRecord, Recorded

__all__ = ["Data", "Point", "Status", "TracedCall", "Update"]

Status = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]
"""MLflow's own words."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of a metric. `time` is in Unix seconds."""

    key: str
    value: float
    time: float
    step: int


@dataclass(frozen=True, kw_only=True)
class TracedCall:
    """A call that becomes a trace. `seq` is its place in the journal, `end` in Unix seconds; `messages` is its prompt
    with every text in place.
    """

    seq: int
    end: float
    record: CallRecord
    messages: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows a run was made with: a name, the digest of all of them, how many per set."""

    name: str
    digest: str
    rows: Mapping[str, int]


@dataclass(kw_only=True)
class Update:
    """What to write, in any order but the status, which is last. Writing it twice is writing it once.

    `files` are artifacts by their path, `folders` folders of them; `tables` have their columns by name.
    """

    name: str = ""
    project: str = ""
    started: float | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Point] = field(default_factory=list)
    data: Data | None = None
    calls: list[TracedCall] = field(default_factory=list)
    candidates: list[Recorded[CandidateRecord]] = field(default_factory=list)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    status: Status | None = None
    ended: float | None = None

    def add(self, values: Mapping[str, Any], *, time: float, step: int) -> None:
        """A point of each metric whose value is a finite number; scores that are none are recorded as text or None."""
        for key, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self.metrics.append(Point(key=key, value=float(value), time=time, step=step))
