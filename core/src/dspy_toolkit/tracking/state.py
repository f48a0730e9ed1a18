"""How far a run has come on its way to MLflow: `tracking.json` beside its journal."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["TrackingState", "read_state", "write_state"]


@dataclass(frozen=True, kw_only=True)
class TrackingState:
    """`seq` is the journal's last entry that MLflow has; `closed` is that the MLflow run was given its final status
    after it. `target` is the public form of the URI. `problem` is one line, empty when all is well.
    """

    target: str
    seq: int = 0
    closed: bool = False
    mlflow_run: str = ""
    experiment: str = ""
    problem: str = ""


def read_state(folder: Path) -> TrackingState | None:
    """The state of the run in `folder`; None if it was never tracked, or the file says nothing that can be used."""
    try:
        return TrackingState(**json.loads(_file(folder).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # what is sent again does no harm


def write_state(folder: Path, state: TrackingState) -> None:
    """Replace the state in one step. Raises OSError."""
    temporary = _file(folder).with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        temporary.replace(_file(folder))
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _file(folder: Path) -> Path:
    return folder / "tracking.json"
