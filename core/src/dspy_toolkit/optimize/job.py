"""What an optimizer is given."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.metrics.metric import Metric

__all__ = ["OptimizerJob"]


@dataclass(frozen=True, kw_only=True)
class OptimizerJob:
    """One search. The LM and adapter are already in `dspy.context` when the optimizer is called.

    An optimizer must not change `program`. It calls `report` as it goes and `keep` when it has something better than
    nothing; both raise when the run was told to stop, so an optimizer needs no other check.
    """

    program: dspy.Module
    train: tuple[dspy.Example, ...]
    validation: tuple[dspy.Example, ...]
    metric: Metric
    lm: Any
    seed: int
    num_threads: int
    stop: threading.Event
    _report: Callable[..., None]
    _keep: Callable[[dspy.Module], None]

    def report(self, done: int, total: int | None = None, *, score: float | None = None, message: str = "") -> None:
        """Tell progress: `done` of `total` steps, with the best score so far (0-100) if there is one."""
        raise NotImplementedError

    def keep(self, program: dspy.Module) -> None:
        """Hand over the best program so far; it is what an interrupted run returns. Later calls replace earlier ones."""
        raise NotImplementedError
