"""The runs that were made: one folder each, with a journal in it.

runs/
    20261121-093015-4f1c/
        journal.db
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from dspy_toolkit.errors import OptimizationError, UnknownNameError
from dspy_toolkit.optimize.data import plain
from dspy_toolkit.optimize.journal import read_journal

__all__ = ["Run", "RunStatus", "Runs", "identity_key"]

RunStatus = Literal["running", "finished", "budget", "interrupted", "failed", "killed"]
"""`killed`: nobody writes and no end was recorded. `budget`: a budget ended it, well."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its journal tells it. `identity` is what it was asked to do, `result` how it ended, if it did."""

    id: str
    folder: Path
    started: datetime
    status: RunStatus
    identity: Mapping[str, Any]
    result: Mapping[str, Any] | None

    @property
    def resumable(self) -> bool:
        return self.status in ("interrupted", "failed", "killed")


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
        for file in sorted(self.root.glob("*/journal.db"), reverse=True):
            try:
                found.append(_run(file.parent))
            except OptimizationError:
                continue
        return found

    def unfinished(self, key: str) -> Run | None:
        """The newest run that can be resumed and was asked to do the same (see `identity_key`)."""
        return next((run for run in self.all() if run.resumable and identity_key(run.identity) == key), None)


def identity_key(identity: Mapping[str, Any]) -> str:
    """sha256 over what a run was asked to do: equal if going on with one is the same as making the other."""
    return hashlib.sha256(json.dumps(plain(dict(identity)), sort_keys=True).encode()).hexdigest()


def _run(folder: Path) -> Run:
    entries = list(read_journal(folder, "run", "end"))
    if not entries or entries[0].kind != "run":
        raise OptimizationError(f"The record in {folder} does not say what the run was asked to do.")
    # A run that was resumed has an end for each time it ended; what was begun after the last end is open.
    end = entries[-1] if entries[-1].kind == "end" else None
    status: RunStatus = end.data["status"] if end is not None else ("running" if _held(folder) else "killed")
    return Run(
        id=folder.name,
        folder=folder,
        started=datetime.fromtimestamp(entries[0].time, UTC),
        status=status,
        identity=entries[0].data,
        result=None if end is None else end.data.get("result"),
    )


def _held(folder: Path) -> bool:
    try:
        with FileLock(folder / "lock", blocking=False):
            return False
    except Timeout:
        return True
