"""Whether a metric gives feedback, determined without an LM call."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dspy

from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["gives_feedback"]


def gives_feedback(metric: Metric, rows: Sequence[dspy.Example], program: dspy.Module) -> bool | None:
    """Score some predictions against a row; None where that cannot tell.

    Predictions hold the labels of other rows, or, where rows have none or all the same, made-up text and numbers. It
    cannot tell where outputs are neither (an experiment's configuration is not made up: the metric might run it),
    where the metric fails, or where it calls an LM, which is prevented. As GEPA does, the metric is also called with
    the name of each predictor, for which alone it may have feedback.
    """
    if not rows:
        return None
    predictions = _labels(rows, program) or _made_up(program)
    if not predictions:
        return None
    plain = Metric(metric)  # not the run's recording one: this is no failure of the search
    try:
        with dspy.context(callbacks=[_NoCalls()]):
            return any(
                feedback.strip()
                for prediction in predictions
                for feedback in _feedback(plain, rows[0], prediction, program)
            )
    except (MetricError, _LMCalled):
        return None


def _feedback(metric: Metric, row: dspy.Example, prediction: dspy.Prediction, program: dspy.Module) -> Iterator[str]:
    yield metric.score(row, prediction).feedback
    trace = [(predictor, dict(row.inputs().items()), prediction) for predictor in program.predictors()]
    for step, (name, _) in zip(trace, program.named_predictors(), strict=True):
        yield metric.score(row, prediction, trace, name, [step]).feedback


def _labels(rows: Sequence[dspy.Example], program: dspy.Module) -> list[dspy.Prediction]:
    """Another row's labels and the first row's own, if they differ."""
    outputs = list(signatures_of(program).values())[-1].output_fields
    labels = [name for name in outputs if all(name in row for row in rows)]
    other = next((row for row in rows if any(row[name] != rows[0][name] for name in labels)), None)
    if other is None:
        return []
    return [dspy.Prediction(**{name: row[name] for name in labels}) for row in (other, rows[0])]


_MADE_UP: Mapping[Any, tuple[Any, Any]] = {str: ("", "something"), int: (0, 1), float: (0.0, 1.0), bool: (False, True)}


def _made_up(program: dspy.Module) -> list[dspy.Prediction]:
    outputs = list(signatures_of(program).values())[-1].output_fields
    types = {name: field.annotation for name, field in outputs.items()}
    if not all(annotation in _MADE_UP for annotation in types.values()):
        return []
    return [
        dspy.Prediction(**{name: _MADE_UP[annotation][number] for name, annotation in types.items()})
        for number in (1, 0)
    ]


class _LMCalled(BaseException):
    """The metric was about to call an LM."""


class _NoCalls(BaseCallback):
    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        raise _LMCalled
