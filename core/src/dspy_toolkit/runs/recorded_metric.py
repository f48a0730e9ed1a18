"""The metric's results, kept in the journal: a resumed run does not score again what was scored.

A metric may train a model for minutes, and a nondeterministic one returns its recorded result on replay. Results of a
metric that has changed since are not replayed, and neither are errors: their cause may be mended.
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
    """The metric's results of a run, by call. May be used from several threads.

    Results that the journal has of the metric with this `digest` are handed out in the order they were recorded, each
    once; then the metric is called. `outdated` counts those of another metric.
    """

    def __init__(self, journal: Journal | None, digest: str = ""):
        self._journal = journal
        self._digest = digest
        self._lock = threading.Lock()
        self._recorded: dict[str, deque[ScoreRecord]] = defaultdict(deque)
        self.outdated = 0
        for entry in read_records(journal, ScoreRecord) if journal is not None else ():
            if entry.record.metric != digest:
                self.outdated += 1
            elif entry.record.error is None:
                self._recorded[entry.record.question].append(entry.record)

    def get(self, key: str, score_now: Callable[[], Score]) -> Score:
        """The recorded result, or what `score_now` returns or raises, which is recorded."""
        if self._journal is None:
            return score_now()
        with self._lock:
            waiting = self._recorded.get(key)
            replayed = waiting.popleft() if waiting else None
        if replayed is not None:
            return Score(score=replayed.score, feedback=replayed.feedback, parts=replayed.parts)
        started = time.perf_counter()
        try:
            score = score_now()
        except MetricError as error:
            self._record(ScoreRecord(question=key, metric=self._digest, error=str(error)), started)
            raise
        record = ScoreRecord(
            question=key, metric=self._digest, score=score.score, feedback=score.feedback, parts=dict(score.parts)
        )
        self._record(record, started)
        return score

    def _record(self, record: ScoreRecord, started: float) -> None:
        assert self._journal is not None
        write_record(self._journal, record)
        if time.perf_counter() - started >= _WORTH:
            self._journal.flush()


class RecordedMetric(Metric):
    """The metric as a run calls it: through `scores`. `on_error` gets what it raises, which DSPy forgets."""

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
        score = super().score
        form = [trace is not None, pred_name, pred_trace is not None]
        try:
            return self._scores.get(
                _key(self.name, gold, pred, form), lambda: score(gold, pred, trace, pred_name, pred_trace)
            )
        except MetricError as error:
            if self._on_error is not None:
                self._on_error(error)
            raise


def _key(name: str, gold: Any, pred: Any, form: list[Any]) -> str:
    return hashlib.sha256(to_json([name, form, _fields(gold), _fields(pred)])).hexdigest()


def _fields(value: Any) -> Any:
    if isinstance(value, dspy.Example):
        return sorted((key, _plain(field)) for key, field in value.items())
    return _plain(value)


def _plain(value: Any) -> Any:
    try:
        return plain(value)
    except DataError:
        return repr(value)
