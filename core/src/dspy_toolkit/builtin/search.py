"""What DSPy's searches do not do by themselves: tell how far they are and hand over the best program so far."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import dspy
from pydantic import Field

from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.selection import SMALL, billions_of
from dspy_toolkit.optimize.teleprompter import NO_LIMIT, stripped

__all__ = [
    "PromptModel",
    "Search",
    "Temperature",
    "second_lm",
]

MAX_INSTRUCTION_TOKENS = 150
"""What a small model may write of an instruction; good ones are shorter."""

PromptModel = Annotated[
    str | None, Field(description="Model string of the LM that writes instructions; null: the program's own.")
]
Temperature = Annotated[float, Field(ge=0, le=2, description="Temperature at which instructions are written.")]


class Search(BaseCallback):
    """Follows one search: counts rollouts, and keeps the best program that was evaluated on all `rows` rows.

    A rollout is the program on one row, scored. `total` is how many the search is going to make, or None. DSPy's
    callbacks and the metric are all it sees of a search; minibatches (fewer rows) do not decide what is kept.
    """

    def __init__(self, job: OptimizerJob, *, total: int | None, rows: int, metric: Callable[..., Any] | None = None):
        self._job = job
        self._metric = metric or job.metric
        self.total = total
        self._rows = rows
        self._lock = threading.RLock()
        self._counted = self._ended_inner = self._inner = 0
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
                self._counted += trace is None and pred_name is None
                self._report()

    def evaluate(self, program: dspy.Module) -> Any:
        """DSPy's result of the program on the validation rows."""
        evaluate = dspy.Evaluate(
            devset=list(self._job.validation),
            metric=self.metric,
            num_threads=self._job.num_threads,
            max_errors=NO_LIMIT,
        )
        return evaluate(program)

    def inner(self, rollouts: int, message: str) -> None:
        """Rollouts of a search within this one, counted from its own start."""
        with self._lock:
            self._inner = rollouts
            self._report(message)

    def inner_ended(self) -> None:
        with self._lock:
            self._ended_inner, self._inner = self._ended_inner + self._inner, 0

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
            rollouts = self._ended_inner + self._inner + self._counted
            total = None if self.total is None else max(self.total, rollouts)
            self._job.report(rollouts, total, score=self.best, message=message)


def second_lm(job: OptimizerJob, model: str | None) -> Any:
    """The LM that writes for the search: the one a parameter names, or the job's own for None.

    A small model writes until it is stopped (one reflection of a 135M model took three minutes), so its answers are
    bounded to MAX_INSTRUCTION_TOKENS tokens. Raises OptimizationError without a way to connect.
    """
    if model is not None and job.connect is None:
        raise OptimizationError(f"The model {model!r} cannot be connected here; give `optimize` a `connect` function.")
    lm = job.lm if model is None else job.connect(model)  # type: ignore[misc]
    info = LMInfo.of(lm)
    billions = billions_of(info.model)
    most = info.max_tokens
    if billions is None or billions >= SMALL or (most is not None and most <= MAX_INSTRUCTION_TOKENS):
        return lm
    return lm.copy(max_tokens=MAX_INSTRUCTION_TOKENS)
