"""DSPy's LabeledFewShot."""

import random

import dspy

from dspy_toolkit.builtin.bootstrap import Positive
from dspy_toolkit.builtin.search import check_labelled, demos_must_fit, fresh
from dspy_toolkit.lm.context_window import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known

__all__ = ["labeled"]


def _check(job: OptimizerJob, **parameters: object) -> None:
    check_labelled(job, "labeled")
    demos_must_fit(job)


def _forecast(job: OptimizerJob, known: Known, *, k: int) -> Forecast:
    return Forecast(final=Final(labelled=min(limit_demos(job, k=k)["k"], len(job.train))))


@planned(_forecast)
@preflight(_check)
def labeled(job: OptimizerJob, *, k: Positive = 4) -> dspy.Module:
    """DSPy's LabeledFewShot: `k` training rows as they are, as demonstrations. Makes no LM call.

    DSPy always draws with seed 0: here the run's seed draws.
    """
    rows = list(job.train)
    random.Random(job.seed).shuffle(rows)
    count = limit_demos(job, k=k)["k"]
    job.report(0, 1)
    found = dspy.LabeledFewShot(k=count).compile(fresh(job.program), trainset=rows, sample=False)
    job.keep(found.deepcopy(), message=f"{min(count, len(rows))} labelled demonstrations")
    job.report(1, 1)
    return found
