"""DSPy's GEPA."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import dspy
from dspy.teleprompt.gepa import InstructionProposer
from dspy.teleprompt.gepa.gepa import AUTO_RUN_SETTINGS
from dspy.teleprompt.gepa.instruction_proposal import ProposeInstruction
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Positive
from dspy_toolkit.builtin.search import Search, fresh, most_written, second_lm, stripped
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.meter import Ended
from dspy_toolkit.optimize.feedback import gives_feedback
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Forecast, Known, Work, until_score
from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["gepa"]

_SILENT = 6
"""So many wrong answers without a word of feedback from the first on, and the metric has none to give."""


def _check(
    job: OptimizerJob,
    *,
    auto: str | None,
    max_full_evals: int | None,
    max_metric_calls: int | None,
    reflection_minibatch_size: int,
    reflection_lm: str | None,
    **_: object,
) -> None:
    budgets = {"auto": auto, "max_full_evals": max_full_evals, "max_metric_calls": max_metric_calls}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) > 1:
        raise OptimizationError(f"GEPA takes one budget; {' and '.join(given)} are given. Leave one.")
    size = min(reflection_minibatch_size, len(job.train))
    least = 2 * len(job.validation) + 2 * size
    if max_metric_calls is not None and max_metric_calls < least:
        raise OptimizationError(
            f"max_metric_calls is {max_metric_calls}, which ends before the first new candidate is scored: that takes "
            f"{least} calls with {len(job.validation)} validation rows. Give more, or draw fewer validation rows."
        )
    if gives_feedback(job.metric, job.train, job.program) is False:
        raise _no_feedback(job)
    second_lm(job, reflection_lm)


def _default_budget(validation: Sequence[Any], size: int) -> int:
    return 8 * len(validation) + 40 * size


def _forecast(
    job: OptimizerJob,
    known: Known,
    *,
    auto: str | None,
    max_full_evals: int | None,
    max_metric_calls: int | None,
    reflection_lm: str | None,
    reflection_minibatch_size: int,
    component_selector: str,
    stop_at_score: float | None,
    **_: Any,
) -> Forecast:
    train, validation = len(job.train), len(job.validation)
    size, predictors = min(reflection_minibatch_size, train), len(job.program.predictors())
    budget = max_metric_calls or _default_budget(job.validation, size)
    if auto is not None:
        budget = _by_preset(auto, predictors, validation)
    elif max_full_evals is not None:
        budget = max_full_evals * (train + validation)
    rate = known.rate(1.0)
    done = 2 - until_score([rate, rate], validation, stop_at_score).expected if stop_at_score is not None else 0.0
    rollouts = Amount(
        budget if stop_at_score is None else validation,
        done * validation + (1 - done) * (budget + size),
        budget + validation + 2 * size,
    )
    perfect = sum(weight * p**size for p, weight in rate.likely())
    # A minibatch costs its rows twice, and the validation rows if the new instruction did better: one in four does.
    steps = max(0.0, rollouts.expected - validation) / (size + (1 - perfect) * (size + 0.25 * validation))
    most = max(0.0, rollouts.high - validation) / size
    parts = predictors if component_selector == "all" else 1
    again = max(0.0, steps * size - train * (1 + 0.25 * steps))
    reflections = Amount(0, steps * (1 - perfect), most)
    return Forecast(
        work=(
            Work(
                what="rollouts",
                instructed=True,
                rollouts=rollouts,
                repeats=Amount(0, again, max(0.0, rollouts.high - validation)),
                scorings=reflections * (size * parts),
                why=f"{budget} metric calls and what the last step goes over"
                + ("" if stop_at_score is None else f", fewer if a program scores {stop_at_score:g}"),
            ),
            Work(
                what="reflections",
                calls=Amount(0, reflections.expected * parts, 2 * most * parts),
                model=reflection_lm,
                most_written=most_written(job, reflection_lm),
                prompt=(
                    ProposeInstruction,
                    {
                        "current_instruction": next(iter(signatures_of(job.program).values())).instructions,
                        "examples_with_feedback": [dict(row.items()) for row in job.train[:size]],
                    },
                ),
                why=f"one for each minibatch of {size} rows that is not all right",
            ),
        )
    )


def _by_preset(auto: str, predictors: int, validation: int) -> int:
    given: Any = dspy.GEPA  # the method needs nothing of an instance
    return given.auto_budget(None, max(predictors, 1), AUTO_RUN_SETTINGS[auto]["n"], validation)


@planned(_forecast)
@preflight(_check)
def gepa(
    job: OptimizerJob,
    *,
    auto: Literal["light", "medium", "heavy"] | None = None,
    max_full_evals: Positive | None = None,
    max_metric_calls: Positive | None = None,
    reflection_lm: str | None = None,
    reflection_minibatch_size: Positive = 3,
    candidate_selection_strategy: Literal["pareto", "current_best"] = "pareto",
    component_selector: Literal["round_robin", "all"] = "round_robin",
    skip_perfect_score: bool = True,
    add_format_failure_as_feedback: bool = False,
    use_merge: bool = True,
    max_merge_invocations: Annotated[int, Field(ge=0)] = 5,
    max_instruction_chars: Positive | None = None,
    stop_at_score: Annotated[float, Field(gt=0, le=100)] | None = 100.0,
) -> dspy.Module:
    """DSPy's GEPA: an LM reads what went wrong and why, and writes better instructions; a Pareto front is kept.

    One budget: `auto` (DSPy's presets), `max_full_evals`, or `max_metric_calls`; by default 8 validation sets and 20
    minibatches. `reflection_lm` is a model string for the LM that writes (null: the program's own); it sees
    `reflection_minibatch_size` training rows with the metric's feedback at a time, fewer where they would not fit its
    context, and writes at most `max_instruction_chars` (null: any number). `candidate_selection_strategy` picks what
    to improve, `component_selector` which predictors of it. `skip_perfect_score` leaves minibatches alone that are all
    right, `add_format_failure_as_feedback` shows answers that could not be parsed, `use_merge` merges good candidates
    up to `max_merge_invocations` times. `stop_at_score` (0 to 100 on validation rows, null for never) ends it early.
    The metric must give feedback. Nothing is written to disk: repeat a run and finished calls come from the cache.
    """
    train, validation = list(job.train), list(job.validation)
    size = min(reflection_minibatch_size, len(train))
    if auto is None and max_full_evals is None and max_metric_calls is None:
        max_metric_calls = _default_budget(validation, size)
    reflecting = second_lm(job, reflection_lm)
    search = Search(job, total=None, rows=-1, metric=_Heard(job))
    told = _Told(job, search)
    with search.following():
        optimizer = dspy.GEPA(
            metric=search.metric,
            auto=auto,
            max_full_evals=max_full_evals,
            max_metric_calls=max_metric_calls,
            reflection_lm=reflecting,
            reflection_minibatch_size=size,
            candidate_selection_strategy=candidate_selection_strategy,
            component_selector=component_selector,
            skip_perfect_score=skip_perfect_score,
            add_format_failure_as_feedback=add_format_failure_as_feedback,
            instruction_proposer=_Proposer(job, reflecting, max_chars=max_instruction_chars),
            use_merge=use_merge,
            max_merge_invocations=max_merge_invocations,
            num_threads=job.num_threads,
            warn_on_score_mismatch=False,
            seed=job.seed,
            gepa_kwargs={
                "callbacks": [told],
                "stop_callbacks": [lambda _: _reached(search.best, stop_at_score)],
            },
        )
        told.optimizer = optimizer
        return stripped(optimizer.compile(fresh(job.program), trainset=train, valset=validation))


class _Heard:
    """The metric, which must say something when GEPA asks why: silence about the first wrong answers ends the search.

    A metric that spoke once may be silent later, and any may be about right answers.
    """

    def __init__(self, job: OptimizerJob):
        self._job = job
        self._silent = 0
        self._heard = False

    def __call__(self, gold: Any, pred: Any, trace: Any, pred_name: str | None, pred_trace: Any) -> Any:
        score = self._job.metric(gold, pred, trace, pred_name, pred_trace)
        if pred_name is not None and not self._heard:
            self._heard = bool(score.feedback.strip())
            self._silent += not self._heard and score.score < 1
            if self._silent >= _SILENT:
                raise Ended(_no_feedback(self._job))
        return score


class _Told:
    """GEPA's own callbacks, as reports and kept programs."""

    def __init__(self, job: OptimizerJob, search: Search):
        self._job = job
        self._search = search
        self.optimizer: Any = None

    def on_optimization_start(self, event: Mapping[str, Any]) -> None:
        self._search.total = self.optimizer.max_metric_calls

    def on_valset_evaluated(self, event: Mapping[str, Any]) -> None:
        program = self._job.program.deepcopy()
        for name, predictor in program.named_predictors():
            signature: Any = predictor.signature
            predictor.signature = signature.with_instructions(event["candidate"][name])
        self._search.candidate(program, 100 * event["average_score"])


class _Proposer(InstructionProposer):  # pyright: ignore[reportGeneralTypeIssues]  # a decorator hides the class
    """DSPy's proposer with as many examples as fit the reflection LM's context, and with its failures counted."""

    def __init__(self, job: OptimizerJob, lm: Any, *, max_chars: int | None):
        # The run's adapter, because it may hold a small model to the format; DSPy's own choice otherwise.
        super().__init__(max_chars=max_chars, adapter=dspy.settings.adapter)
        self._job = job
        self._window = ContextWindow.of(lm)
        self._tried = self._failed = 0

    def __call__(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        self._tried += 1
        fitting = {
            name: self._fitting(candidate.get(name, ""), list(examples))
            for name, examples in reflective_dataset.items()
        }
        try:
            return super().__call__(candidate, fitting, components_to_update)
        except Exception as error:
            # GEPA logs and forgets; a run whose reflections all fail looks like one that found nothing better.
            self._failed += 1
            if self._failed == self._tried and self._failed in (3, 30, 300):
                self._job.note(
                    f"All {self._failed} reflections so far failed, the last with {type(error).__name__}: "
                    f"{' '.join(str(error).split())[:200]}. A stronger reflection_lm may help."
                )
            raise

    def _fitting(self, instruction: str, examples: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        if self._window is None:
            return examples
        count = len(examples)
        while count and self._tokens(instruction, examples[:count]) > self._window.limit:
            count -= 1
        if not count:
            raise ValueError(
                f"Not one example fits the {self._window.limit} tokens the reflection LM's context leaves; "
                "give a reflection_lm with a longer context, or shorter rows."
            )
        if count < len(examples):
            self._job.note(
                f"Reflection prompts hold {count} of {len(examples)} examples; more would not fit the "
                f"{self._window.limit} tokens the reflection LM's context leaves."
            )
        return examples[:count]

    def _tokens(self, instruction: str, examples: list[Mapping[str, Any]]) -> int:
        assert self._window is not None
        inputs = {"current_instruction": instruction, "examples_with_feedback": self._prepare_examples(examples)}
        signature: Any = self.propose.signature
        return self._window.tokens(signature, [], inputs, self.adapter)


def _reached(best: float | None, target: float | None) -> bool:
    return best is not None and target is not None and best >= target


def _no_feedback(job: OptimizerJob) -> OptimizationError:
    return OptimizationError(
        f"GEPA learns from the metric's feedback, and the metric {job.metric.name!r} gives none. Return "
        "dspy.Prediction(score=..., feedback='why') from it, use one that does (exact-match, token-f1), or use an "
        "optimizer that needs none (random-search, mipro)."
    )
