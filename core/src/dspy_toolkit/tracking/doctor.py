"""The line of `doctor` on tracking."""

from typing import TYPE_CHECKING

import importlib_metadata

from dspy_toolkit.tracking.target import INSTALL, Target, installed
from dspy_toolkit.types import Check

if TYPE_CHECKING:
    from dspy_toolkit.settings import DSPyConfig

__all__ = ["check_tracking"]


def check_tracking(config: "DSPyConfig") -> Check:
    """Whether runs are sent to MLflow, where, and whether that works. Does not import MLflow."""
    if config.tracking.enabled is False:
        return Check(name="tracking", ok=True, detail="off (tracking.enabled)")
    if not installed():
        wanted = config.tracking.enabled is True
        return Check(name="tracking", ok=not wanted, detail="off: MLflow is not installed", remedy=INSTALL)
    target = Target.of(config)
    if problem := target.unreachable():
        return Check(
            name="tracking", ok=False, detail=problem, remedy="start the server, or set tracking.uri to another one"
        )
    return Check(name="tracking", ok=True, detail=f"MLflow {importlib_metadata.version('mlflow')}, {target.public}")
