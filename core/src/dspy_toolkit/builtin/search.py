"""What DSPy's searches do not do by themselves: tell how far they are and hand over the best program so far."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.selection import SMALL, billions_of
from dspy_toolkit.programs.inspect import signatures_of

__all__ = [
    "NO_LIMIT",
    "Search",
    "check_labelled",
    "demos_must_fit",
    "fresh",
    "labelled",
    "most_written",
    "second_lm",
    "stripped",
]

NO_LIMIT = 10**9
"""As DSPy's `max_errors`: a row's failure costs that row; a dead LM is the meter's business."""

WRITTEN = 150
"""Tokens in which a small model writes an instruction, at most; good ones are shorter."""

_ATTACHED = (
    "candidate_programs", "detailed_results", "flag_compilation_error_occurred", "mb_candidate_programs",
    "prompt_model_total_calls", "results_best", "results_latest", "score", "simba_idx", "total_calls", "trial_logs",
)  # fmt: skip


class Search(BaseCallback):
    """Follows one search: counts rollouts, and keeps the best program that was evaluated on all of `rows`.

    A rollout is the program on one row, scored. `total` is how many the search is going to make, or None. DSPy's
    callbacks and the metric are all it hears of a search; minibatches (fewer rows) do not decide what is kept.
    """

    def __init__(self, job: OptimizerJob, *, total: int | None, rows: int, metric: Callable[..., Any] | None = None):
        self._job = job
        self._metric = metric or job.metric
        self.total = total
        self._rows = rows
        self._lock = threading.RLock()
        self._done = self._before = self._inner = 0
        self._evaluating: dict[str, tuple[dspy.Module, int]] = {}
        self.best: float | None = None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow what is done in this context. `max_errors` is lifted: DSPy ends a search at the tenth failed row."""
        callbacks = [*dspy.settings.get("callbacks", []), self]
        with dspy.context(callbacks=callbacks, max_errors=NO_LIMIT):
            self._report()
            yield

    def metric(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Any:
        """The job's metric, counted. Calls with a trace are bootstrapping or reflection and count as no rollout."""
        try:
            return self._metric(gold, pred, trace, pred_name, pred_trace)
        finally:
            with self._lock:
                self._done += trace is None and pred_name is None
                self._report()

    def inner(self, done: int, message: str) -> None:
        """Rollouts of a search within this one, counted from its own start."""
        with self._lock:
            self._inner = done
            self._report(message)

    def inner_ended(self) -> None:
        with self._lock:
            self._before, self._inner = self._before + self._inner, 0

    def candidate(self, program: dspy.Module, score: float, *, what: str = "validation score") -> None:
        """Keep a copy of `program` if `score` (0-100) is the best so far."""
        with self._lock:
            if self.best is not None and score <= self.best:
                return
            self.best = score
            self._job.keep(stripped(program.deepcopy()), score=score, message=f"{what} {score:.1f}")

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        rows = inputs.get("devset") or instance.devset
        self._evaluating[call_id] = inputs["program"], len(rows)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        program, rows = self._evaluating.pop(call_id)
        if exception is None and rows == self._rows:
            self.candidate(program, float(outputs.score))

    def _report(self, message: str = "") -> None:
        with self._lock:
            done = self._before + self._inner + self._done
            total = None if self.total is None else max(self.total, done)
            self._job.report(done, total, score=self.best, message=message)


def fresh(program: dspy.Module) -> dspy.Module:
    """A copy that DSPy's optimizers take even if the program was optimized before."""
    copy = program.deepcopy()
    copy._compiled = False
    return copy


def stripped(program: dspy.Module) -> dspy.Module:
    """The program without the logs, candidates and LM that DSPy's optimizers leave on it. Changes it in place."""
    for name in _ATTACHED:
        if name in program.__dict__:
            delattr(program, name)
    program.set_lm(None)
    return program


def second_lm(job: OptimizerJob, model: str | None) -> Any:
    """The LM that writes for the search: the one a parameter names, or the job's own for None.

    A small model writes until it is stopped (one reflection of a 135M model took three minutes), so its answers are
    bounded to WRITTEN tokens. Raises OptimizationError without a way to connect.
    """
    if model is not None and job.connect is None:
        raise OptimizationError(f"The model {model!r} cannot be connected here; give `optimize` a `connect` function.")
    lm = job.lm if model is None else job.connect(model)  # type: ignore[misc]
    info = LMInfo.of(lm)
    billions = billions_of(info.model)
    most = info.max_tokens
    if billions is None or billions >= SMALL or (most is not None and most <= WRITTEN):
        return lm
    return lm.copy(max_tokens=WRITTEN)


def most_written(job: OptimizerJob, model: str | None) -> int | None:
    """Tokens of an answer of the LM that writes, at most, as far as that is set."""
    return getattr(second_lm(job, model), "kwargs", {}).get("max_tokens")


def labelled(program: dspy.Module, rows: Any) -> bool:
    """Whether a row can be a demonstration as it is: it has every output field of every predictor."""
    outputs = {name for signature in signatures_of(program).values() for name in signature.output_fields}
    return all(outputs <= set(row.keys()) for row in rows)


def check_labelled(job: OptimizerJob, optimizer: str) -> None:
    """Raise OptimizationError if the training rows cannot be demonstrations as they are."""
    if not labelled(job.program, job.train):
        raise OptimizationError(
            f"The optimizer {optimizer!r} shows training rows as they are, and these do not have every output field of "
            "the program. Label them, or use 'bootstrap', which makes the missing fields."
        )


def demos_must_fit(job: OptimizerJob, **_: Any) -> None:
    """A preflight: raise OptimizationError when not one demonstration fits the model's context."""
    window = ContextWindow.of(job.lm)
    if window is not None and window.demos_that_fit(job.program, job.train) == 0:
        raise OptimizationError(
            f"Not one demonstration as long as the longest training row fits the {window.limit} tokens the model's "
            "context leaves for a prompt. Use an optimizer of instructions (copro, gepa), a model with a longer "
            "context, or shorter rows."
        )
