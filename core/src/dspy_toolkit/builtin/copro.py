"""DSPy's COPRO."""

from typing import Annotated

import dspy
from dspy.teleprompt.copro_optimizer import BasicGenerateInstruction
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Positive
from dspy_toolkit.builtin.search import Search, fresh, most_written, second_lm, stripped
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Forecast, Known, Work
from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["copro"]


def _check(job: OptimizerJob, *, prompt_model: str | None, **_: object) -> None:
    second_lm(job, prompt_model)


def _rounds(depth: int, predictors: int) -> int:
    """With several predictors every round tries all candidates so far again."""
    return depth if predictors == 1 else depth * (depth + 1) // 2


def _forecast(
    job: OptimizerJob,
    known: Known,
    *,
    breadth: int,
    depth: int,
    init_temperature: float,
    prompt_model: str | None,
) -> Forecast:
    validation = len(job.validation)
    signatures = list(signatures_of(job.program).values())
    predictors = len(job.program.predictors())
    programs = breadth * _rounds(depth, predictors) * predictors
    asked = breadth * depth - 1
    # Predictors that come before the one whose instruction is tried, and the same instruction again, repeat prompts.
    again = programs * validation * (0.0 if predictors == 1 else 0.5)
    return Forecast(
        work=(
            Work(
                what="candidates",
                instructed=True,
                rollouts=Amount.of(programs * validation),
                repeats=Amount(0, again, programs * validation - validation),
                why=f"{programs} instructions on {validation} validation rows each",
            ),
            Work(
                what="instructions",
                calls=Amount(asked, asked, 2 * asked + 2) * predictors,
                model=prompt_model,
                most_written=most_written(job, prompt_model),
                prompt=(BasicGenerateInstruction, {"basic_instruction": signatures[0].instructions}),
                why=f"{breadth} for each of {depth} rounds and {predictors} predictors, the first being there",
            ),
        )
    )


@planned(_forecast)
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
    total = breadth * _rounds(depth, predictors) * predictors * len(validation)
    search = Search(job, total=total, rows=len(validation))
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
