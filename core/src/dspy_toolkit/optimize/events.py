"""What a run tells while it goes: one stream of events, enough for a progress bar with time left and best so far."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "EventKind", "EventSink", "Stage"]

Stage = Literal["baseline", "search", "optimized", "evaluate"]
EventKind = Literal["stage_started", "progress", "candidate", "stage_finished", "note"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened.

    `stage_started` and `stage_finished` frame a stage and come exactly once each (`stage_finished` not after an error);
    `progress` comes when a unit of work is done; `candidate` when the search found something to keep; `note` is a
    message for people. `done` of `total` units of the stage are finished (rows, or steps of the search; `total` is
    None when unknown). `score` is the stage's mean so far, `best` the best candidate's so far, both 0-100 or None.
    `seconds` and `lm_calls` (cache hits left out) count from the start of the run.
    """

    kind: EventKind
    stage: Stage
    done: int = 0
    total: int | None = None
    score: float | None = None
    best: float | None = None
    lm_calls: int = 0
    seconds: float = 0.0
    message: str = ""


EventSink = Callable[[Event], None]
"""Called from whichever thread did the work, one call at a time. What it raises ends the run."""
