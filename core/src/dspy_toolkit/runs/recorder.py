"""What of a run goes into its journal, and in which form."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dspy_toolkit.runs.journal import Journal

if TYPE_CHECKING:
    from dspy_toolkit.evaluation.evaluate import RowResult
    from dspy_toolkit.lm.usage import Call
    from dspy_toolkit.optimize.planning.plan import Plan
    from dspy_toolkit.runs.events import Event

__all__ = ["Recorder"]

_APART = 1.0
"""Seconds between two candidates without a score that are written with their state: each replaces the one before."""


class Recorder:
    """Writes a run into a journal, or nowhere if there is none; may be called from several threads.

    A text that many calls share (the system message, demonstrations) is written once, as an entry `text` whose key is
    its sha256, and referred to.
    """

    def __init__(self, journal: Journal | None):
        self.journal = journal
        self.stage = ""
        self._written: dict[str, str] = {}
        self._lock = threading.Lock()
        self._begun = False
        self._early: list[Event] = []
        self._stored = -_APART

    def begin(self, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """The run begins, or goes on. Events told before are written after this."""
        for entry in self.journal.entries("text") if self.journal is not None else ():
            self._written[entry.data["text"]] = entry.key
        self._append("run", identity)
        self._append("about", about)
        self._begun = True
        for event in self._early:
            self.event(event)
        self._flush()

    def plan(self, plan: "Plan") -> None:
        """What the run is expected to take. One that goes on writes another, of the whole run."""
        self._append("plan", plan.to_dict())

    def event(self, event: "Event") -> None:
        """What people are told."""
        if not self._begun:
            self._early.append(event)
        else:
            self._append("event", asdict(event))

    def candidate(
        self, number: int, *, score: float | None, message: str, state: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        """A program the search keeps; on disk when this returns. `state` gives DSPy's."""
        if self.journal is None:
            return
        told = score is not None or time.monotonic() - self._stored >= _APART
        if told:
            self._stored = time.monotonic()
        self._append(
            "candidate",
            {
                "stage": self.stage,
                "number": number,
                "score": score,
                "message": message,
                "state": state() if told else None,
            },
        )
        self._flush()

    def end(self, status: str, result: Mapping[str, Any], *, version: str | None, bundle: str | None) -> None:
        """The run ends, for now; on disk when this returns."""
        self._append("end", {"status": status, "result": result, "version": version, "bundle": bundle})
        self._flush()

    def row(self, stage: str, result: "RowResult") -> None:
        """An evaluated row."""
        self._append("row", {"stage": stage, **result.fields()})

    def call(self, call: "Call") -> None:
        """An LM call that ended."""
        if self.journal is None:
            return
        *shared, last = call.messages
        self._append(
            "call",
            {
                "stage": self.stage,
                "model": call.model,
                "seconds": call.seconds,
                "cached": call.cached,
                "input_tokens": call.input_tokens,
                "output_tokens": call.output_tokens,
                "cost": call.cost,
                "error": call.error,
                "prompt": [*map(self._reference, shared), {"role": last["role"], "text": last.get("content")}],
                "outputs": call.outputs,
            },
        )

    def _append(self, kind: str, data: Mapping[str, Any], *, key: str = "") -> None:
        if self.journal is not None:
            self.journal.append(kind, data, key=key)

    def _flush(self) -> None:
        if self.journal is not None:
            self.journal.flush()

    def _reference(self, message: Mapping[str, Any]) -> dict[str, Any]:
        text = message.get("content")
        if not isinstance(text, str):
            return {"role": message["role"], "text": text}
        with self._lock:
            sha = self._written.get(text)
            if sha is None:
                sha = self._written[text] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
                self._append("text", {"text": text}, key=sha)
        return {"role": message["role"], "sha": sha}
