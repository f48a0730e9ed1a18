"""An instance of one of DSPy's own optimizers (teleprompters) as the optimizer of a run."""

import copy
import inspect
from typing import Any

import dspy
from pydantic import create_model

from dspy_toolkit.compat.optimizers import Teleprompter
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.params import OptimizerParams

__all__ = ["NO_LIMIT", "TeleprompterOptimizer", "stripped", "uncompiled"]

NO_LIMIT = 10**9
"""As DSPy's `max_errors`: a row's failure costs that row; a dead LM is the meter's business."""

_ATTACHED = (
    "candidate_programs", "detailed_results", "flag_compilation_error_occurred", "mb_candidate_programs",
    "prompt_model_total_calls", "results_best", "results_latest", "score", "simba_idx", "total_calls", "trial_logs",
)  # fmt: skip

_PLAIN = (str, int, float, bool, type(None))


class TeleprompterOptimizer:
    """An instance of DSPy's `Teleprompter`, which is left as it was.

    Its plain attributes are the `Params`, so that they are recorded and a run with others is another run. Its metric is
    its own where it has one that is not the run's; validation rows are its `valset` where it takes one. `seed` is
    passed to a `compile` that takes it.
    """

    def __init__(self, teleprompter: Teleprompter):
        self._teleprompter = teleprompter
        self.__name__ = type(teleprompter).__name__
        attributes: dict[str, Any] = {
            name: (Any, value)
            for name, value in vars(teleprompter).items()
            if isinstance(value, _PLAIN) and not name.startswith("_")
        }
        self.Params: Any = create_model(f"{self.__name__}.Params", __base__=OptimizerParams, **attributes)

    def __repr__(self) -> str:
        return f"TeleprompterOptimizer({self.__name__})"

    def check(self, job: OptimizerJob, params: Any) -> None:
        if "trainset" not in inspect.signature(self._teleprompter.compile).parameters:
            raise OptimizationError(
                f"{self.__name__}.compile takes no training rows, so it cannot be run here; name the optimizer that "
                "does the same instead ('knn', 'ensemble')."
            )

    def forecast(self, job: OptimizerJob, scores: Any, params: Any) -> None:
        return None

    def rollouts_per_row(self, params: Any) -> float:
        return 1.0

    def compile(self, job: OptimizerJob, params: Any) -> dspy.Module:
        teleprompter = copy.copy(self._teleprompter)
        for name in type(params).model_fields:
            setattr(teleprompter, name, getattr(params, name))
        self._bind(teleprompter, job)
        options = {"valset": list(job.validation), "seed": job.seed}
        taken = inspect.signature(teleprompter.compile).parameters
        with dspy.context(max_errors=NO_LIMIT):
            program = teleprompter.compile(
                uncompiled(job.program),
                trainset=list(job.train),
                **{name: value for name, value in options.items() if name in taken},
            )
        return stripped(program)

    def _bind(self, teleprompter: Any, job: OptimizerJob) -> None:
        """The run's metric and LM, where the instance has none, which DSPy takes from its settings when it is made."""
        for name in ("metric", "metric_fn"):
            own = getattr(teleprompter, name, job.metric)
            if own is None or (own.function if isinstance(own, Metric) else own) is job.metric.function:
                setattr(teleprompter, name, job.metric)
        for name in ("task_model", "prompt_model", "reflection_lm"):
            if hasattr(teleprompter, name) and getattr(teleprompter, name) is None:
                setattr(teleprompter, name, job.lm)


def uncompiled(program: dspy.Module) -> dspy.Module:
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
