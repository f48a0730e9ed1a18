"""The record of a measurement: an evaluation is a run, with a journal, and in MLflow, as an optimization is."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from pydantic_core import to_json

from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.evaluation.rows import EvaluationRows
from dspy_toolkit.runs.events import Event, EventSink
from dspy_toolkit.runs.identity import about
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.recorder import Recorder
from dspy_toolkit.runs.records import EndRecord, RunStarted

__all__ = ["Measurement", "digest", "recording"]

Open = Callable[[EventSink | None], AbstractContextManager[Journal]]
"""Opens the journal of a new run; what cannot be sent is told to the sink."""


class Measurement:
    """One measurement while it is made. `journal` is None where it cannot be recorded."""

    def __init__(self, journal: Journal | None, then: EventSink | None):
        self.journal = journal
        self.record = Recorder(journal)
        self._then = then

    def begin(self, identity: Mapping[str, Any]) -> None:
        self.record.begin(RunStarted(identity=identity), about({}))

    def tell(self, event: Event) -> None:
        """What people are told, which is recorded too."""
        self.record.event(event)
        if self._then is not None:
            self._then(event)

    def end(self, status: str, evaluation: ProgramEvaluation | None) -> None:
        """The result, or what there is of it."""
        self.record.end(EndRecord(status=status, result={} if evaluation is None else _result(evaluation)))


@contextmanager
def recording(open_journal: Open | None, on_event: EventSink | None) -> Iterator[Measurement]:
    """A measurement, whose end is recorded as failed or interrupted when it raises.

    Where no record can be written (a read-only folder) a note says so, and it is made all the same.
    """
    if open_journal is None:
        yield Measurement(None, on_event)
        return
    with ExitStack() as opened:
        try:
            journal = opened.enter_context(open_journal(on_event))
        except OptimizationError as error:
            journal = None
            if on_event is not None:
                on_event(Event(kind="note", stage="evaluate", message=f"Not recorded: {error}"))
        measurement = Measurement(journal, on_event)
        try:
            yield measurement
        except BaseException as error:  # Ctrl-C too; how it ended is recorded before it goes on
            stopped = isinstance(error, OptimizationInterrupted | KeyboardInterrupt)
            partial = getattr(error, "partial", None)
            measurement.end(
                "interrupted" if stopped else "failed", partial if isinstance(partial, ProgramEvaluation) else None
            )
            raise


def digest(rows: EvaluationRows) -> str:
    """Equal for equal rows in any order. A value that JSON cannot hold counts by its type: no reason not to measure."""
    texts = sorted(to_json(dict(row.items()), fallback=lambda value: str(type(value))) for row in rows.examples)
    return hashlib.sha256(b"\n".join(texts)).hexdigest()


def _result(measured: ProgramEvaluation) -> dict[str, Any]:
    whole = measured.evaluation.to_dict()
    scores = {name: evaluation.score.score for name, evaluation in measured.metrics.items()}
    return {
        **{name: value for name, value in whole.items() if name != "rows"},
        "errors": [{"stage": "evaluate", **group} for group in whole["errors"]],
        "parts": {**whole.get("parts", {}), **(scores if len(scores) > 1 else {})},
        "usage": vars(measured.usage),
        "lm_calls": measured.usage.lm_calls,
        "seconds": measured.seconds,
        "partial": measured.partial,
        "noise": {name: noise.to_dict() for name, noise in measured.noise.items()},
    }
