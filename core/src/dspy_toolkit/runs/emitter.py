"""Filling in what every event of a run carries."""

import threading

from dspy_toolkit.lm.meter import Meter
from dspy_toolkit.lm.quiet import loud
from dspy_toolkit.runs.events import Event, EventKind, EventSink, Stage

__all__ = ["Emitter"]


class Emitter:
    """Fills in what every event of a run carries and hands it to the sink, one at a time."""

    def __init__(self, sink: EventSink | None, meter: Meter, *, run: str = ""):
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
