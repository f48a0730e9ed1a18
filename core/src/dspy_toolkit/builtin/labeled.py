"""DSPy's LabeledFewShot."""

import random

import dspy
from pydantic import Field

from dspy_toolkit.builtin.demos import check_demos_fit, check_labelled, number_that_fits
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores
from dspy_toolkit.optimize.teleprompter import uncompiled

__all__ = ["Labeled"]


class Labeled(Optimizer):
    """DSPy's LabeledFewShot: training rows as they are, as demonstrations. Makes no LM call.

    DSPy always draws with seed 0: here the run's seed draws.
    """

    class Params(OptimizerParams):
        k: int = Field(4, ge=1, description="How many rows to show.")

    def check(self, job: OptimizerJob, params: Params) -> None:
        check_labelled(job, "labeled")
        check_demos_fit(job)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        return Forecast(final=Final(demos=min(number_that_fits(job, k=params.k), len(job.train))))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        rows = list(job.train)
        random.Random(job.seed).shuffle(rows)
        count = number_that_fits(job, k=params.k)
        job.report(0, 1)
        program = dspy.LabeledFewShot(k=count).compile(uncompiled(job.program), trainset=rows, sample=False)
        job.keep(program.deepcopy(), message=f"{min(count, len(rows))} labelled demonstrations")
        job.report(1, 1)
        return program
