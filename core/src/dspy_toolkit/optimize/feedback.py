"""Whether a metric says why, found out without an LM call."""

from collections.abc import Sequence
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.data import signatures_of

__all__ = ["gives_feedback"]


def gives_feedback(metric: Metric, rows: Sequence[dspy.Example], program: dspy.Module) -> bool | None:
    """Score labels of some rows against others; None when that shows nothing.

    It shows nothing where rows have no labels, all have the same, or the metric fails: what a prediction would hold
    cannot be made up then. Nor for a metric that asks an LM, which is stopped before it does. The metric is called at
    most twice.
    """
    outputs = list(signatures_of(program).values())[-1].output_fields
    labels = [name for name in outputs if all(name in row for row in rows)]
    if not labels or not rows:
        return None
    gold = rows[0]
    other = next((row for row in rows if any(row[name] != gold[name] for name in labels)), None)
    if other is None:
        return None
    plain = Metric(metric)  # not the run's recording one: this is no failure of the search
    try:
        with dspy.context(callbacks=[_NoCalls()]):
            return any(
                plain.score(gold, dspy.Prediction(**{name: row[name] for name in labels})).feedback.strip()
                for row in (other, gold)
            )
    except (MetricError, _Asked):
        return None


class _Asked(BaseException):
    """The metric was about to ask an LM."""


class _NoCalls(BaseCallback):
    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        raise _Asked
