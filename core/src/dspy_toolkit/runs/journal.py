"""What happened in a run, in order, on disk as soon as it happened.

    append() ──list──▶ writer thread, every 50 ms: all that waits in one transaction ──▶ journal.db (SQLite, WAL)

Entries are only ever added. A process that is killed loses at most what was appended in its last 50 ms and not flushed;
a machine that loses power may lose the last transactions, never the file.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic_core import to_json

from dspy_toolkit.errors import OptimizationError

__all__ = ["Entry", "Journal", "read_journal"]

_BACKLOG = 10_000
"""So many entries may wait to be written before `append` waits too: memory stays bounded when the disk is slow."""

_INSERTS = {
    rows: f"INSERT INTO entries (time, kind, key, data) VALUES {', '.join(['(?, ?, ?, ?)'] * rows)}"
    for rows in (512, 128, 32, 8, 1)
}
"""By how many entries each adds. Few at a time: sqlite3 takes the GIL back from the run's threads for each it executes.
Always the same ones: it keeps those it has compiled. SQLite takes at least 32,766 values at once.
"""

_PERIOD = 0.05
"""Seconds between transactions: each costs processor time, and waking the writer for each entry would have it fight the
run's threads for the GIL."""

_LOOK = 0.5
"""Seconds to wait for the lock: whoever asks whether a run is written (`is_written`) has it for a moment."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL
)
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that happened. `seq` counts from 1 over the life of the run, `time` is in Unix seconds."""

    seq: int
    time: float
    kind: str
    key: str
    data: dict[str, Any]


class Journal:
    """The record of one run in `folder`, which is made if needed, for this user only. One process writes at a time.

    `append` may be called from any thread. When the disk refuses, the run is not hurt: `take_trouble` gives one line
    for people, once, `on_failure` is called with it, and what comes later is dropped. Raises OptimizationError when
    another process is writing, or the folder cannot be used.
    """

    def __init__(self, folder: Path, *, on_failure: Callable[[str], None] | None = None):
        self.folder = folder
        self._on_failure = on_failure
        self._failed = False
        self._trouble = ""
        self._waiting: list[tuple[float, str, str, bytes]] = []
        self._guard = threading.Lock()
        self._changed = threading.Condition(self._guard)
        self._hurry = self._closing = False
        self._stored = self._appended = 0
        from filelock import FileLock, Timeout  # brings asyncio, 60 ms that reading needs not

        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = FileLock(folder / "lock")
            self._lock.acquire(timeout=_LOOK)
        except Timeout:
            raise OptimizationError(
                f"The run in {folder} is being worked on by another process; wait for it, or stop it first."
            ) from None
        except OSError as error:
            raise OptimizationError(
                f"The folder {folder} for the record of runs cannot be used ({error.strerror or error}); "
                "set `runs` in the settings, or DSPY_TOOLKIT_RUNS, to another one."
            ) from error
        try:
            _connect(folder).close()
        except sqlite3.Error as error:
            self._lock.release()
            raise OptimizationError(
                f"The record {_file(folder)} cannot be used: {error}. Free some room if the disk is full, or set "
                "`runs` in the settings, or DSPY_TOOLKIT_RUNS, to another folder."
            ) from error
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, kind: str, data: Mapping[str, Any], *, key: str = "") -> None:
        """Add an entry. `data` is copied now, as JSON; a value that JSON cannot hold is written as its repr."""
        if self._failed:
            return
        entry = (time.time(), kind, key, to_json(data, fallback=repr, inf_nan_mode="strings"))
        with self._guard:
            self._waiting.append(entry)
            self._appended += 1
            if len(self._waiting) > _BACKLOG:
                self._await(self._appended - _BACKLOG)

    def flush(self) -> None:
        """Return when everything appended so far is on disk."""
        with self._changed:
            self._await(self._appended)

    def _await(self, count: int) -> None:
        self._hurry = True
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._stored >= count or not self._thread.is_alive())

    def take_trouble(self) -> str:
        """Why writing failed, the first time this is called after it did; else empty."""
        trouble, self._trouble = self._trouble, ""
        return trouble

    def close(self) -> None:
        """Write what waits and let the folder go. Closing twice does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._lock.release()

    def entries(self, *kinds: str, after: int = 0) -> Iterator[Entry]:
        """See `read_journal`; what was appended before is in it."""
        self.flush()
        return read_journal(self.folder, *kinds, after=after)

    def _write(self) -> None:
        connection = _connect(self.folder)
        try:
            closing = False
            while not closing:
                with self._changed:
                    self._changed.wait_for(lambda: self._hurry or self._closing, timeout=_PERIOD)
                    batch, self._waiting = self._waiting, []
                    self._hurry, closing = False, self._closing
                self._store(connection, batch)
                with self._changed:
                    self._stored += len(batch)
                    self._changed.notify_all()
        finally:
            connection.close()

    def _store(self, connection: sqlite3.Connection, rows: list[tuple[float, str, str, bytes]]) -> None:
        if self._failed or not rows:
            return
        try:
            with connection:
                at = 0
                for count, insert in _INSERTS.items():
                    while len(rows) - at >= count:
                        connection.execute(insert, list(chain.from_iterable(rows[at : at + count])))
                        at += count
        except sqlite3.Error as error:
            self._failed = True
            self._trouble = (
                f"The record of this run can no longer be written ({error}); the run continues without. "
                f"Free some room in {self.folder}: --resume will repeat what came after this."
            )
            if self._on_failure is not None:
                self._on_failure(self._trouble)


def read_journal(folder: Path, *kinds: str, after: int = 0) -> Iterator[Entry]:
    """The entries of a run, oldest first, also while it is being written: those with `seq` above `after`, of these
    `kinds` or of all.

    Raises OptimizationError if there is no record or it is damaged.
    """
    if not _file(folder).is_file():
        raise OptimizationError(f"There is no record of a run in {folder}.")
    where = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
    try:
        with closing(_connect_to_read(folder)) as connection:
            rows = connection.execute(
                f"SELECT seq, time, kind, key, data FROM entries WHERE seq > ?{where} ORDER BY seq",
                (after, *kinds),
            )
            for seq, moment, kind, key, text in rows:
                data = json.loads(text)
                if not isinstance(data, dict):
                    raise ValueError(f"entry {seq} is no JSON object")  # noqa: TRY004, TRY301  # damage, said below
                yield Entry(seq=seq, time=moment, kind=kind, key=key, data=data)
    except (sqlite3.Error, ValueError) as error:
        raise OptimizationError(f"The record {_file(folder)} is damaged: {error}.") from error


def _file(folder: Path) -> Path:
    return folder / "journal.db"


def _connect_to_read(folder: Path) -> sqlite3.Connection:
    try:
        return _connect(folder)
    except sqlite3.Error:
        if os.access(folder, os.W_OK) and os.access(_file(folder), os.W_OK):
            raise
    # On a read-only disk SQLite cannot make the files it shares with a writer; there is no writer either.
    return sqlite3.connect(f"{_file(folder).absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)


def _connect(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(_file(folder), timeout=30, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
