"""What a framework was asked to measure, from the call to the rows and the way they are measured."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from dspy_toolkit.data.splits import AnyData
from dspy_toolkit.evaluation.rows import EvaluationRows, SetName, rows_of
from dspy_toolkit.framework.evaluation import Measuring
from dspy_toolkit.framework.resources import Model, Resources
from dspy_toolkit.metrics.named import AnyMetrics
from dspy_toolkit.programs.target import Target
from dspy_toolkit.runs.events import EventSink

__all__ = ["EvaluationRequest"]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The arguments of `DSPyFramework.evaluate` and `compare`. What is None, the task and the settings decide."""

    dataset: AnyData | None = None
    metrics: AnyMetrics | None = None
    model: Model = None
    set: SetName | None = None
    rows: int | None = None
    repeats: int = 1
    seed: int | None = None
    max_errors: int | None = None
    on_event: EventSink | None = None
    stop: threading.Event | None = None

    def rows_for(self, resources: Resources, target: Target, keep: Sequence[str] = ()) -> EvaluationRows:
        """The rows `target` is measured on. Columns of a file that only `keep` names stay. Raises DataError."""
        count = self.rows
        if count is None and self.dataset is None and target.task is not None:
            drawn = {**target.task.entry.rows, **resources.config.project(target.project).rows}
            count = drawn.get(self.set or "test")
        return rows_of(target, self.dataset, which=self.set, count=count, seed=self._seed(resources), keep=keep)

    def measuring(self, resources: Resources, target: Target) -> Measuring:
        """How it is measured. Raises what `Target.metrics` raises."""
        return Measuring(
            metrics=target.metrics(resources.plugins, self.metrics),
            adapter=resources.adapter(),
            repeats=self.repeats,
            seed=self._seed(resources),
            num_threads=resources.config.num_threads,
            max_errors=resources.config.max_errors if self.max_errors is None else self.max_errors,
            on_event=self.on_event,
            stop=self.stop,
            open_journal=resources.recorded,
        )

    def _seed(self, resources: Resources) -> int:
        return resources.config.seed if self.seed is None else self.seed
