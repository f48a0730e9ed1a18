"""Reading a journal as what MLflow shows: parameters, metrics over steps, candidates, calls, tables, an end.

A step is one unit of the run's work that was finished: a row scored, or a step of the search. `progress/...` are
metrics while it works, `usage/...` what it used so far, the rest is what came out.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dspy_toolkit.runs.events import Event
from dspy_toolkit.runs.records import (
    About,
    CallRecord,
    CandidateRecord,
    EndRecord,
    EstimateRecord,
    Recorded,
    ResultRecord,
    RowRecord,
    RunStarted,
    TextRecord,
    read_records,
)
from dspy_toolkit.runs.wire import Record
from dspy_toolkit.tracking.story.calls import Calls
from dspy_toolkit.tracking.story.storable import storable_record
from dspy_toolkit.tracking.story.tables import error_table, row_tables
from dspy_toolkit.tracking.story.update import Data, Status, Update

__all__ = ["Story"]

R = TypeVar("R", bound=Record)

_STATUS: dict[str, Status] = {
    "finished": "FINISHED", "budget": "FINISHED", "interrupted": "KILLED", "killed": "KILLED", "failed": "FAILED"
}  # fmt: skip
_GROUPS = {"parameters": "optimizer", "model_options": "model", "rows": "rows"}
"""What an identity holds several values under, and what MLflow shows before their names."""

_NOTE_LENGTH = 6_000  # characters of the description; MLflow refuses tags of more than 8,000


class Story:
    """The journal of the run in `folder`, record by record. `traces` is how many calls become traces (see `Calls`).

    Every record must be read once and in order, also those that MLflow has already: what later ones mean depends on
    the earlier.
    """

    def __init__(self, folder: Path, *, traces: int):
        self.folder = folder
        self.project = ""
        """What the experiment is called unless the settings say otherwise; known after the first record."""
        self.ended = False
        self._calls = Calls(room=traces)
        self._task = ""
        self._steps = 0
        self._best: float | None = None
        self._last = 0.0

    def read(self, entry: Recorded[Record], update: Update) -> None:
        """Add to `update` what a record means."""
        self._last = entry.time
        record = storable_record(entry.record)
        match record:
            case RunStarted():
                self._begin(record, entry.time, update)
            case About():
                self._about(record, update)
            case TextRecord():
                self._calls.text(record)
            case CallRecord():
                if (call := self._calls.read(_recorded(entry, record))) is not None:
                    update.calls.append(call)
            case Event():
                self._event(record, entry.time, update)
            case CandidateRecord():
                self._candidate(_recorded(entry, record), update)
            case EndRecord():
                self._end(record, entry.time, update)

    def close(self, update: Update) -> None:
        """The end of a run whose process is gone without recording one."""
        self._end(EndRecord(status="killed"), self._last, update)

    def _begin(self, run: RunStarted, time: float, update: Update) -> None:
        self.ended, update.status, update.ended = False, "RUNNING", None
        update.tags["dspy-toolkit.status"] = "running"
        if self.project:  # resumed
            return
        self._task = run.task
        self.project = run.task.partition("/")[0] if "/" in run.task else "dspy-toolkit"
        update.started = time
        update.name = f"{run.optimizer or run.kind} {self.folder.name}"
        update.params |= _params(run.identity)
        update.tags |= {"dspy-toolkit.kind": run.kind, "dspy-toolkit.project": self.project}
        for name in ("task", "data_digest", "fingerprint"):
            if run.identity.get(name):
                update.tags[f"dspy-toolkit.{name}"] = str(run.identity[name])
        if digest := run.identity.get("data_digest"):
            update.data = Data(name=run.task or "data", digest=str(digest), rows=run.rows)

    def _about(self, about: About, update: Update) -> None:
        update.files["about.json"] = _json(about.to_wire())
        if about.git and about.git.get("commit"):
            update.tags["mlflow.source.git.commit"] = str(about.git["commit"])
            update.tags["dspy-toolkit.git_dirty"] = str(bool(about.git.get("dirty"))).lower()

    def _event(self, event: Event, time: float, update: Update) -> None:
        if event.kind == "progress":
            self._steps += 1
            progress = {f"progress/{event.stage}": event.score, "usage/seconds": event.seconds}
            usage = self._calls.usage() or {"usage/lm_calls": event.lm_calls}
            update.add({**progress, **usage}, time=time, step=self._steps)
        elif event.kind == "candidate" or (event.kind == "stage_finished" and event.stage != "search"):
            self._better(event.score, time, update)

    def _candidate(self, entry: Recorded[CandidateRecord], update: Update) -> None:
        candidate = entry.record
        if candidate.score is None and candidate.state is None:
            return  # only its number is recorded; the next one is the same, improved
        update.candidates.append(entry)
        update.add({"candidate/score": candidate.score}, time=entry.time, step=candidate.number)
        self._better(candidate.score, entry.time, update)

    def _better(self, score: float | None, time: float, update: Update) -> None:
        if score is not None and (self._best is None or score > self._best):
            self._best = score
            update.add({"best_score": score}, time=time, step=self._steps)

    def _end(self, end: EndRecord, time: float, update: Update) -> None:
        self.ended = True
        update.status, update.ended = _STATUS.get(end.status, "FAILED"), time
        update.tags["dspy-toolkit.status"] = end.status
        update.tags["dspy-toolkit.calls"] = str(self._calls.total)
        update.tags["dspy-toolkit.calls_without_trace"] = str(self._calls.total - self._calls.traced)
        if end.version:
            update.tags["dspy-toolkit.version"] = end.version
        result = end.outcome
        self._result(result, time, update)
        if end.result:
            update.files["result.json"] = _json({name: value for name, value in end.result.items() if name != "rows"})
        rows = [storable_record(entry.record) for entry in read_records(self.folder, RowRecord)]
        update.tables |= {f"{stage}.json": table for stage, table in row_tables(rows or _rows_of(end)).items()}
        if errors := error_table(result.errors):
            update.tables["errors.json"] = errors
        lines = [f"**{self._task or self.folder.name}**: {end.status}", "", *_summary(result)]
        if end.bundle and Path(end.bundle).is_dir():
            update.folders["bundle"] = bundle = Path(end.bundle)
            lines += _prompt(bundle)
        update.tags["mlflow.note.content"] = "\n".join(lines)[:_NOTE_LENGTH]

    def _result(self, result: ResultRecord, time: float, update: Update) -> None:
        """The final figures."""
        figures: dict[str, Any] = {}
        for name, score in (("baseline/", result.baseline), ("optimized/", result.optimized), ("", result.score)):
            figures |= {f"{name}{key}": value for key, value in vars(score).items()} if score else {}
        for key, value in vars(result.comparison).items() if result.comparison else ():
            figures[key if key == "difference" else f"difference/{key}"] = value
        figures |= {f"parts/{name}": score for name, score in result.parts.items()}
        recorded = self._calls.usage()
        for key, value in vars(result.usage).items() if result.usage else ():
            if not recorded or key in ("cache_hits", "failures"):
                figures[f"usage/{key}"] = value
        update.add({**recorded, **figures, "usage/seconds": result.seconds}, time=time, step=self._steps)
        if result.promoted is not None:
            update.tags["dspy-toolkit.promoted"] = str(result.promoted).lower()
        if result.reason:
            update.tags["dspy-toolkit.reason"] = result.reason


def _recorded(entry: Recorded[Record], record: R) -> Recorded[R]:
    return Recorded(seq=entry.seq, time=entry.time, record=record)


def _rows_of(end: EndRecord) -> list[RowRecord]:
    """The rows of an evaluation that keeps them in its result."""
    rows = end.result.get("rows")
    return [RowRecord.from_wire(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _params(identity: Mapping[str, Any]) -> dict[str, str]:
    """What the run was asked to do: its plain values, and the parameters of its optimizer."""
    left_out = {"kind", "data_digest", "fingerprint", "version", "toolkit", *_GROUPS}
    params = {name: _text(value) for name, value in identity.items() if name not in left_out and value is not None}
    for group, prefix in _GROUPS.items():
        values = identity.get(group)
        if isinstance(values, Mapping):
            params |= {f"{prefix}.{name}"[:250]: _text(value) for name, value in values.items()}
    return params


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _summary(result: ResultRecord) -> Iterator[str]:
    scores: Mapping[str, EstimateRecord | None] = {
        "baseline": result.baseline, "optimized": result.optimized, "score": result.score
    }  # fmt: skip
    for name, score in scores.items():
        if score is not None:
            yield f"- {name}: {score.score:.1f} ({score.low:.1f} to {score.high:.1f}, {score.n} rows)"
    if (difference := result.comparison) is not None:
        interval = f"{difference.low:+.1f} to {difference.high:+.1f}"
        yield f"- difference: {difference.difference:+.1f} ({interval}){', promoted' if result.promoted else ''}"


def _prompt(bundle: Path) -> list[str]:
    """The prompt of the stored program, so that it is on the run's own page."""
    try:
        return ["", (bundle / "prompt.md").read_text(encoding="utf-8")]
    except OSError:
        return []


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"
