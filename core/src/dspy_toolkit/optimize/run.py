"""One optimization from data to result: baseline on held-out rows, search, the same rows again, comparison."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import dspy

from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.data import Splits
from dspy_toolkit.optimize.events import EventSink
from dspy_toolkit.optimize.result import OptimizationResult

__all__ = ["optimize"]


def optimize(
    program: dspy.Module,
    *,
    data: Splits,
    metric: Metric | Callable[..., Any],
    optimizer: Callable[..., dspy.Module],
    optimizer_name: str = "",
    parameters: Mapping[str, Any] | None = None,
    lm: Any,
    adapter: dspy.Adapter | None = None,
    seed: int = 0,
    num_threads: int = 1,
    task: str = "",
    on_event: EventSink | None = None,
    stop: threading.Event | None = None,
) -> OptimizationResult:
    """Optimize `program`, which is left as it was. `optimizer` is what an OptimizerEntry's reference leads to.

    Raises OptimizationError (dead LM, nothing to search), OptimizationInterrupted (Ctrl-C or `stop`; `partial` is an
    OptimizationResult), UnknownNameError / SettingsError for a parameter that does not exist / has a bad value.
    """
    raise NotImplementedError
