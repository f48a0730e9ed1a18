"""Writing a run into its journal, from any of its threads."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dspy_toolkit.lm.usage import Call
from dspy_toolkit.runs.events import Event
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.records import (
    About,
    CallRecord,
    CandidateRecord,
    EndRecord,
    PlanRecord,
    RowRecord,
    RunStarted,
    TextRecord,
    read_records,
    write_record,
)
from dspy_toolkit.runs.wire import Record

__all__ = ["Recorder"]

_STATE_PERIOD = 1.0
"""Seconds between two candidates without a score whose state is written: each replaces the one before."""


class Recorder:
    """Writes a run into a journal, or nowhere if there is none.

    A text that many calls share (the system message, demonstrations) is written once, as a TextRecord, and referred to
    by its sha256.
    """

    def __init__(self, journal: Journal | None):
        self.journal = journal
        self.stage = ""
        self._shas: dict[str, str] = {}
        self._lock = threading.Lock()
        self._begun = False
        self._early_events: list[Event] = []
        self._state_written = -_STATE_PERIOD

    def begin(self, started: RunStarted, about: About) -> None:
        """A session of the run begins. Events that came earlier are written after this."""
        if self.journal is not None:
            self._shas = {text.record.text: text.record.sha for text in read_records(self.journal, TextRecord)}
        self._write(started)
        self._write(about)
        self._begun = True
        for event in self._early_events:
            self.event(event)
        self._flush()

    def plan(self, plan: PlanRecord) -> None:
        self._write(plan)

    def event(self, event: Event) -> None:
        if self._begun:
            self._write(event)
        else:
            self._early_events.append(event)

    def row(self, row: RowRecord) -> None:
        self._write(row)

    def candidate(
        self, number: int, *, score: float | None, message: str, state: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        """A program the search keeps; on disk when this returns. `state` gives DSPy's."""
        if self.journal is None:
            return
        with_state = score is not None or time.monotonic() - self._state_written >= _STATE_PERIOD
        if with_state:
            self._state_written = time.monotonic()
        self._write(
            CandidateRecord(
                stage=self.stage,
                number=number,
                score=score,
                message=message,
                state=state() if with_state else None,
            )
        )
        self._flush()

    def call(self, call: Call) -> None:
        """An LM call that ended."""
        if self.journal is None:
            return
        *shared, last = call.messages
        self._write(
            CallRecord(
                stage=self.stage,
                model=call.model,
                seconds=call.seconds,
                cached=call.cached,
                input_tokens=call.input_tokens,
                output_tokens=call.output_tokens,
                cost=call.cost,
                error=call.error,
                prompt=[*map(self._reference, shared), {"role": last["role"], "text": last.get("content")}],
                outputs=call.outputs,
            )
        )

    def end(self, end: EndRecord) -> None:
        """The session ends; on disk when this returns."""
        self._write(end)
        self._flush()

    def _write(self, record: Record) -> None:
        if self.journal is not None:
            write_record(self.journal, record)

    def _flush(self) -> None:
        if self.journal is not None:
            self.journal.flush()

    def _reference(self, message: Mapping[str, Any]) -> dict[str, Any]:
        text = message.get("content")
        if not isinstance(text, str):
            return {"role": message["role"], "text": text}
        with self._lock:
            sha = self._shas.get(text)
            if sha is None:
                sha = self._shas[text] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
                self._write(TextRecord(text=text, sha=sha))
        return {"role": message["role"], "sha": sha}
