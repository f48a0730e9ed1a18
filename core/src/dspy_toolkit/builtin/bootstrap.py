"""DSPy's BootstrapFewShot."""

import random
from typing import Annotated, Any

import dspy
from pydantic import Field

from dspy_toolkit.builtin.search import demos_must_fit, fresh, labelled
from dspy_toolkit.lm.context_window import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known, Work, bootstrapped

__all__ = ["Bootstrapping", "Count", "Positive", "Threshold", "bootstrap", "shown_at_once"]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Threshold = Annotated[float, Field(gt=0, le=1)]


def shown_at_once(job: OptimizerJob, **wanted: int) -> tuple[int, int]:
    """How many demonstrations made by the program, and in all, a bootstrapped program may hold."""
    limited = limit_demos(job, **wanted)
    labels = limited["max_labeled_demos"] if labelled(job.program, job.train) else 0
    return limited["max_bootstrapped_demos"], min(labels, len(job.train))


def _forecast(
    job: OptimizerJob,
    known: Known,
    *,
    max_bootstrapped_demos: int,
    max_labeled_demos: int,
    max_rounds: int,
    metric_threshold: float,
) -> Forecast:
    wanted, shown = shown_at_once(
        job, max_bootstrapped_demos=max_bootstrapped_demos, max_labeled_demos=max_labeled_demos
    )
    rate = known.rate(metric_threshold, shown=shown > 0)
    rollouts, made = bootstrapped(len(job.train), wanted, rate, rounds=max_rounds)
    # The same rows in the same order as the calibration's, so the cache has its answers.
    asked = len(known.shown if shown else known.bare)
    work = Work(
        what="bootstrapping",
        rollouts=rollouts,
        labelled=shown,
        repeats=Amount(0, min(asked, rollouts.expected), min(asked, rollouts.high)),
        in_turn=True,
        why=f"until {wanted} of {len(job.train)} rows are accepted, each tried {max_rounds} times at most",
    )
    filled = max(0.0, min(shown - made, len(job.train) - made))
    unchanged = 0.0 if filled else (1 - rate.mean) ** (len(job.train) * max_rounds)
    return Forecast(work=(work,), final=Final(made=made, labelled=filled, unchanged=unchanged))


@planned(_forecast)
@preflight(demos_must_fit)
def bootstrap(
    job: OptimizerJob,
    *,
    max_bootstrapped_demos: Positive = 4,
    max_labeled_demos: Count = 16,
    max_rounds: Positive = 1,
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
    search = Bootstrapping(
        job,
        metric=job.metric.with_threshold(metric_threshold),
        max_rounds=max_rounds,
        max_errors=len(rows) * max_rounds + 1,  # a row's failure costs that row, not the run
        **limit_demos(
            job,
            max_bootstrapped_demos=max_bootstrapped_demos,
            max_labeled_demos=max_labeled_demos if labelled(job.program, rows) else 0,
        ),
    )
    job.report(0, len(rows))
    return search.compile(fresh(job.program), trainset=rows)


class Bootstrapping(dspy.BootstrapFewShot):
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
            self._keep(example)
        self._job.report(self._tried, len(self.trainset))
        return accepted

    def _keep(self, example: dspy.Example) -> None:
        """Called when a row's demonstrations were accepted and added to `name2traces`."""
        partial = self.student.deepcopy()
        for name, predictor in partial.named_predictors():
            predictor.demos = list(self.name2traces[name])
        self._job.keep(partial, message=f"{self._accepted} demonstrations accepted")
