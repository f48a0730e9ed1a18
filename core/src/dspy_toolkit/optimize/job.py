"""What an optimizer is given."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import dspy

from dspy_toolkit.metrics.metric import Metric

if TYPE_CHECKING:
    from dspy_toolkit.optimize.planning.forecast import Forecast

__all__ = ["OptimizerJob", "calls_per_row", "planned", "preflight"]

_Optimizer = TypeVar("_Optimizer", bound=Callable[..., dspy.Module])


def _unheard(message: str) -> None:
    """Nobody listens."""


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
    on_note: Callable[[str], None] = _unheard
    connect: Callable[[str], Any] | None = None

    def report(self, done: int, total: int | None = None, *, score: float | None = None, message: str = "") -> None:
        """Tell progress: `done` of `total` steps, and the best score so far (0-100) if there is one."""
        self.on_report(done, total, score, message)

    def keep(self, program: dspy.Module, *, score: float | None = None, message: str = "") -> None:
        """Hand over the best program so far: what an interrupted run is left with. Later calls replace earlier ones.

        The program now belongs to the run; hand over a copy of one that goes on changing.
        """
        self.on_keep(program, score, message)

    def note(self, message: str) -> None:
        """Tell people something they would want to know: a limit that was applied, a part that was left out."""
        self.on_note(message)


def preflight(check: Callable[..., None]) -> Callable[[_Optimizer], _Optimizer]:
    """Have `check(job, **parameters)` called before the run makes any LM call; it raises what makes the run pointless.

    The check gets all parameters of the optimizer. It must call no LM.
    """

    def mark(optimizer: _Optimizer) -> _Optimizer:
        setattr(optimizer, "preflight", check)  # noqa: B010  # functions have no declared attributes
        return optimizer

    return mark


def planned(forecast: "Callable[..., Forecast]") -> Callable[[_Optimizer], _Optimizer]:
    """Have `forecast(job, known, **parameters)` tell what the optimizer will ask for.

    It gets what was measured (`Known`, empty where nothing was) and all parameters, and may be called several times. It
    must call no LM. An optimizer without one can be used as well as any other; a plan of it says "unknown".
    """

    def mark(optimizer: _Optimizer) -> _Optimizer:
        setattr(optimizer, "forecast", forecast)  # noqa: B010  # functions have no declared attributes
        return optimizer

    return mark


def calls_per_row(times: Callable[..., float]) -> Callable[[Any], Any]:
    """Say of an optimizer that its program asks the LM `times(**parameters)` times as often as the one it was given."""

    def mark(optimizer: Any) -> Any:
        optimizer.calls_per_row = times
        return optimizer

    return mark
