"""Rows that failed in a search, which DSPy counts and forgets, and the end of a run in which too many fail."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import dspy

from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.data.splits import Splits, row_digest
from dspy_toolkit.errors import DataError, MetricError, OptimizationError
from dspy_toolkit.lm.meter import Ended

__all__ = ["Failures"]

_DEPTH: ContextVar[int] = ContextVar("dspy_toolkit_module_depth", default=0)


class Failures(BaseCallback):
    """Counts failing rows over a whole run: in evaluations by `add`, in the search as a callback of DSPy's.

    A call of a program fails on a row when it raises and its inputs are those of a training or validation row; what an
    optimizer's own programs raise is none. `allowed` failures are fine, one more ends the run; None allows any number.
    """

    def __init__(self, allowed: int | None, data: Splits):
        self._allowed = allowed
        self._data = data
        self._names: dict[str, str] | None = None
        self._inputs: dict[str, Mapping[str, Any]] = {}
        self.count = 0
        self.found: list[tuple[str | None, Exception]] = []

    def add(self, described: str) -> None:
        """One more row failed. Raises Ended, which no optimizer catches, when that is one too many."""
        self.count += 1
        if self._allowed is not None and self.count > self._allowed:
            allowed = "no row may" if self._allowed == 0 else f"{self._allowed} may"
            raise Ended(
                OptimizationError(
                    f"{self.count} rows failed and {allowed} (max_errors). The last: {described}. Look at the errors, "
                    "and allow more if they are to be expected."
                )
            )

    def metric_raised(self, error: MetricError) -> None:
        """The metric failed on a row of the search."""
        self.found.append((None, error))
        self.add(f"MetricError: {error}")

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        depth = _DEPTH.get()
        _DEPTH.set(depth + 1)
        if depth == 0:
            self._inputs[call_id] = inputs.get("kwargs") or {}

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        _DEPTH.set(max(0, _DEPTH.get() - 1))
        inputs = self._inputs.pop(call_id, None)
        if inputs is None or not isinstance(exception, Exception):
            return
        row = self._row(inputs)
        if row is not None:
            self.found.append((row, exception))
            self.add(f"{row}: {type(exception).__name__}: {' '.join(str(exception).split())[:200]}")

    def _row(self, inputs: Mapping[str, Any]) -> str | None:
        """Which row has these inputs: `row 7 of the train set`."""
        if self._names is None:
            self._names = {
                row_digest(row.inputs()): f"row {number} of the {name} set"
                for name in ("validation", "train")
                for number, row in enumerate(getattr(self._data, name), start=1)
            }
        try:
            return self._names.get(row_digest(dspy.Example(**inputs)))
        except DataError:
            return None
