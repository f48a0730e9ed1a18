"""DSPy's MIPROv2."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import dspy
from dspy.propose.dataset_summary_generator import DatasetDescriptor
from dspy.propose.grounded_proposer import DescribeModule
from dspy.teleprompt.mipro_optimizer_v2 import AUTO_RUN_SETTINGS, MIN_MINIBATCH_SIZE
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Count, Positive, Threshold, shown_at_once
from dspy_toolkit.builtin.search import NO_LIMIT, Search, fresh, labelled, most_written, second_lm, stripped
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.amount import NOTHING, Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known, Work, bootstrapped, distinct
from dspy_toolkit.programs.inspect import signatures_of

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


def _forecast(
    job: OptimizerJob,
    known: Known,
    *,
    auto: str | None,
    num_candidates: int,
    num_trials: int | None,
    minibatch: bool | None,
    minibatch_size: int,
    minibatch_full_eval_steps: int,
    max_bootstrapped_demos: int,
    max_labeled_demos: int,
    metric_threshold: float,
    **proposing: Any,
) -> Forecast:
    wanted, shown = shown_at_once(
        job, max_bootstrapped_demos=max_bootstrapped_demos, max_labeled_demos=max_labeled_demos
    )
    none = not wanted and not shown
    trials, rows, size = _trials(
        job, auto=auto, candidates=num_candidates, trials=num_trials, minibatch=minibatch,
        minibatch_size=minibatch_size, demos=not none,
    )  # fmt: skip
    sets = AUTO_RUN_SETTINGS[auto]["n"] if auto else num_candidates
    instructions = sets if not auto or none else sets // 2
    full = rows * (1 + _full_evaluations(trials, minibatch_full_eval_steps)) if size else rows
    rollouts = full + trials * (size or rows)
    # Trials draw combinations; one drawn again repeats its prompts, as far as the rows are the same.
    combinations = (instructions * (1 if none else sets)) ** len(job.program.predictors())
    fresh = distinct(combinations, [1.0] * trials) * (size or rows) * 0.8 + rows
    demos = 0.0 if none else (wanted + 1) / 2 * (sets - 1 - bool(shown)) / sets
    return Forecast(
        work=(
            _bootstrapping(job, known, sets=sets, wanted=wanted or 3, shown=shown, threshold=metric_threshold),
            *_proposals(job, instructions=instructions, **proposing),
            Work(
                what="trials",
                instructed=True,
                rollouts=Amount.of(rollouts),
                made=demos,
                labelled=0.0 if none else max(0.0, shown * (sets - 1) / sets - demos),
                repeats=Amount(0, max(0.0, rollouts - fresh), rollouts - rows),
                why=f"{trials} trials on {size or rows} of {rows} validation rows each"
                + (f", {full // rows} evaluations on all" if size else ", and the program as it is"),
            ),
        ),
        final=Final(made=demos, labelled=max(0.0, shown - demos)),
    )


def _bootstrapping(job: OptimizerJob, known: Known, *, sets: int, wanted: int, shown: int, threshold: float) -> Work:
    """The first set has no demonstrations, the second, where rows have labels, those; the others are made."""
    rows, rate = len(job.train), known.rate(threshold, shown=shown > 0)
    sizes = [wanted, *[size for number in range(sets - 2 - bool(shown)) for size in [1 + number % wanted]]]
    tries = [bootstrapped(rows, size, rate)[0] for size in sizes]
    total = sum(tries, NOTHING)
    total = Amount(min(wanted, rows) + len(sizes) - 1, total.expected, total.high)
    once = distinct(rows, [each.expected for each in tries])
    return Work(
        what="bootstrapping",
        rollouts=total,
        labelled=shown,
        repeats=NOTHING if shown else Amount(0, max(0.0, total.expected - once), max(0.0, total.high - rows)),
        in_turn=True,
        why=f"{len(sizes)} sets of 1 to {wanted} accepted of {rows} rows",
    )


def _proposals(
    job: OptimizerJob,
    *,
    instructions: int,
    prompt_model: str | None,
    view_data_batch_size: int,
    program_aware_proposer: bool,
    data_aware_proposer: bool,
    **_: Any,
) -> Iterator[Work]:
    rows, predictors = len(job.train), len(job.program.predictors())
    if data_aware_proposer:
        batches = -(-rows // view_data_batch_size)
        calls = 1 + min(9, batches - 1) + 1
        yield Work(
            what="data summary",
            calls=Amount(min(3, calls), calls, 2 * calls),
            model=prompt_model,
            most_written=most_written(job, prompt_model),
            prompt=(DatasetDescriptor, {"examples": str(list(job.train[:view_data_batch_size]))}),
            why=f"{batches} batches of {view_data_batch_size} rows, 10 at most, and one call for all",
        )
    each = 3 if program_aware_proposer else 1
    calls = instructions * each * predictors
    yield Work(
        what="instructions",
        calls=Amount(instructions * predictors, calls, 2 * calls),
        model=prompt_model,
        most_written=most_written(job, prompt_model),
        prompt=(DescribeModule, {}),
        why=f"{each} calls for each of {instructions} instructions and {predictors} predictors",
    )


@planned(_forecast)
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
    trials, rows, size = _trials(
        job,
        auto=auto,
        candidates=num_candidates,
        trials=num_trials,
        minibatch=minibatch,
        minibatch_size=minibatch_size,
        demos=any(demos.values()),
    )
    batches = size is not None
    total = (
        rows * (1 + _full_evaluations(trials, minibatch_full_eval_steps)) + size * trials
        if batches
        else rows * (trials + 1)
    )
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
            minibatch_size=size or rows,
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


def _trials(
    job: OptimizerJob,
    *,
    auto: str | None,
    candidates: int,
    trials: int | None,
    minibatch: bool | None,
    minibatch_size: int,
    demos: bool,
) -> tuple[int, int, int | None]:
    """How many trials, on how many validation rows in all, and on how many at a time if on fewer."""
    rows = len(job.validation)
    if auto:
        rows, candidates, trials = min(rows, AUTO_RUN_SETTINGS[auto]["val_size"]), AUTO_RUN_SETTINGS[auto]["n"], None
        minibatch = None  # DSPy's presets decide on that too
    batches = (rows > MIN_MINIBATCH_SIZE if minibatch is None else minibatch) and rows > 1
    trials = trials or _recommended(job.program, candidates, demos=demos)
    return trials, rows, min(minibatch_size, rows) if batches else None


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
