"""What there is to tell MLflow, in plain words: the story makes it of the journal, the mirror writes it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Call", "Candidate", "Data", "Point", "Status", "Update"]

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
class Call:
    """One call of a model that becomes a trace. `seq` is its place in the journal, `end` in Unix seconds."""

    seq: int
    stage: str
    model: str
    end: float
    seconds: float
    cached: bool
    messages: list[dict[str, Any]]
    outputs: list[Any]
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    error: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One program the search kept. `key` is the same for the same candidate of a run that was resumed."""

    key: str
    number: int
    score: float | None
    message: str
    program: Any
    time: float


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
    calls: list[Call] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    status: Status | None = None
    ended: float | None = None

    def add(self, key: str, value: Any, *, time: float, step: int) -> None:
        """A point of a metric, if `value` is a number; scores that are no number are written as text or None."""
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self.metrics.append(Point(key=key, value=float(value), time=time, step=step))
