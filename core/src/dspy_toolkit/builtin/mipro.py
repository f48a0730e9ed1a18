"""DSPy's MIPROv2."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import dspy
from pydantic import Field

from dspy_toolkit.builtin.demos import MaxLabeled, Threshold, numbers_that_fit
from dspy_toolkit.builtin.search import PromptModel, Search, Temperature, second_lm
from dspy_toolkit.compat.optimizers import MIN_MINIBATCH_SIZE, MIPRO_AUTO_SETTINGS
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work, bootstrapping, distinct
from dspy_toolkit.optimize.teleprompter import NO_LIMIT, stripped, uncompiled
from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["Mipro"]


class Mipro(Optimizer):
    """DSPy's MIPROv2: proposes instructions and sets of demonstrations, then finds the best combination.

    DSPy ignores seed 0 and refuses minibatches larger than the validation set; here seeds count and sizes are bounded.
    """

    class Params(OptimizerParams):
        auto: Literal["light", "medium", "heavy"] | None = Field(
            None,
            description="DSPy's presets of `num_candidates`, `num_trials` and `minibatch`, which are then ignored.",
        )
        num_candidates: int = Field(6, ge=3, description="How many instructions, and how many sets of demonstrations.")
        num_trials: int | None = Field(
            None, ge=1, description="Combinations to try; null: what DSPy recommends for that many candidates."
        )
        minibatch: bool | None = Field(
            None, description="Score trials on some validation rows only; null: if there are more than 50."
        )
        minibatch_size: int = Field(25, ge=1, description="How many rows that is, at most as many as there are.")
        minibatch_full_eval_steps: int = Field(5, ge=1, description="Trials between evaluations on all of them.")
        max_bootstrapped_demos: int = Field(
            3,
            ge=0,
            description="Demonstrations that the program makes itself and the metric accepts, at most; 0 with "
            "`max_labeled_demos` 0 searches instructions only.",
        )
        max_labeled_demos: MaxLabeled = 3
        metric_threshold: Threshold = 0.5
        prompt_model: PromptModel = None
        init_temperature: Temperature = 1.0
        view_data_batch_size: int = Field(10, ge=1, description="Training rows that are summarized at a time.")
        program_aware_proposer: bool = Field(True, description="Proposals see the program's code.")
        data_aware_proposer: bool = Field(True, description="Proposals see a summary of the data.")
        tip_aware_proposer: bool = Field(True, description="Proposals see a prompting tip.")
        fewshot_aware_proposer: bool = Field(True, description="Proposals see demonstrations.")

    def check(self, job: OptimizerJob, params: Params) -> None:
        if params.max_labeled_demos and not params.max_bootstrapped_demos:
            raise OptimizationError(
                "MIPROv2 cannot take labelled demonstrations alone. Set max_bootstrapped_demos to 1 or more, or both "
                "to 0 to look for instructions only."
            )
        second_lm(job, params.prompt_model)
        # DSPy finds out in its third step, after all proposals were paid for.
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise OptimizationError("MIPROv2 needs optuna; install it with: pip install 'dspy[optuna]'") from error

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        limits = _demo_limits(job, params)
        target, labelled = limits["max_bootstrapped_demos"], min(limits["max_labeled_demos"], len(job.train))
        no_demos = not target and not labelled
        trials, rows, size = _trials(job, params, demos=not no_demos)
        sets = MIPRO_AUTO_SETTINGS[params.auto]["n"] if params.auto else params.num_candidates
        instructions = sets if not params.auto or no_demos else sets // 2
        full = rows * (1 + _full_evaluations(trials, params.minibatch_full_eval_steps)) if size else rows
        rollouts = full + trials * (size or rows)
        # Trials draw combinations; one drawn again repeats its prompts, as far as the rows are the same.
        combinations = (instructions * (1 if no_demos else sets)) ** len(job.program.predictors())
        new = distinct(combinations, [1.0] * trials) * (size or rows) * 0.8 + rows
        demos = 0.0 if no_demos else max((target + 1) / 2 * (sets - 1 - bool(labelled)), labelled * (sets - 1)) / sets
        # The first set has no demonstrations, the second, where rows have labels, those; the others are made.
        most = target or 3
        sizes = [most, *[1 + number % most for number in range(sets - 2 - bool(labelled))]]
        rate = scores.rate(params.metric_threshold, with_demos=labelled > 0)
        making, _ = bootstrapping(len(job.train), sizes, rate, labelled=labelled)
        making = replace(making, rollouts=replace(making.rollouts, low=min(most, len(job.train)) + len(sizes) - 1))
        searching = Work(
            what="trials",
            rollouts=Amount.of(rollouts),
            demos=demos,
            repeats=Amount(0, max(0.0, rollouts - new), rollouts - rows),
            why=f"{trials} trials on {size or rows} of {rows} validation rows each"
            + (f", {full // rows} evaluations on all" if size else ", and the program as it is"),
        )
        return Forecast(work=(making, *_proposals(job, params, instructions), searching), final=Final(demos=demos))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        validation, limits = list(job.validation), _demo_limits(job, params)
        trials, rows, size = _trials(job, params, demos=any(limits.values()))
        total = rows * (trials + 1)
        if size is not None:
            total = rows * (1 + _full_evaluations(trials, params.minibatch_full_eval_steps)) + size * trials
        search = Search(job, total=total, rows=rows, metric=job.metric.with_threshold(params.metric_threshold))
        with search.following():
            optimizer = _MIPROv2(
                job,
                metric=search.metric,
                prompt_model=second_lm(job, params.prompt_model),
                task_model=job.lm,
                auto=params.auto,
                num_candidates=None if params.auto else params.num_candidates,
                num_threads=job.num_threads,
                max_errors=NO_LIMIT,
                seed=job.seed,  # given here, because compile(seed=0) takes the default instead
                init_temperature=params.init_temperature,
                **limits,
            )
            program = optimizer.compile(
                uncompiled(job.program),
                trainset=list(job.train),
                valset=validation,
                num_trials=None if params.auto else trials,
                minibatch=size is not None,
                minibatch_size=size or rows,
                minibatch_full_eval_steps=params.minibatch_full_eval_steps,
                program_aware_proposer=params.program_aware_proposer,
                data_aware_proposer=params.data_aware_proposer,
                view_data_batch_size=params.view_data_batch_size,
                tip_aware_proposer=params.tip_aware_proposer,
                fewshot_aware_proposer=params.fewshot_aware_proposer,
            )
            return stripped(program)


def _demo_limits(job: OptimizerJob, params: Mipro.Params) -> dict[str, Any]:
    """Not less where rows have no labels, which would shift which sets DSPy makes with which seeds."""
    return numbers_that_fit(
        job, max_bootstrapped_demos=params.max_bootstrapped_demos, max_labeled_demos=params.max_labeled_demos
    )


def _proposals(job: OptimizerJob, params: Mipro.Params, instructions: int) -> Iterator[Work]:
    rows, predictors, batch = len(job.train), len(job.program.predictors()), params.view_data_batch_size
    if params.data_aware_proposer:
        batches = -(-rows // batch)
        calls = 1 + min(9, batches - 1) + 1
        yield Work(
            what="data summary",
            calls=Amount(min(3, calls), calls, 2 * calls),
            model=params.prompt_model,
            rows=min(batch, rows),
            why=f"{batches} batches of {batch} rows, 10 at most, and one call for all",
        )
    per_instruction = 3 if params.program_aware_proposer else 1
    calls = instructions * per_instruction * predictors
    yield Work(
        what="instructions",
        calls=Amount(instructions * predictors, calls, 2 * calls),
        model=params.prompt_model,
        why=f"{per_instruction} calls for each of {instructions} instructions and {predictors} predictors",
    )


class _MIPROv2(dspy.MIPROv2):
    """MIPROv2 whose proposal prompts get shorter where they would not fit the prompt model's context."""

    def __init__(self, job: OptimizerJob, **options: Any):
        super().__init__(**options)
        self._job = job

    def _propose_instructions(
        self,
        program: Any,
        trainset: list[Any],
        demo_candidates: list[Any] | None,
        view_data_batch_size: int,
        program_aware_proposer: bool,
        data_aware_proposer: bool,
        tip_aware_proposer: bool,
        fewshot_aware_proposer: bool,
        num_instruct_candidates: int,
    ) -> dict[int, list[str]]:
        included = {
            "the program's code": program_aware_proposer,
            "demonstrations": fewshot_aware_proposer,
            "a summary of the data": data_aware_proposer,
        }
        for omitted in [*[name for name, used in included.items() if used], None]:
            try:
                return super()._propose_instructions(
                    program,
                    trainset,
                    demo_candidates,
                    view_data_batch_size,
                    included["the program's code"],
                    included["a summary of the data"],
                    tip_aware_proposer,
                    included["demonstrations"],
                    num_instruct_candidates,
                )
            except dspy.ContextWindowExceededError:
                if omitted is not None:
                    included[omitted] = False
                    self._job.note(
                        f"Instructions are proposed without {omitted}: the prompt would not fit the context."
                    )
        self._job.note("No instruction could be proposed within the model's context; only demonstrations are searched.")
        return {number: [signature.instructions] for number, signature in enumerate(signatures_of(program).values())}


def _trials(job: OptimizerJob, params: Mipro.Params, *, demos: bool) -> tuple[int, int, int | None]:
    """How many trials, on how many validation rows in all, and on how many at a time if on fewer."""
    rows, candidates, trials, minibatch = (
        len(job.validation),
        params.num_candidates,
        params.num_trials,
        params.minibatch,
    )
    if params.auto:  # DSPy's presets decide
        preset = MIPRO_AUTO_SETTINGS[params.auto]
        rows, candidates, trials, minibatch = min(rows, preset["val_size"]), preset["n"], None, None
    in_batches = (rows > MIN_MINIBATCH_SIZE if minibatch is None else minibatch) and rows > 1
    trials = trials or _recommended(job.program, candidates, demos=demos)
    return trials, rows, min(params.minibatch_size, rows) if in_batches else None


def _full_evaluations(trials: int, every: int) -> int:
    """How often DSPy evaluates on all rows between and after its trials; it counts those as trials too."""
    last, number, full = trials + trials // every + 1 + (trials % every != 0), 2, 0
    for _ in range(trials):
        if number % (every + 1) == 0 or number == last - 1:
            full += 1
            number += 1
        number += 1
    return full


def _recommended(program: dspy.Module, candidates: int, *, demos: bool) -> int:
    """DSPy's number of trials: max(2 * variables * log2(candidates), 1.5 * candidates)."""
    variables = len(program.predictors()) * (2 if demos else 1)
    return int(max(2 * variables * math.log2(candidates), 1.5 * candidates))
