"""Starting the process that sends a run, so that the run itself neither waits for MLflow nor imports it."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.errors import TrackingError
from dspy_toolkit.tracking.state import TrackingState, read_state, write_state
from dspy_toolkit.tracking.target import INSTALL, Target, installed

if TYPE_CHECKING:
    from dspy_toolkit.runs.events import EventSink
    from dspy_toolkit.settings import DSPyConfig

__all__ = ["Tracking", "start_tracking", "tracked"]

_logger = logging.getLogger("dspy_toolkit.tracking")


class Tracking:
    """A run that is being sent."""

    def __init__(self, folder: Path, problem: str = ""):
        self._folder = folder
        self._problem = problem

    @property
    def note(self) -> str:
        """One line for people if, so far, the run cannot be sent; else nothing. Reads one small file."""
        state = read_state(self._folder)
        problem = self._problem or (state.problem if state else "")
        if not problem:
            return ""
        return f"{problem} The run is kept and sent later: with the next run, or by `dspy-toolkit track send`."


def start_tracking(folder: Path, config: "DSPyConfig") -> Tracking | None:
    """Have the run in `folder`, whose journal is there already, sent by a process of its own. Takes milliseconds.

    None where the settings say that runs are not tracked. Raises TrackingError when they say that they are and MLflow
    is not installed; whatever else goes wrong is told by the `note`, and the run goes on.
    """
    wanted = config.tracking.enabled
    if wanted is False or (wanted is None and not installed()):
        return None
    if not installed():
        raise TrackingError(f"tracking.enabled is true, but MLflow is not installed: {INSTALL}.")
    target = Target.of(config)
    try:
        known = read_state(folder)
        if known is None or known.target != target.public:
            write_state(folder, TrackingState(target=target.public))
        _start(folder, target)
    except OSError as error:
        return Tracking(folder, f"The process that sends runs to MLflow cannot be started ({error.strerror or error}).")
    return Tracking(folder)


@contextmanager
def tracked(folder: Path, config: "DSPyConfig", on_event: "EventSink | None" = None) -> Iterator[None]:
    """Around a run whose journal is in `folder`: it is sent as it goes, and at its end one note says if that failed.

    The note is an event, or, without a sink for events, a warning in the log. Raises what `start_tracking` raises.
    """
    tracking = start_tracking(folder, config)
    try:
        yield
    finally:
        note = tracking.note if tracking is not None else ""
        if note and on_event is not None:
            from dspy_toolkit.runs.events import Event

            on_event(Event(kind="note", stage="search", message=note))
        elif note:
            _logger.warning("%s", note)


def _start(folder: Path, target: Target) -> None:
    detached: dict[str, Any] = {"start_new_session": True}  # Ctrl-C in the run's terminal is not for it
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    process = subprocess.Popen(
        # -P: a folder called mlflow where the run was started is not MLflow.
        [sys.executable, "-P", "-m", "dspy_toolkit.tracking", str(folder), "--target", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **detached,
    )
    # The target comes by the pipe: a password in it is in no argument, variable or file.
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(target)).encode())
    process.stdin.close()
    # A long-lived process starts many; each one that ends must be waited for, by somebody who has time.
    threading.Thread(target=process.wait, name="tracking", daemon=True).start()
