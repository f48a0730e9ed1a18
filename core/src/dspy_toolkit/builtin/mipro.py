"""DSPy's MIPROv2."""

import math
from typing import Annotated, Any, Literal

import dspy
from dspy.teleprompt.mipro_optimizer_v2 import AUTO_RUN_SETTINGS, MIN_MINIBATCH_SIZE
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Count, Positive, Threshold
from dspy_toolkit.builtin.search import NO_LIMIT, Search, fresh, labelled, second_lm, stripped
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.optimize.context import limit_demos
from dspy_toolkit.optimize.data import signatures_of
from dspy_toolkit.optimize.job import OptimizerJob, preflight

__all__ = ["mipro"]


def _check(
    job: OptimizerJob, *, max_bootstrapped_demos: int, max_labeled_demos: int, prompt_model: str | None, **_: object
) -> None:
    if max_labeled_demos and not max_bootstrapped_demos:
        raise OptimizationError(
            "MIPROv2 cannot take labelled demonstrations alone. Set max_bootstrapped_demos to 1 or more, or both to 0 "
            "to look for instructions only."
        )
    second_lm(job, prompt_model)
    # DSPy finds out in its third step, after all proposals were paid for.
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise OptimizationError("MIPROv2 needs optuna; install it with: pip install 'dspy[optuna]'") from error


@preflight(_check)
def mipro(
    job: OptimizerJob,
    *,
    auto: Literal["light", "medium", "heavy"] | None = None,
    num_candidates: Annotated[int, Field(ge=3)] = 6,
    num_trials: Positive | None = None,
    minibatch: bool | None = None,
    minibatch_size: Positive = 25,
    minibatch_full_eval_steps: Positive = 5,
    max_bootstrapped_demos: Count = 3,
    max_labeled_demos: Count = 3,
    metric_threshold: Threshold = 0.5,
    prompt_model: str | None = None,
    init_temperature: Annotated[float, Field(ge=0, le=2)] = 1.0,
    view_data_batch_size: Positive = 10,
    program_aware_proposer: bool = True,
    data_aware_proposer: bool = True,
    tip_aware_proposer: bool = True,
    fewshot_aware_proposer: bool = True,
) -> dspy.Module:
    """DSPy's MIPROv2: proposes instructions and sets of demonstrations, then finds the best combination.

    `num_candidates` instructions and as many sets of demonstrations are made (from up to `max_bootstrapped_demos` the
    program made itself and scored `metric_threshold`, filled up to `max_labeled_demos`; both 0 look for instructions
    only), and `num_trials` combinations tried (null: what DSPy recommends for that many). `auto` replaces both by
    DSPy's presets. Trials are scored on `minibatch_size` validation rows with a full evaluation every
    `minibatch_full_eval_steps` if `minibatch` (null: if there are more than 50 rows). `prompt_model` is a model string
    for the proposals, which see `view_data_batch_size` rows at a time at `init_temperature`; null uses the program's
    own. What they are shown: `program_aware_proposer` its code, `data_aware_proposer` a summary of the data,
    `tip_aware_proposer` a prompting tip, `fewshot_aware_proposer` demonstrations.
    DSPy ignores seed 0 and refuses minibatches larger than the validation set; here seeds count and sizes are bounded.
    """
    validation = list(job.validation)
    demos = limit_demos(job, max_bootstrapped_demos=max_bootstrapped_demos, max_labeled_demos=max_labeled_demos)
    if not labelled(job.program, job.train):
        demos["max_labeled_demos"] = 0
    rows = min(len(validation), AUTO_RUN_SETTINGS[auto]["val_size"]) if auto else len(validation)
    batches = (rows > MIN_MINIBATCH_SIZE if minibatch is None else minibatch) and rows > 1
    size = min(minibatch_size, rows)
    found_by = AUTO_RUN_SETTINGS[auto]["n"] if auto else num_candidates
    trials = (None if auto else num_trials) or _recommended(job.program, found_by, demos=any(demos.values()))
    total = rows * (trials + 1)
    if batches:
        total = size * trials + rows * (trials // minibatch_full_eval_steps + 2)
    search = Search(job, total=total, rows=rows, metric=job.metric.with_threshold(metric_threshold))
    with search.following():
        optimizer = _MIPROv2(
            job,
            metric=search.metric,
            prompt_model=second_lm(job, prompt_model),
            task_model=job.lm,
            auto=auto,
            num_candidates=None if auto else num_candidates,
            num_threads=job.num_threads,
            max_errors=NO_LIMIT,
            seed=job.seed,  # given here, because compile(seed=0) takes the default instead
            init_temperature=init_temperature,
            **demos,
        )
        found = optimizer.compile(
            fresh(job.program),
            trainset=list(job.train),
            valset=validation,
            num_trials=None if auto else trials,
            minibatch=batches,
            minibatch_size=size,
            minibatch_full_eval_steps=minibatch_full_eval_steps,
            program_aware_proposer=program_aware_proposer,
            data_aware_proposer=data_aware_proposer,
            view_data_batch_size=view_data_batch_size,
            tip_aware_proposer=tip_aware_proposer,
            fewshot_aware_proposer=fewshot_aware_proposer,
        )
        return stripped(found)


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
        shown = {
            "the program's code": program_aware_proposer,
            "demonstrations": fewshot_aware_proposer,
            "a summary of the data": data_aware_proposer,
        }
        for what in [*[name for name, used in shown.items() if used], None]:
            try:
                return super()._propose_instructions(
                    program,
                    trainset,
                    demo_candidates,
                    view_data_batch_size,
                    shown["the program's code"],
                    shown["a summary of the data"],
                    tip_aware_proposer,
                    shown["demonstrations"],
                    num_instruct_candidates,
                )
            except dspy.ContextWindowExceededError:
                if what is not None:
                    shown[what] = False
                    self._job.note(f"Instructions are proposed without {what}: the prompt would not fit the context.")
        self._job.note("No instruction could be proposed within the model's context; only demonstrations are searched.")
        return {number: [signature.instructions] for number, signature in enumerate(signatures_of(program).values())}


def _recommended(program: dspy.Module, candidates: int, *, demos: bool) -> int:
    """DSPy's number of trials: max(2 * variables * log2(candidates), 1.5 * candidates)."""
    variables = len(program.predictors()) * (2 if demos else 1)
    return int(max(2 * variables * math.log2(candidates), 1.5 * candidates))
