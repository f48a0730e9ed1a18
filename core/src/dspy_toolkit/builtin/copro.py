"""DSPy's COPRO."""

from typing import Annotated

import dspy
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Positive
from dspy_toolkit.builtin.search import Search, fresh, second_lm, stripped
from dspy_toolkit.optimize.job import OptimizerJob, preflight

__all__ = ["copro"]


def _check(job: OptimizerJob, *, prompt_model: str | None, **_: object) -> None:
    second_lm(job, prompt_model)


@preflight(_check)
def copro(
    job: OptimizerJob,
    *,
    breadth: Annotated[int, Field(ge=2)] = 5,
    depth: Positive = 2,
    init_temperature: Annotated[float, Field(ge=0, le=2)] = 1.0,
    prompt_model: str | None = None,
) -> dspy.Module:
    """DSPy's COPRO: `depth` rounds of `breadth` proposed instructions each; later rounds see the scores of earlier.

    Proposals come from `prompt_model`, a model string (null: the program's own), at `init_temperature`. DSPy scores
    candidates on the training rows and has no seed: here validation rows decide, and each seed has proposals of its own
    (which come from the cache when the run is repeated).
    """
    validation = list(job.validation)
    predictors = len(job.program.predictors())
    # With several predictors every round tries all candidates so far again.
    rounds = depth if predictors == 1 else depth * (depth + 1) // 2
    search = Search(job, total=breadth * rounds * predictors * len(validation), rows=len(validation))
    # Repeated proposals come from the cache; the rollout id gives each seed cache entries of its own.
    prompting = second_lm(job, prompt_model).copy(rollout_id=job.seed, temperature=init_temperature)
    with search.following():
        optimizer = dspy.COPRO(
            prompt_model=prompting,
            metric=search.metric,
            breadth=breadth,
            depth=depth,
            init_temperature=init_temperature,
        )
        evaluation = {"num_threads": job.num_threads, "display_progress": False}
        return stripped(optimizer.compile(fresh(job.program), trainset=validation, eval_kwargs=evaluation))
