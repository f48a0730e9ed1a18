"""Reading a journal as what MLflow shows: parameters, metrics over steps, candidates, calls, tables, an end.

A step is one unit of the run's work that was finished: a row scored, or a step of the search. `progress/...` are
metrics while it goes, `usage/...` what it used so far, the rest is what came out.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dspy_toolkit.runs.journal import Entry, read_journal
from dspy_toolkit.tracking.story.calls import Calls
from dspy_toolkit.tracking.story.storable import storable
from dspy_toolkit.tracking.story.tables import error_table, row_tables
from dspy_toolkit.tracking.story.update import Candidate, Data, Status, Update

__all__ = ["Story"]

_STATUS: dict[str, Status] = {
    "finished": "FINISHED", "budget": "FINISHED", "interrupted": "KILLED", "killed": "KILLED", "failed": "FAILED"
}  # fmt: skip
_GROUPS = {"parameters": "optimizer", "model_options": "model", "rows": "rows"}
"""What an identity holds several values under, and what MLflow shows before their names."""

_SHOWN = 6_000  # characters of the description; MLflow refuses tags of more than 8,000


class Story:
    """The journal of the run in `folder`, entry by entry. `traces` is how many calls become traces (see `Calls`).

    Every entry must be read once and in order, also those that MLflow has already: what later ones mean depends on
    the earlier.
    """

    def __init__(self, folder: Path, *, traces: int):
        self.folder = folder
        self.project = ""
        """What the experiment is called unless the settings say otherwise; known after the first entry."""
        self.ended = False
        self._calls = Calls(room=traces)
        self._task = ""
        self._steps = 0
        self._best: float | None = None
        self._last = 0.0

    def read(self, entry: Entry, update: Update) -> None:
        """Add to `update` what `entry` means. Kinds and fields that are not known are left out."""
        self._last = entry.time
        read = getattr(self, f"_read_{entry.kind}", None)
        if read is not None:
            read(replace(entry, data=storable(entry.data)), update)

    def close(self, update: Update) -> None:
        """The end of a run whose process is gone without recording one."""
        self._end("killed", {}, self._last, update)

    def _read_run(self, entry: Entry, update: Update) -> None:
        self.ended, update.status, update.ended = False, "RUNNING", None
        update.tags["dspy-toolkit.status"] = "running"
        if self.project:  # resumed
            return
        identity = entry.data
        kind = str(identity.get("kind") or "optimize")
        self._task = str(identity.get("task") or "")
        self.project = self._task.partition("/")[0] if "/" in self._task else "dspy-toolkit"
        update.started = entry.time
        update.name = f"{identity.get('optimizer') or kind} {self.folder.name}"
        update.params |= _params(identity)
        update.tags |= {"dspy-toolkit.kind": kind, "dspy-toolkit.project": self.project}
        for name in ("task", "data_digest", "fingerprint"):
            if identity.get(name):
                update.tags[f"dspy-toolkit.{name}"] = str(identity[name])
        if digest := identity.get("data_digest"):
            update.data = Data(name=self._task or "data", digest=str(digest), rows=identity.get("rows") or {})

    def _read_about(self, entry: Entry, update: Update) -> None:
        update.files["about.json"] = _json(entry.data)
        git = entry.data.get("git")
        if isinstance(git, Mapping) and git.get("commit"):
            update.tags["mlflow.source.git.commit"] = str(git["commit"])
            update.tags["dspy-toolkit.git_dirty"] = str(bool(git.get("dirty"))).lower()

    def _read_text(self, entry: Entry, update: Update) -> None:
        self._calls.text(entry.key, str(entry.data.get("text", "")))

    def _read_call(self, entry: Entry, update: Update) -> None:
        call = self._calls.read(entry)
        if call is not None:
            update.calls.append(call)

    def _read_event(self, entry: Entry, update: Update) -> None:
        event, stage = entry.data, entry.data.get("stage")
        if event.get("kind") == "progress":
            self._steps += 1
            at = {"time": entry.time, "step": self._steps}
            update.add(f"progress/{stage}", event.get("score"), **at)
            update.add("usage/seconds", event.get("seconds"), **at)
            if self._calls.total:
                self._calls.add_usage(update, **at)
            else:
                update.add("usage/lm_calls", event.get("lm_calls"), **at)
        elif event.get("kind") == "candidate" or (event.get("kind") == "stage_finished" and stage != "search"):
            self._better(event.get("score"), entry.time, update)

    def _read_candidate(self, entry: Entry, update: Update) -> None:
        found = entry.data
        number = found.get("number")
        number = number if isinstance(number, int) else entry.seq
        score = found.get("score")
        if score is None and found.get("state") is None:
            return  # only mentioned; the next one is the same, improved
        update.candidates.append(
            Candidate(
                key=f"{found.get('stage', 'search')}/{number}",
                number=number,
                score=score if isinstance(score, int | float) else None,
                message=str(found.get("message") or ""),
                program=found.get("state"),
                time=entry.time,
            )
        )
        update.add("candidate/score", score, time=entry.time, step=number)
        self._better(score, entry.time, update)

    def _read_end(self, entry: Entry, update: Update) -> None:
        self._end(str(entry.data.get("status") or "failed"), entry.data, entry.time, update)

    def _better(self, score: Any, time: float, update: Update) -> None:
        if isinstance(score, int | float) and (self._best is None or score > self._best):
            self._best = score
            update.add("best_score", score, time=time, step=self._steps)

    def _end(self, status: str, data: Mapping[str, Any], time: float, update: Update) -> None:
        self.ended = True
        update.status, update.ended = _STATUS.get(status, "FAILED"), time
        update.tags["dspy-toolkit.status"] = status
        update.tags["dspy-toolkit.calls"] = str(self._calls.total)
        update.tags["dspy-toolkit.calls_without_trace"] = str(self._calls.total - self._calls.traced)
        if data.get("version"):
            update.tags["dspy-toolkit.version"] = str(data["version"])
        result = data.get("result") or {}
        self._results(result, time, update)
        rows = [storable(entry.data) for entry in read_journal(self.folder, "row")]
        rows = rows or (result["rows"] if isinstance(result.get("rows"), list) else [])
        update.tables |= {f"{stage}.json": table for stage, table in row_tables(rows).items()}
        if errors := error_table(result.get("errors") or ()):
            update.tables["errors.json"] = errors
        lines = [f"**{self._task or self.folder.name}**: {status}", *_summary(result)]
        if data.get("bundle") and Path(data["bundle"]).is_dir():
            update.folders["bundle"] = bundle = Path(data["bundle"])
            lines += _prompt(bundle)
        update.tags["mlflow.note.content"] = "\n".join(lines)[:_SHOWN]

    def _results(self, result: Mapping[str, Any], time: float, update: Update) -> None:
        """The final figures, and the whole result as a file."""
        at = {"time": time, "step": self._steps}
        single = result if "score" in result else None  # of an evaluation, which has one score
        for name, score in (("baseline", result.get("baseline")), ("optimized", result.get("optimized")), ("", single)):
            for key in ("score", "low", "high", "n"):
                update.add(f"{name}/{key}" if name else key, (score or {}).get(key), **at)
        for key in ("difference", "low", "high", "p_value", "wins", "losses", "ties"):
            name = key if key == "difference" else f"difference/{key}"
            update.add(name, (result.get("comparison") or {}).get(key), **at)
        for name, score in (result.get("parts") or {}).items():
            update.add(f"parts/{name}", score, **at)
        self._calls.add_usage(update, **at)
        for key, value in (result.get("usage") or {}).items():
            if not self._calls.total or key in ("cache_hits", "failures"):
                update.add(f"usage/{key}", value, **at)
        update.add("usage/seconds", result.get("seconds"), **at)
        if "promoted" in result:
            update.tags["dspy-toolkit.promoted"] = str(bool(result["promoted"])).lower()
        if result.get("reason"):
            update.tags["dspy-toolkit.reason"] = str(result["reason"])
        if result:
            update.files["result.json"] = _json({key: value for key, value in result.items() if key != "rows"})


def _params(identity: Mapping[str, Any]) -> dict[str, str]:
    """What the run was asked to do: its plain values, and the parameters of its optimizer."""
    known = {"kind", "data_digest", "fingerprint", "version", "toolkit", *_GROUPS}
    params = {name: _text(value) for name, value in identity.items() if name not in known and value is not None}
    for group, prefix in _GROUPS.items():
        values = identity.get(group)
        if isinstance(values, Mapping):
            params |= {f"{prefix}.{name}"[:250]: _text(value) for name, value in values.items()}
    return params


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _summary(result: Mapping[str, Any]) -> list[str]:
    lines = [""]
    for name in ("baseline", "optimized"):
        if score := result.get(name):
            lines.append(
                f"- {name}: {score['score']:.1f} ({score['low']:.1f} to {score['high']:.1f}, {score['n']} rows)"
            )
    if "score" in result:
        lines.append(
            f"- score: {result['score']:.1f} ({result['low']:.1f} to {result['high']:.1f}, {result['n']} rows)"
        )
    if difference := result.get("comparison"):
        lines.append(
            f"- difference: {difference['difference']:+.1f} ({difference['low']:+.1f} to {difference['high']:+.1f})"
            f"{', promoted' if result.get('promoted') else ''}"
        )
    return lines


def _prompt(bundle: Path) -> list[str]:
    """The prompt of the program that was made, so that it is on the run's own page."""
    try:
        return ["", (bundle / "prompt.md").read_text(encoding="utf-8")]
    except OSError:
        return []


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"
