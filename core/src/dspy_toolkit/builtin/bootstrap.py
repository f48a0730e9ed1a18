"""DSPy's BootstrapFewShot."""

import random

import dspy

from dspy_toolkit.builtin.demos import (
    Bootstrapping,
    MaxBootstrapped,
    MaxLabeled,
    MaxRounds,
    Threshold,
    check_demos_fit,
    demo_limits,
)
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work, bootstrapped
from dspy_toolkit.optimize.teleprompter import uncompiled

__all__ = ["Bootstrap"]


class Bootstrap(Optimizer):
    """DSPy's BootstrapFewShot: demonstrations the program made itself on training rows and the metric accepted.

    BootstrapFewShot takes rows in order and has no seed: here the seed shuffles them.
    """

    class Params(OptimizerParams):
        max_bootstrapped_demos: MaxBootstrapped = 4
        max_labeled_demos: MaxLabeled = 16
        max_rounds: MaxRounds = 1
        metric_threshold: Threshold = 0.5

    def check(self, job: OptimizerJob, params: Params) -> None:
        check_demos_fit(job)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        rows, limits = len(job.train), demo_limits(job, params)
        target, labelled = limits["max_bootstrapped_demos"], min(limits["max_labeled_demos"], rows)
        rate = scores.rate(params.metric_threshold, with_demos=labelled > 0)
        rollouts, accepted = bootstrapped(rows, target, rate, rounds=params.max_rounds)
        # The same rows in the same order as the calibration's, so the cache has its answers.
        measured = len(scores.with_demos if labelled else scores.plain)
        work = Work(
            what="bootstrapping",
            rollouts=rollouts,
            demos=labelled,
            repeats=Amount(0, min(measured, rollouts.expected), min(measured, rollouts.high)),
            in_turn=True,
            why=f"until {target} of {rows} rows are accepted, each tried {params.max_rounds} times at most",
        )
        filled = max(0.0, min(labelled, rows) - accepted)
        unchanged = 0.0 if filled else (1 - rate.mean) ** (rows * params.max_rounds)
        return Forecast(work=(work,), final=Final(demos=accepted + filled, unchanged=unchanged))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        rows = list(job.train)
        random.Random(job.seed).shuffle(rows)
        search = Bootstrapping(
            job,
            metric=job.metric.with_threshold(params.metric_threshold),
            max_rounds=params.max_rounds,
            max_errors=len(rows) * params.max_rounds + 1,  # a row's failure costs that row, not the run
            **demo_limits(job, params),
        )
        job.report(0, len(rows))
        return search.compile(uncompiled(job.program), trainset=rows)
