"""The runs that were made: one folder each, with a journal in it.

runs/
    20261121-093015-4f1c/
        journal.db
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from dspy_toolkit.errors import OptimizationError, UnknownNameError
from dspy_toolkit.runs.journal import Journal, read_journal
from dspy_toolkit.values import plain

__all__ = ["Run", "RunStatus", "Runs", "identity_key", "is_written"]

RunStatus = Literal["running", "finished", "budget", "interrupted", "failed", "killed"]
"""`killed`: nobody writes and no end was recorded. `budget`: a budget ended it, well."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its journal tells it. `identity` is what it was asked to do, `about` what it was made with, `result` how
    it ended, if it did, and `version` what its program was stored as.
    """

    id: str
    folder: Path
    started: datetime
    status: RunStatus
    identity: Mapping[str, Any]
    about: Mapping[str, Any]
    result: Mapping[str, Any] | None
    version: str | None

    @property
    def task(self) -> str:
        return self.identity["task"]

    @property
    def kind(self) -> str:
        """What was run: `optimize` or `evaluate`."""
        return self.identity.get("kind", "optimize")

    @property
    def resumable(self) -> bool:
        """Whether it can be gone on with; one that a budget ended needs a larger one for that. Measuring cannot."""
        return self.kind == "optimize" and self.status in ("budget", "interrupted", "failed", "killed")


class Runs:
    """The runs under one folder, which need not exist yet."""

    def __init__(self, root: Path):
        self.root = root

    def new(self) -> Path:
        """A folder for a new run, named by the time (UTC) so that names sort; the Journal makes it."""
        return self.root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"

    def get(self, id: str) -> Run:
        """Raises UnknownNameError for an id that does not exist."""
        if not id or "/" in id or not (self.root / id / "journal.db").is_file():
            raise UnknownNameError("run", id, [run.id for run in self.all()])
        return _run(self.root / id)

    def all(self) -> list[Run]:
        """The newest first. A folder whose journal cannot be read is left out."""
        found = []
        for file in self.root.glob("*/journal.db"):
            try:
                found.append(_run(file.parent))
            except OptimizationError:
                continue
        return sorted(found, key=lambda run: (run.started, run.id), reverse=True)

    @contextmanager
    def open(self, id: str | None = None) -> Iterator[Journal]:
        """The journal of a run to go on with, or of a new one, which leaves nothing if it does not begin.

        Raises UnknownNameError, and OptimizationError when the folder cannot be used.
        """
        folder = self.new() if id is None else self.get(id).folder
        try:
            journal = Journal(folder)
        except OptimizationError:
            if id is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        with journal:
            try:
                yield journal
            finally:
                if next(journal.entries("run"), None) is None:
                    journal.close()
                    shutil.rmtree(folder, ignore_errors=True)

    def find(self, task: str, id: str | None = None) -> Run:
        """The run of `task` to go on with: the one with this id, or the newest that is not finished.

        Raises UnknownNameError for an id that does not exist; OptimizationError for a run of another task, or one that
        cannot be gone on with, saying what there is.
        """
        there = [run for run in self.all() if run.task == task and run.kind == "optimize"]
        if id is None:
            found = next((run for run in there if run.resumable), None)
            if found is not None:
                return found
            raise OptimizationError(f"No run of {task} can be gone on with. {_list(there)}")
        run = self.get(id)
        if run.task != task:
            raise OptimizationError(f"The run {id} is one of {run.task}, not of {task}. {_list(there)}")
        if not run.resumable:
            raise OptimizationError(f"The run {id} is {run.status}, so it cannot be gone on with. {_list(there)}")
        return run

    def delete(self, id: str) -> None:
        """Delete the record of a run. Its program, if one was stored, stays. Raises OptimizationError while it runs."""
        folder = self.get(id).folder
        with Journal(folder):  # nobody else has it
            pass
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise OptimizationError(f"The run {id} cannot be deleted: {error}.") from error

    def unfinished(self, key: str) -> Run | None:
        """The newest run that can be resumed and was asked to do the same (see `identity_key`)."""
        return next((run for run in self.all() if run.resumable and identity_key(run.identity) == key), None)


def identity_key(identity: Mapping[str, Any]) -> str:
    """sha256 over what a run was asked to do: equal if going on with one is the same as making the other."""
    return hashlib.sha256(json.dumps(plain(dict(identity)), sort_keys=True).encode()).hexdigest()


def _run(folder: Path) -> Run:
    entries = list(read_journal(folder, "run", "about", "end"))
    if not entries or entries[0].kind != "run":
        raise OptimizationError(f"The record in {folder} does not say what the run was asked to do.")
    # A run that was resumed has an end for each time it ended; what was begun after the last end is open.
    end = entries[-1] if entries[-1].kind == "end" else None
    told = [entry.data for entry in entries if entry.kind == "about"]
    status: RunStatus = end.data["status"] if end is not None else ("running" if is_written(folder) else "killed")
    return Run(
        id=folder.name,
        folder=folder,
        started=datetime.fromtimestamp(entries[0].time, UTC),
        status=status,
        identity=entries[0].data,
        about=told[-1] if told else {},
        result=None if end is None else end.data.get("result"),
        version=None if end is None else end.data.get("version"),
    )


def _list(runs: Sequence[Run]) -> str:
    if not runs:
        return "There is none of it yet."
    shown = ", ".join(f"{run.id} ({run.status})" for run in runs[:5])
    return f"There {'is' if len(runs) == 1 else 'are'}: {shown}{', and older ones' if len(runs) > 5 else ''}."


def is_written(folder: Path) -> bool:
    """Whether a process has the journal in `folder` open for writing."""
    try:
        with FileLock(folder / "lock", blocking=False):
            return False
    except Timeout:
        return True
