"""DSPy's COPRO."""

import dspy
from pydantic import Field

from dspy_toolkit.builtin.search import PromptModel, Search, Temperature, second_lm
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Forecast, TrainingScores, Work
from dspy_toolkit.optimize.teleprompter import stripped, uncompiled

__all__ = ["Copro"]


class Copro(Optimizer):
    """DSPy's COPRO: rounds of proposed instructions; later rounds see the scores of earlier ones.

    DSPy scores candidates on the training rows and has no seed: here validation rows decide, and each seed has
    proposals of its own (which come from the cache when the run is repeated).
    """

    class Params(OptimizerParams):
        breadth: int = Field(5, ge=2, description="Instructions proposed in a round.")
        depth: int = Field(2, ge=1, description="Rounds.")
        init_temperature: Temperature = 1.0
        prompt_model: PromptModel = None

    def check(self, job: OptimizerJob, params: Params) -> None:
        second_lm(job, params.prompt_model)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        predictors = len(job.program.predictors())
        programs, rows = _programs(job, params), len(job.validation)
        proposals = params.breadth * params.depth - 1
        # Predictors before the one whose instruction is tried, and the same instruction again, repeat prompts.
        repeated = programs * rows * (0.0 if predictors == 1 else 0.5)
        candidates = Work(
            what="candidates",
            rollouts=Amount.of(programs * rows),
            repeats=Amount(0, repeated, programs * rows - rows),
            why=f"{programs} instructions on {rows} validation rows each",
        )
        instructions = Work(
            what="instructions",
            calls=Amount(proposals, proposals, 2 * proposals + 2) * predictors,
            model=params.prompt_model,
            why=f"{params.breadth} for each of {params.depth} rounds and {predictors} predictors, less the first",
        )
        return Forecast(work=(candidates, instructions))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        validation = list(job.validation)
        search = Search(job, total=_programs(job, params) * len(validation), rows=len(validation))
        # Repeated proposals come from the cache; the rollout id gives each seed cache entries of its own.
        prompt_model = second_lm(job, params.prompt_model).copy(
            rollout_id=job.seed, temperature=params.init_temperature
        )
        with search.following():
            optimizer = dspy.COPRO(
                prompt_model=prompt_model,
                metric=search.metric,
                breadth=params.breadth,
                depth=params.depth,
                init_temperature=params.init_temperature,
            )
            options = {"num_threads": job.num_threads, "display_progress": False}
            return stripped(optimizer.compile(uncompiled(job.program), trainset=validation, eval_kwargs=options))


def _programs(job: OptimizerJob, params: Copro.Params) -> int:
    """How many candidates are evaluated. With several predictors every round tries all candidates so far again."""
    predictors = len(job.program.predictors())
    rounds = params.depth if predictors == 1 else params.depth * (params.depth + 1) // 2
    return params.breadth * rounds * predictors
