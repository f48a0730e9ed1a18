"""What a run tells while it goes: one stream of events, enough for a progress bar with time left and best so far."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dspy_toolkit.lm.quiet import loud

if TYPE_CHECKING:
    from dspy_toolkit.lm.meter import Meter

__all__ = ["Emitter", "Event", "EventKind", "EventSink", "Stage"]

Stage = Literal["baseline", "search", "optimized", "evaluate"]
EventKind = Literal["stage_started", "progress", "candidate", "stage_finished", "note"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened.

    `stage_started` and `stage_finished` frame a stage and come once each (`stage_finished` not after an error);
    `progress` comes when a unit of work is done; `candidate` when the search found something to keep; `note` is a
    message for people. `done` of `total` units of the stage are finished (rows, or steps of the search; `total` is
    None when unknown). `score` is the stage's mean so far, `best` the best so far, both 0-100 or None. `lm_calls`
    (cache hits left out) and `seconds` count from the start of the run, which has the id `run` if it has a record;
    `planned_calls` is how many calls the run's plan expects in all, or None.
    """

    kind: EventKind
    stage: Stage
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


class Emitter:
    """Fills in what every event of a run carries and hands it to the sink, one at a time."""

    def __init__(self, sink: EventSink | None, meter: "Meter", *, run: str = ""):
        self._sink = sink
        self.meter = meter
        self._run = run
        self._lock = threading.RLock()
        self._best: float | None = None
        self.planned_calls: int | None = None

    @property
    def seconds(self) -> float:
        return self.meter.seconds

    def start(self, stage: Stage, total: int | None, message: str = "") -> None:
        self._emit("stage_started", stage, total=total, message=message)

    def progress(self, stage: Stage, done: int, total: int | None, *, score: float | None, message: str = "") -> None:
        self._emit("progress", stage, done=done, total=total, score=score, message=message)

    def candidate(self, stage: Stage, done: int, total: int | None, *, score: float | None, message: str) -> None:
        self._emit("candidate", stage, done=done, total=total, score=score, message=message)

    def finish(self, stage: Stage, done: int, *, score: float | None, message: str = "") -> None:
        if score is not None and stage in ("baseline", "optimized"):
            self._best = score if self._best is None else max(self._best, score)
        self._emit("stage_finished", stage, done=done, total=done, score=score, message=message)

    def note(self, stage: Stage, message: str) -> None:
        self._emit("note", stage, message=message)

    def _emit(
        self,
        kind: EventKind,
        stage: Stage,
        *,
        done: int = 0,
        total: int | None = None,
        score: float | None = None,
        message: str = "",
    ) -> None:
        if self._sink is None:
            return
        event = Event(
            kind=kind,
            stage=stage,
            done=done,
            total=total,
            score=score,
            best=self._best,
            lm_calls=self.meter.usage.lm_calls,
            planned_calls=self.planned_calls,
            seconds=self.seconds,
            message=message,
            run=self._run,
        )
        with self._lock, loud():
            self._sink(event)
