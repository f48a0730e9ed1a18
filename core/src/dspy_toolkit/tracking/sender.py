"""Following one run's journal into MLflow, until the run has ended and MLflow has it all, or it cannot be had."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from dspy_toolkit.errors import OptimizationError, TrackingError
from dspy_toolkit.runs.records import read_records
from dspy_toolkit.runs.runs import is_written
from dspy_toolkit.tracking.mirror import Mirror
from dspy_toolkit.tracking.state import TrackingState, read_state, write_state
from dspy_toolkit.tracking.story.story import Story
from dspy_toolkit.tracking.story.update import Update
from dspy_toolkit.tracking.target import Target

__all__ = ["Sender", "is_behind", "prepare_mlflow", "unsent"]

_AT_ONCE = 1_000  # entries of the journal that become one update
_POLL = 0.5  # seconds between looks at a journal that has nothing new
_PAUSES = (0.5, 1, 2, 4)  # seconds between attempts, the last for ever


class Sender:
    """Sends the run in `folder`; one process at a time does so for a run.

    `linger` is how many seconds MLflow has to come back once nothing more is written. `note` is told, once each, what
    keeps the run from being sent. `anew` sends also what was sent before.
    """

    def __init__(
        self,
        folder: Path,
        target: Target,
        *,
        linger: float = 0.0,
        note: Callable[[str], None] = lambda _: None,
        anew: bool = False,
    ):
        self._folder = folder
        self._target = target
        self._linger = linger
        self._note = note
        self._story = Story(folder, traces=target.traces)
        self._mirror: Mirror | None = None
        self._read = 0  # the last entry the story has read
        self._anew = anew
        self.state = TrackingState(target=target.public)

    def send(self, *, wait: float = 0.0) -> bool:
        """Follow the journal to its end. False if MLflow could not be had: then `state.problem` says why.

        Raises TrackingError when another process is sending this run for longer than `wait` seconds, MLflow refuses
        what it is sent, or the record cannot be read.
        """
        try:
            with FileLock(self._folder / "tracking.lock", timeout=wait):
                known = read_state(self._folder)
                if known is not None and known.target == self._target.public and not self._anew:
                    self.state = known
                return self._follow()
        except Timeout:
            raise TrackingError(f"The run {self._folder.name} is being sent by another process.") from None
        except OptimizationError as error:
            raise TrackingError(str(error)) from error
        except OSError as error:
            raise TrackingError(f"The folder {self._folder} cannot be written: {error.strerror or error}.") from error

    def _follow(self) -> bool:
        looked_again = False
        while True:
            update = self._next()
            if update is None:
                if self.state.closed and (self._story.ended or not is_written(self._folder)):
                    return True
                if is_written(self._folder):
                    time.sleep(_POLL)
                    continue
                if not self._read:
                    return True  # killed before it wrote anything
                if not looked_again:  # for what was written between the last look and the end of the writer
                    looked_again = True
                    continue
                update = Update()
                self._story.close(update)
            looked_again = False
            try:
                if not self._deliver(update):
                    return False
            except _Forgotten:
                self._story, self._read = Story(self._folder, traces=self._target.traces), 0
                self.state = TrackingState(target=self._target.public)

    def _next(self) -> Update | None:
        """What the journal has that MLflow has not; None when there is nothing new."""
        while entries := list(itertools.islice(read_records(self._folder, after=self._read), _AT_ONCE)):
            update = Update()
            for entry in entries:
                self._read = entry.seq
                self._story.read(entry, update if entry.seq > self.state.seq else Update())
            if self._read > self.state.seq:
                return update
        return None

    def _deliver(self, update: Update) -> bool:
        """Write `update`, again and again while it may help. False when it is given up."""
        pauses = itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))
        over_since: float | None = None
        while problem := self._try(update):
            self._save(problem=problem)
            if over_since is None and (self._story.ended or not is_written(self._folder)):
                over_since = time.monotonic()
            pause = next(pauses)
            if over_since is not None and time.monotonic() + pause - over_since > self._linger:
                return False
            time.sleep(pause)
        self._save(
            seq=self._read,
            closed=update.ended is not None,
            problem="",
            mlflow_run=self._mirror.mlflow_run if self._mirror else "",
        )
        return True

    def _try(self, update: Update) -> str:
        """What keeps MLflow from taking `update` for now, or nothing. Raises TrackingError for what stays."""
        if problem := self._target.unreachable():
            return problem
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import OperationalError

        try:
            self._mirror = self._mirror or self._connect()
            self._mirror.write(update)
        except _Forgotten:
            raise
        except (OSError, OperationalError) as error:
            return self._said(_cause(error))
        except MlflowException as error:
            if error.get_http_status_code() >= 500 or error.get_http_status_code() == 429:
                return self._said(str(error))
            raise self._refused(error) from error
        except Exception as error:  # MLflow lets those of its libraries through; none may pass unseen
            raise self._refused(error) from error
        return ""

    def _connect(self) -> Mirror:
        experiment = self._target.experiment or self._story.project or "dspy-toolkit"
        mirror = Mirror(self._target, run=self._folder.name, experiment=experiment, mlflow_run=self.state.mlflow_run)
        self.state = replace(self.state, experiment=experiment)
        if self.state.seq and mirror.mlflow_run != self.state.mlflow_run:
            raise _Forgotten
        return mirror

    def _said(self, message: str) -> str:
        line = " ".join(self._target.redact(message).split())
        return f"MLflow at {self._target.public} cannot be written: {line[:300]}"

    def _refused(self, error: Exception) -> TrackingError:
        problem = self._said(f"{type(error).__name__}: {error}")
        self._save(problem=problem)
        return TrackingError(problem)

    def _save(self, **changes: object) -> None:
        changed = replace(self.state, **changes)  # type: ignore[arg-type]
        if changed.problem and changed.problem != self.state.problem:
            self._note(changed.problem)
        if changed != self.state:
            self.state = changed
            write_state(self._folder, changed)


class _Forgotten(Exception):  # noqa: N818  # nobody made an error
    """The MLflow run that was begun is not there any more: a new one must get the whole story."""


def _cause(error: Exception) -> str:
    """The last line of what went wrong: the operating system's or the database's own words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    return str(getattr(error, "orig", None) or error)


def unsent(root: Path) -> list[Path]:
    """The runs under `root` that were begun to be sent, and not to their end, and that nobody writes.

    One that is complete elsewhere is not among them: a new `uri` in the settings does not move what was there before.
    """
    return [
        file.parent
        for file in sorted(root.glob("*/tracking.json"))
        if (state := read_state(file.parent)) is not None
        and (file.parent / "journal.db").is_file()
        and _incomplete(file.parent, state)
        and not is_written(file.parent)
    ]


def is_behind(folder: Path, target: Target) -> bool:
    """Whether `target` lacks something of the run in `folder`."""
    state = read_state(folder)
    return state is None or state.target != target.public or _incomplete(folder, state)


def _incomplete(folder: Path, state: TrackingState) -> bool:
    try:
        return not state.closed or next(read_records(folder, after=state.seq), None) is not None
    except OptimizationError:
        return False  # a record that cannot be read has no more to give, and must not hold back the others


def prepare_mlflow() -> None:
    """Set what MLflow reads when it is imported: nothing goes to its makers, a server that is gone is given up soon."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
