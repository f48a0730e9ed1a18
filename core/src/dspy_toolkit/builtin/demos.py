"""Demonstrations: how many fit, which rows can be some as they are, and making them with DSPy's BootstrapFewShot."""

from typing import Annotated, Any

import dspy
from pydantic import Field

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.programs.inspect import signatures_of

__all__ = [
    "Bootstrapping",
    "MaxBootstrapped",
    "MaxLabeled",
    "MaxRounds",
    "Threshold",
    "check_demos_fit",
    "check_labelled",
    "demo_limits",
    "has_labels",
    "number_that_fits",
    "numbers_that_fit",
]

MaxBootstrapped = Annotated[
    int, Field(ge=1, description="Demonstrations that the program makes itself and the metric accepts, at most.")
]
MaxLabeled = Annotated[
    int,
    Field(
        ge=0,
        description="Demonstrations in all, at most: filled up with training rows as they are, if those have labels.",
    ),
]
MaxRounds = Annotated[
    int, Field(ge=1, description="How often to try a row, at most; from the second time on at temperature 1.")
]
Threshold = Annotated[
    float, Field(gt=0, le=1, description="The score, 0 to 1, from which a demonstration is accepted.")
]


def numbers_that_fit(job: OptimizerJob, **numbers: int) -> dict[str, int]:
    """Numbers of demonstrations, none more than fit the model's context; a note says which were lowered."""
    window = ContextWindow.of(job.lm)
    fit = window.demos_that_fit(job.program, job.train) if window else None
    if window is None or fit is None or all(number <= fit for number in numbers.values()):
        return numbers
    lowered = [f"{name} from {number}" for name, number in numbers.items() if number > fit]
    job.note(
        f"Lowered to {fit}: {', '.join(lowered)}. More demonstrations as long as the longest training row would not "
        f"fit the {window.limit} tokens the model's context leaves for a prompt."
    )
    return {name: min(number, fit) for name, number in numbers.items()}


def number_that_fits(job: OptimizerJob, **number: int) -> int:
    """`numbers_that_fit` for a single one."""
    (fitting,) = numbers_that_fit(job, **number).values()
    return fitting


def demo_limits(job: OptimizerJob, params: Any) -> dict[str, Any]:
    """BootstrapFewShot's `max_bootstrapped_demos` and `max_labeled_demos`, as far as they fit and rows have labels."""
    return numbers_that_fit(
        job,
        max_bootstrapped_demos=params.max_bootstrapped_demos,
        max_labeled_demos=params.max_labeled_demos if has_labels(job.program, job.train) else 0,
    )


def has_labels(program: dspy.Module, rows: Any) -> bool:
    """Whether rows can be demonstrations as they are: some of them have some output field of a predictor.

    As for DSPy, a demonstration may be incomplete: its prompt says which fields are not supplied.
    """
    outputs = {name for signature in signatures_of(program).values() for name in signature.output_fields}
    return any(outputs & set(row.keys()) for row in rows)


def check_labelled(job: OptimizerJob, optimizer: str) -> None:
    """Raise OptimizationError if the training rows cannot be demonstrations as they are."""
    if not has_labels(job.program, job.train):
        raise OptimizationError(
            f"The optimizer {optimizer!r} shows training rows as they are, and these have no output field of the "
            "program. Label them, or use 'bootstrap', which makes the missing fields."
        )


def check_demos_fit(job: OptimizerJob) -> None:
    """Raise OptimizationError when not one demonstration fits the model's context."""
    window = ContextWindow.of(job.lm)
    if window is not None and window.demos_that_fit(job.program, job.train) == 0:
        raise OptimizationError(
            f"Not one demonstration as long as the longest training row fits the {window.limit} tokens the model's "
            "context leaves for a prompt. Use an optimizer of instructions (copro, gepa), a model with a longer "
            "context, or shorter rows."
        )


class Bootstrapping(dspy.BootstrapFewShot):
    """BootstrapFewShot that reports progress and keeps a program after each accepted row."""

    def __init__(self, job: OptimizerJob, **options: Any):
        super().__init__(**options)
        self._job = job
        self._tried = 0
        self._accepted = 0

    def _bootstrap_one_example(self, example: dspy.Example, round_idx: int = 0) -> bool:
        self._tried += round_idx == 0
        accepted = bool(super()._bootstrap_one_example(example, round_idx))
        if accepted:
            self._accepted += 1
            self._keep(example)
        self._job.report(self._tried, len(self.trainset))
        return accepted

    def _keep(self, example: dspy.Example) -> None:
        """Called when a row's demonstrations were accepted and added to `name2traces`."""
        partial = self.student.deepcopy()
        for name, predictor in partial.named_predictors():
            predictor.demos = list(self.name2traces[name])
        self._job.keep(partial, message=f"{self._accepted} demonstrations accepted")
