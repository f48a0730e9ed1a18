"""What an optimizer is given."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.metrics.metric import Metric

__all__ = ["OptimizerJob"]


def _ignore(message: str) -> None:
    """Nobody subscribed."""


@dataclass(frozen=True, kw_only=True)
class OptimizerJob:
    """One search. The LM and the adapter are in `dspy.context` when the optimizer is called; what it prints is
    diverted.

    An optimizer must not change `program`. It calls `report` as it goes and `keep` when it has something to keep. Both,
    and every LM call, raise a BaseException of the toolkit's when the run was told to stop, so an optimizer needs no
    check of its own; it only must not catch BaseException. `metric` is made for DSPy's optimizers and may be called
    from threads; rows it fails on are collected for the result's error table.

    `connect` turns a model string into an LM, for optimizers that use a second one.
    """

    program: dspy.Module
    train: tuple[dspy.Example, ...]
    validation: tuple[dspy.Example, ...]
    metric: Metric
    lm: Any
    seed: int
    num_threads: int
    stop: threading.Event
    on_report: Callable[[int, int | None, float | None, str], None]
    on_keep: Callable[[dspy.Module, float | None, str], None]
    on_note: Callable[[str], None] = _ignore
    connect: Callable[[str], Any] | None = None

    def report(self, count: int, total: int | None = None, *, score: float | None = None, message: str = "") -> None:
        """Report progress: `count` of `total` steps, and the best score so far (0-100) if there is one."""
        self.on_report(count, total, score, message)

    def keep(self, program: dspy.Module, *, score: float | None = None, message: str = "") -> None:
        """Hand over the best program so far: what an interrupted run is left with. Later calls replace earlier ones.

        The program now belongs to the run; hand over a copy of one that goes on changing.
        """
        self.on_keep(program, score, message)

    def note(self, message: str) -> None:
        """Tell people something they would want to know: a limit that was applied, a part that was left out."""
        self.on_note(message)
