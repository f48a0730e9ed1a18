"""DSPy's Ensemble: several programs that vote."""

import random

import dspy
from pydantic import Field

from dspy_toolkit.builtin.demos import MaxBootstrapped, MaxLabeled, Threshold, check_demos_fit, demo_limits
from dspy_toolkit.builtin.search import Search
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work, bootstrapping
from dspy_toolkit.optimize.teleprompter import NO_LIMIT, stripped, uncompiled
from dspy_toolkit.programs.vote import Vote

__all__ = ["Ensemble"]


class Ensemble(Optimizer):
    """DSPy's Ensemble with majority vote: the best of several bootstrapped programs answer, and vote.

    Programs are made by BootstrapFewShot on differently shuffled training rows and compared on validation rows. DSPy
    combines programs it is given and draws `size` of them anew, without a seed, in every call; here all of them answer.
    """

    class Params(OptimizerParams):
        size: int = Field(3, ge=2, description="How many programs vote: every call costs that many times the LM calls.")
        num_candidate_programs: int = Field(5, ge=1, description="How many programs are made and compared.")
        max_bootstrapped_demos: MaxBootstrapped = 3
        max_labeled_demos: MaxLabeled = 3
        metric_threshold: Threshold = 0.5

        @property
        def voters(self) -> int:
            return min(self.size, self.num_candidate_programs)

    def check(self, job: OptimizerJob, params: Params) -> None:
        check_demos_fit(job)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        limits = demo_limits(job, params)
        target, labelled = limits["max_bootstrapped_demos"], min(limits["max_labeled_demos"], len(job.train))
        rate = scores.rate(params.metric_threshold, with_demos=labelled > 0)
        number = params.num_candidate_programs
        making, accepted = bootstrapping(len(job.train), [target] * number, rate, labelled=labelled)
        demos = max(accepted, labelled)
        comparing = Work(
            what="candidates",
            rollouts=Amount.of(number * len(job.validation)),
            demos=demos,
            why=f"{number} programs on {len(job.validation)} validation rows each",
        )
        return Forecast(work=(making, comparing), final=Final(demos=demos, programs=params.voters))

    def rollouts_per_row(self, params: Params) -> float:
        return params.voters

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        validation, number = list(job.validation), params.num_candidate_programs
        search = Search(job, total=number * len(validation), rows=len(validation))
        metric, limits = job.metric.with_threshold(params.metric_threshold), demo_limits(job, params)
        with search.following():
            programs = []
            for index in range(number):
                rows = list(job.train)
                random.Random(f"{job.seed}/{index}").shuffle(rows)
                optimizer = dspy.BootstrapFewShot(metric=metric, max_errors=NO_LIMIT, **limits)
                programs.append(stripped(optimizer.compile(uncompiled(job.program), trainset=rows)))
            scores = [float(search.evaluate(program).score) for program in programs]
        best = sorted(range(number), key=lambda index: -scores[index])[: params.voters]  # stable: the first of equals
        return Vote([programs[index] for index in best])
