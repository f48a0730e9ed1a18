"""DSPy's GEPA."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import dspy
from pydantic import Field

from dspy_toolkit.builtin.search import Search, second_lm
from dspy_toolkit.compat.optimizers import GEPA_AUTO_SETTINGS, InstructionProposer
from dspy_toolkit.errors import MetricError, OptimizationError
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.meter import Ended
from dspy_toolkit.optimize.feedback import gives_feedback
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Forecast, TrainingScores, Work, until_score
from dspy_toolkit.optimize.teleprompter import stripped, uncompiled

__all__ = ["Gepa"]

_MAX_SILENT = 6
"""So many wrong answers without feedback from the first on, and the metric has none to give."""


class Gepa(Optimizer):
    """DSPy's GEPA: an LM reads what went wrong and why, and writes better instructions; a Pareto front is kept.

    The metric must give feedback. Takes one budget: `auto`, `max_full_evals` or `max_metric_calls`; without one it is 8
    validation sets and 20 minibatches. Nothing is written to disk: repeat a run and finished calls come from the cache.
    """

    class Params(OptimizerParams):
        auto: Literal["light", "medium", "heavy"] | None = Field(None, description="DSPy's presets of the budget.")
        max_full_evals: int | None = Field(None, ge=1, description="Budget in evaluations of all rows.")
        max_metric_calls: int | None = Field(None, ge=1, description="Budget in calls of the metric.")
        reflection_lm: str | None = Field(
            None, description="Model string of the LM that writes instructions; null: the program's own."
        )
        reflection_minibatch_size: int = Field(
            3,
            ge=1,
            description="Training rows with feedback it sees at a time, fewer where they do not fit its context.",
        )
        candidate_selection_strategy: Literal["pareto", "current_best"] = Field(
            "pareto", description="Which candidate to improve next."
        )
        component_selector: Literal["round_robin", "all"] = Field(
            "round_robin", description="Which of its predictors to improve."
        )
        skip_perfect_score: bool = Field(True, description="Leave minibatches alone whose rows are all right.")
        add_format_failure_as_feedback: bool = Field(False, description="Show answers that could not be parsed.")
        use_merge: bool = Field(True, description="Merge good candidates.")
        max_merge_invocations: int = Field(5, ge=0, description="How often to merge, at most.")
        max_instruction_chars: int | None = Field(
            None, ge=1, description="Length of an instruction, at most; null: any."
        )
        stop_at_score: float | None = Field(
            100.0, gt=0, le=100, description="A score on validation rows (0 to 100) that ends the search; null: none."
        )

        def budgets(self) -> dict[str, Any]:
            """The budgets that are set; DSPy takes one."""
            budgets = {
                "auto": self.auto,
                "max_full_evals": self.max_full_evals,
                "max_metric_calls": self.max_metric_calls,
            }
            return {name: value for name, value in budgets.items() if value is not None}

        def minibatch(self, job: OptimizerJob) -> int:
            return min(self.reflection_minibatch_size, len(job.train))

    def check(self, job: OptimizerJob, params: Params) -> None:
        budgets = params.budgets()
        if len(budgets) > 1:
            raise OptimizationError(f"GEPA takes one budget; {' and '.join(budgets)} are given. Leave one.")
        least = 2 * len(job.validation) + 2 * params.minibatch(job)
        if params.max_metric_calls is not None and params.max_metric_calls < least:
            raise OptimizationError(
                f"max_metric_calls is {params.max_metric_calls}, which ends before the first new candidate is scored: "
                f"that takes {least} calls with {len(job.validation)} validation rows. Give more, or draw fewer "
                "validation rows."
            )
        if gives_feedback(job.metric, job.train, job.program) is False:
            raise _no_feedback(job)
        second_lm(job, params.reflection_lm)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        train, validation, size = len(job.train), len(job.validation), params.minibatch(job)
        budget, stop = _metric_calls(job, params), params.stop_at_score
        rate = scores.rate(1.0)
        ended = 0.0 if stop is None else 2 - until_score([rate, rate], validation, stop).expected
        rollouts = Amount(
            budget if stop is None else validation,
            ended * validation + (1 - ended) * (budget + size),
            budget + validation + 2 * size,
        )
        perfect = rate.mean_of(lambda p: p**size)
        # A minibatch costs its rows twice, and the validation rows if the new instruction did better: one in four does.
        steps = max(0.0, rollouts.expected - validation) / (size + (1 - perfect) * (size + 0.25 * validation))
        most = max(0.0, rollouts.high - validation) / size
        components = len(job.program.predictors()) if params.component_selector == "all" else 1
        repeated = max(0.0, steps * size - train * (1 + 0.25 * steps))
        searching = Work(
            what="rollouts",
            rollouts=rollouts,
            repeats=Amount(0, repeated, max(0.0, rollouts.high - validation)),
            why=f"{budget} metric calls and what the last step goes over"
            + ("" if stop is None else f", fewer if a program scores {stop:g}"),
        )
        reflecting = Work(
            what="reflections",
            calls=Amount(0, steps * (1 - perfect), 2 * most) * components,
            model=params.reflection_lm,
            rows=size,
            why=f"one for each minibatch of {size} rows that is not all right",
        )
        return Forecast(work=(searching, reflecting))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        reflection_lm = second_lm(job, params.reflection_lm)
        search = Search(job, total=None, rows=-1, metric=_FeedbackRequired(job))
        callbacks = _Callbacks(job, search)
        with search.following():
            optimizer = dspy.GEPA(
                metric=search.metric,
                **(params.budgets() or {"max_metric_calls": _metric_calls(job, params)}),
                reflection_lm=reflection_lm,
                reflection_minibatch_size=params.minibatch(job),
                candidate_selection_strategy=params.candidate_selection_strategy,
                component_selector=params.component_selector,
                skip_perfect_score=params.skip_perfect_score,
                add_format_failure_as_feedback=params.add_format_failure_as_feedback,
                instruction_proposer=_Proposer(job, reflection_lm, max_chars=params.max_instruction_chars),
                use_merge=params.use_merge,
                max_merge_invocations=params.max_merge_invocations,
                num_threads=job.num_threads,
                warn_on_score_mismatch=False,
                seed=job.seed,
                gepa_kwargs={
                    "callbacks": [callbacks],
                    "stop_callbacks": [lambda _: _reached(search.best, params.stop_at_score)],
                },
            )
            callbacks.optimizer = optimizer
            program = optimizer.compile(uncompiled(job.program), trainset=list(job.train), valset=list(job.validation))
            return stripped(program)


def _metric_calls(job: OptimizerJob, params: Gepa.Params) -> int:
    """The budget in calls of the metric."""
    validation = len(job.validation)
    if params.auto is not None:
        gepa: Any = dspy.GEPA  # the method needs nothing of an instance
        predictors = max(len(job.program.predictors()), 1)
        return gepa.auto_budget(None, predictors, GEPA_AUTO_SETTINGS[params.auto]["n"], validation)
    if params.max_full_evals is not None:
        return params.max_full_evals * (len(job.train) + validation)
    return params.max_metric_calls or 8 * validation + 40 * params.minibatch(job)


class _FeedbackRequired:
    """The metric, which must give feedback: none for the first wrong answers ends the search.

    A metric that gave some once may give none later, and none is needed for right answers.
    """

    def __init__(self, job: OptimizerJob):
        self._job = job
        self._silent = self._failed = 0
        self._gave_feedback = False

    def __call__(self, gold: Any, pred: Any, trace: Any, pred_name: str | None, pred_trace: Any) -> Any:
        try:
            score = self._job.metric(gold, pred, trace, pred_name, pred_trace)
        except MetricError as error:
            self._failed += pred_name is not None
            if self._failed >= _MAX_SILENT and not self._gave_feedback:
                raise Ended(OptimizationError(f"The metric fails whenever GEPA asks for feedback: {error}")) from error
            raise
        if pred_name is None or score.feedback.strip():
            self._gave_feedback = self._gave_feedback or pred_name is not None
            return score
        self._silent += score.score < 1
        if not self._gave_feedback and self._silent >= _MAX_SILENT:
            raise Ended(_no_feedback(self._job))
        score.feedback = None  # GEPA then tells the score
        return score


class _Callbacks:
    """GEPA's own callbacks: its budget, and its candidates with their scores on validation rows."""

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
