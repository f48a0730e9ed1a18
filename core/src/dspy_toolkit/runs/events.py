"""What a run reports while it works: one stream of events, enough for a progress bar with time left and best so far."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from dspy_toolkit.runs.wire import Record

__all__ = ["Event", "EventKind", "EventSink", "Stage"]

Stage = Literal["baseline", "search", "optimized", "evaluate"]
EventKind = Literal["stage_started", "progress", "candidate", "stage_finished", "note"]


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """One thing that happened.

    `stage_started` and `stage_finished` frame a stage and come once each (`stage_finished` not after an error);
    `progress` comes when a unit of work is done; `candidate` when the search has a program to keep; `note` is a
    message for people. `done` of `total` units of the stage are finished (rows, or steps of the search; `total` is
    None when unknown). `score` is the stage's mean so far, `best` the best so far, both 0-100 or None. `lm_calls`
    (cache hits left out) and `seconds` count from the start of the run, which has the id `run` if it has a record;
    `planned_calls` is how many calls the run's plan expects in all, or None.
    """

    KIND: ClassVar[str] = "event"

    kind: EventKind = "note"
    stage: Stage = "search"
    done: int = 0
    total: int | None = None
    score: float | None = None
    best: float | None = None
    lm_calls: int = 0
    planned_calls: int | None = None
    seconds: float = 0.0
    message: str = ""
    run: str = ""


EventSink = Callable[[Event], None]
"""Called one event at a time. It may print; what it raises ends the run."""
