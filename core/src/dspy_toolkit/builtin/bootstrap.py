"""The optimizers in the box: DSPy's own, told apart from their progress bars."""

import random
from typing import Annotated, Any

import dspy
from pydantic import Field

from dspy_toolkit.optimize.data import signatures_of
from dspy_toolkit.optimize.job import OptimizerJob

__all__ = ["bootstrap"]

Count = Annotated[int, Field(ge=0)]
Threshold = Annotated[float, Field(gt=0, le=1)]


def bootstrap(
    job: OptimizerJob,
    *,
    max_bootstrapped_demos: Annotated[int, Field(ge=1)] = 4,
    max_labeled_demos: Count = 16,
    max_rounds: Annotated[int, Field(ge=1)] = 1,
    metric_threshold: Threshold = 0.5,
) -> dspy.Module:
    """DSPy's BootstrapFewShot: demonstrations the program made itself on training rows and the metric accepted.

    `max_bootstrapped_demos` is how many to accept, `max_rounds` how often to try a row (from the second time on at
    temperature 1), `metric_threshold` the score, 0 to 1, from which a demonstration is accepted. Up to
    `max_labeled_demos` in all are filled up with training rows as they are, if those have all output fields.
    BootstrapFewShot takes rows in order and has no seed: here the seed shuffles them.
    """
    rows = list(job.train)
    random.Random(job.seed).shuffle(rows)
    search = _Bootstrap(
        job,
        metric=job.metric.with_threshold(metric_threshold),
        max_bootstrapped_demos=max_bootstrapped_demos,
        max_labeled_demos=max_labeled_demos if _labelled(job.program, rows) else 0,
        max_rounds=max_rounds,
        max_errors=len(rows) * max_rounds + 1,  # a row's failure costs that row, not the run
    )
    job.report(0, len(rows))
    return search.compile(job.program, trainset=rows)


class _Bootstrap(dspy.BootstrapFewShot):
    """BootstrapFewShot that tells how far it is and hands over what it has after each accepted row."""

    def __init__(self, job: OptimizerJob, **options: Any):
        super().__init__(**options)
        self._job = job
        self._tried = 0
        self._accepted = 0

    def _bootstrap_one_example(self, example: dspy.Example, round_idx: int = 0) -> bool:
        self._tried += round_idx == 0
        accepted = bool(super()._bootstrap_one_example(example, round_idx))
        if accepted:
            self._accepted += 1
            partial = self.student.deepcopy()
            for name, predictor in partial.named_predictors():
                predictor.demos = list(self.name2traces[name])
            self._job.keep(partial, message=f"{self._accepted} demonstrations accepted")
        self._job.report(self._tried, len(self.trainset))
        return accepted


def _labelled(program: dspy.Module, rows: list[dspy.Example]) -> bool:
    """Whether a row can be a demonstration as it is: it has every output field of every predictor."""
    outputs = {name for signature in signatures_of(program).values() for name in signature.output_fields}
    return all(outputs <= set(row.keys()) for row in rows)
