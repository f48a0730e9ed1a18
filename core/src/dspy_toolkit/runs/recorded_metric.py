"""What the metric said, kept in the journal: a run that goes on does not measure again what was measured.

A metric may train a model for minutes, and may say another thing each time it is asked.
"""

import hashlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import dspy
from pydantic_core import to_json

from dspy_toolkit.errors import DataError, MetricError
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.records import ScoreRecord, read_records, write_record
from dspy_toolkit.values import plain

__all__ = ["RecordedMetric", "Scores"]

_WORTH = 0.02
"""A result that took so many seconds is on disk before the run goes on; others follow within the journal's period."""


class Scores:
    """The metric's results of a run, by what was asked. May be used from several threads.

    Results that the journal has are handed out in the order they were recorded, each once; then the metric is asked.
    """

    def __init__(self, journal: Journal | None):
        self._journal = journal
        self._lock = threading.Lock()
        self._known: dict[str, deque[ScoreRecord]] = defaultdict(deque)
        for entry in read_records(journal, ScoreRecord) if journal is not None else ():
            self._known[entry.record.question].append(entry.record)

    def get(self, key: str, ask: Callable[[], Score]) -> Score:
        """The recorded result, or what `ask` returns or raises, which is recorded."""
        if self._journal is None:
            return ask()
        with self._lock:
            waiting = self._known.get(key)
            known = waiting.popleft() if waiting else None
        if known is not None:
            return _again(known)
        started = time.perf_counter()
        try:
            score = ask()
        except MetricError as error:
            self._record(ScoreRecord(question=key, error=str(error)), started)
            raise
        self._record(
            ScoreRecord(question=key, score=score.score, feedback=score.feedback, parts=dict(score.parts)), started
        )
        return score

    def _record(self, record: ScoreRecord, started: float) -> None:
        assert self._journal is not None
        write_record(self._journal, record)
        if time.perf_counter() - started >= _WORTH:
            self._journal.flush()


class RecordedMetric(Metric):
    """The metric as a run asks it: through `scores`. `on_error` is told what it raises, for DSPy forgets that."""

    def __init__(
        self,
        metric: Metric | Callable[..., Any],
        *,
        scores: Scores,
        on_error: Callable[[MetricError], None] | None = None,
        threshold: float = 0.5,
    ):
        super().__init__(metric, threshold=threshold)
        self._scores = scores
        self._on_error = on_error

    def with_threshold(self, threshold: float) -> "RecordedMetric":
        return RecordedMetric(self, scores=self._scores, on_error=self._on_error, threshold=threshold)

    def score(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Score:
        asked = super().score
        form = [trace is not None, pred_name, pred_trace is not None]
        try:
            return self._scores.get(
                _key(self.name, gold, pred, form), lambda: asked(gold, pred, trace, pred_name, pred_trace)
            )
        except MetricError as error:
            if self._on_error is not None:
                self._on_error(error)
            raise


def _again(known: ScoreRecord) -> Score:
    if known.error is not None:
        raise MetricError(known.error)
    return Score(score=known.score, feedback=known.feedback, parts=known.parts)


def _key(name: str, gold: Any, pred: Any, form: list[Any]) -> str:
    return hashlib.sha256(to_json([name, form, _fields(gold), _fields(pred)])).hexdigest()


def _fields(value: Any) -> Any:
    if isinstance(value, dspy.Example):
        return sorted((key, _plain(each)) for key, each in value.items())
    return _plain(value)


def _plain(value: Any) -> Any:
    try:
        return plain(value)
    except DataError:
        return repr(value)
