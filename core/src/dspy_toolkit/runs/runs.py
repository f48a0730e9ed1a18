"""The runs that were made: one folder each, with a journal in it.

runs/
    20261121-093015-4f1c/
        journal.db
"""

import hashlib
import json
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from dspy_toolkit.errors import OptimizationError, UnknownNameError
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.records import About, EndRecord, ResultRecord, RunOptions, RunStarted, read_records
from dspy_toolkit.values import plain

__all__ = ["Run", "RunStatus", "Runs", "identity_key", "is_written", "quoted", "resume_command"]

RunStatus = Literal["running", "finished", "budget", "interrupted", "failed", "killed"]
"""`killed`: nobody writes and no end was recorded. `budget`: a budget ended it, with its result measured."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its journal has it. `request` is what it was asked to do, `about` what its last session was made with,
    `end` how that session ended, None if it did not.
    """

    id: str
    folder: Path
    started: datetime
    status: RunStatus
    request: RunStarted
    about: About
    end: EndRecord | None

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Raises OptimizationError when the journal cannot be read."""
        entries = list(read_records(folder, RunStarted, About, EndRecord))
        if not entries or not isinstance(entries[0].record, RunStarted):
            raise OptimizationError(f"The record in {folder} does not say what the run was asked to do.")
        # A resumed run has an end for each session that ended; a session that began after the last end is open.
        last = entries[-1].record
        end = last if isinstance(last, EndRecord) else None
        abouts = [entry.record for entry in entries if isinstance(entry.record, About)]
        status = end.status if end is not None else "running" if is_written(folder) else "killed"
        return cls(
            id=folder.name,
            folder=folder,
            started=datetime.fromtimestamp(entries[0].time, UTC),
            status=cast(RunStatus, status),
            request=entries[0].record,
            about=abouts[-1] if abouts else About(),
            end=end,
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the run's outcome, as plain data."""
        return self.request.identity

    @property
    def task(self) -> str:
        return self.request.task

    @property
    def kind(self) -> str:
        """`optimize` or `evaluate`."""
        return self.request.kind

    @property
    def options(self) -> RunOptions:
        """The arguments its last session was asked for with."""
        return self.about.run_options

    @property
    def result(self) -> ResultRecord | None:
        """None if it has not ended."""
        return None if self.end is None else self.end.outcome

    @property
    def version(self) -> str | None:
        """What its program was stored as."""
        return None if self.end is None else self.end.version

    @property
    def resumable(self) -> bool:
        """Whether it can be resumed; one that a budget ended needs a larger one for that. An evaluation cannot be."""
        return self.kind == "optimize" and self.status in ("budget", "interrupted", "failed", "killed")

    @property
    def resume_command(self) -> str:
        """The command that resumes it."""
        return resume_command(self.options.name or self.task, self.id)


class Runs:
    """The runs under one folder, which need not exist yet."""

    def __init__(self, root: Path):
        self.root = root

    def new(self) -> Path:
        """A folder for a new run, named by the time (UTC) so that names sort; the Journal makes it."""
        return self.root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"

    def get(self, id: str) -> Run:
        """The run with this id, or the only one whose id begins so; `latest` is the newest.

        Raises UnknownNameError where there is none, OptimizationError where several begin so or its record is damaged.
        """
        if id == "latest" and (runs := self.all()):
            return runs[0]
        ids = [file.parent.name for file in self.root.glob("*/journal.db")]
        matches = [id] if id in ids else [other for other in ids if id and other.startswith(id)]
        if len(matches) > 1:
            raise OptimizationError(f"Several runs begin with {id!r}: {', '.join(sorted(matches))}. Name one of them.")
        if not matches:
            raise UnknownNameError("run", id, ids)
        return Run.read(self.root / matches[0])

    def all(self) -> list[Run]:
        """The newest first, without those whose record is damaged (see `scan`)."""
        return self.scan()[0]

    def scan(self) -> tuple[list[Run], dict[str, str]]:
        """The runs, the newest first, and, by id, why the record of a run cannot be read.

        Raises OptimizationError when the folder of runs itself cannot be read.
        """
        runs, damaged = [], {}
        try:
            folders = [entry for entry in self.root.iterdir() if (entry / "journal.db").is_file()]
        except FileNotFoundError:
            folders = []
        except OSError as error:
            raise OptimizationError(
                f"The folder {self.root} of the runs cannot be read ({error.strerror or error})."
            ) from error
        for folder in folders:
            try:
                runs.append(Run.read(folder))
            except OptimizationError as error:
                damaged[folder.name] = str(error)
        return sorted(runs, key=lambda run: (run.started, run.id), reverse=True), damaged

    @contextmanager
    def open(self, id: str | None = None) -> Iterator[Journal]:
        """The journal of a run to resume, or of a new one, whose folder is removed if no run begins in it.

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
                if next(read_records(journal, RunStarted), None) is None:
                    journal.close()
                    shutil.rmtree(folder, ignore_errors=True)

    def find(self, task: str, id: str | None = None) -> Run:
        """The run of `task` to resume: the one with this id, or the newest that is not finished.

        Raises UnknownNameError for an id that does not exist; OptimizationError for a run of another task, or one that
        cannot be resumed, listing those there are.
        """
        runs = [run for run in self.all() if run.task == task and run.kind == "optimize"]
        if id is None:
            newest = next((run for run in runs if run.resumable), None)
            if newest is not None:
                return newest
            raise OptimizationError(f"No run of {task} can be resumed. {_list(runs)}")
        run = self.get(id)
        if run.task != task:
            raise OptimizationError(f"The run {id} is one of {run.task}, not of {task}. {_list(runs)}")
        if not run.resumable:
            raise OptimizationError(f"The run {id} is {run.status}, so it cannot be resumed. {_list(runs)}")
        return run

    def delete(self, id: str) -> str:
        """Delete the record of a run, and return its id. Its program, if one was stored, stays. Raises
        OptimizationError while it runs.
        """
        folder = self.get(id).folder
        with Journal(folder):  # no other process has it
            pass
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise OptimizationError(f"The run {folder.name} cannot be deleted: {error}.") from error
        return folder.name

    def unfinished(self, key: str) -> Run | None:
        """The newest run that can be resumed and was asked to do the same (see `identity_key`)."""
        return next((run for run in self.all() if run.resumable and identity_key(run.identity) == key), None)


def resume_command(name: str, id: str) -> str:
    """The command that resumes the run `id` of what `name` stands for."""
    return f"dspy-toolkit optimize {quoted(name)} --resume {id}"


def quoted(name: str) -> str:
    """A name as it is typed in a shell."""
    # A signature with a Literal has quotes of its own, which shlex writes in a way nobody can read.
    readable = "'" in name and not set(name) & set('"$`\\!')
    return f'"{name}"' if readable else shlex.quote(name)


def identity_key(identity: Mapping[str, Any]) -> str:
    """sha256 over what a run was asked to do: equal if resuming one is the same as making the other."""
    return hashlib.sha256(json.dumps(plain(dict(identity)), sort_keys=True).encode()).hexdigest()


def _list(runs: Sequence[Run]) -> str:
    if not runs:
        return "It has no runs yet."
    listed = ", ".join(f"{run.id} ({run.status})" for run in runs[:5])
    return f"There {'is' if len(runs) == 1 else 'are'}: {listed}{', and older ones' if len(runs) > 5 else ''}."


def is_written(folder: Path) -> bool:
    """Whether a process has the journal in `folder` open for writing."""
    from filelock import FileLock, Timeout  # brings asyncio, 60 ms that a run which ended needs not

    try:
        with FileLock(folder / "lock", blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a disk that is read-only has no writer
        return False
