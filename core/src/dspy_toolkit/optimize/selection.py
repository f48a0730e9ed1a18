"""Choosing an optimizer from what is known before a run, with the reason in one sentence.

The rule, first match wins (`benchmarks/optimizers.py` measures its regret against the best optimizer per task):

    no demonstration fits the context            gepa with feedback, else copro: instructions only
    few validation rows                          bootstrap: differences between candidates would be luck
    a small model, or a budget for little more   random-search: it imitates demonstrations, and cannot write well
    feedback, and a hard task or several steps   gepa
    many rows                                    mipro: instructions and demonstrations together
    else                                         random-search
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import dspy

from dspy_toolkit.data.splits import Splits
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.feedback import gives_feedback
from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["SMALL", "Choice", "OptimizerType", "Situation", "billions_of", "choose", "select_optimizer"]

Complexity = Literal["low", "medium", "high"]

_MIN_VALIDATION = 8
"""Validation rows below which the best of several candidates is mostly the luckiest."""
_MIPRO_ROWS = (40, 25)
"""Training and validation rows from which MIPROv2's many trials tell something."""
_MAX_DEMOS = 16
"""Demonstrations in a prompt, at most: as many as DSPy's random search shows, if they fit the context."""
SMALL = 3.0
"""Billions of parameters below which models write instructions that help no one."""


class OptimizerType(StrEnum):
    """The optimizers in the box, by name, and AUTO."""

    AUTO = "auto"
    BOOTSTRAP_FEW_SHOT = "bootstrap"
    BOOTSTRAP_FEW_SHOT_WITH_RANDOM_SEARCH = "random-search"
    MIPRO_V2 = "mipro"
    GEPA = "gepa"
    SIMBA = "simba"
    COPRO = "copro"
    KNN_FEW_SHOT = "knn"
    LABELED_FEW_SHOT = "labeled"
    ENSEMBLE = "ensemble"
    BETTER_TOGETHER = "better-together"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The facts that decide which optimizer to use; None where a fact is not known.

    `feedback`: whether the metric says why. `billions`: the model's parameters. `demos_that_fit`: how many
    demonstrations its context holds. `max_calls`: how many LM calls the search may make.
    """

    train: int
    validation: int
    predictors: int = 1
    task_type: str = ""
    complexity: Complexity = "medium"
    feedback: bool | None = None
    billions: float | None = None
    demos_that_fit: int | None = None
    max_calls: int | None = None

    @classmethod
    def of(cls, program: dspy.Module, data: Splits, metric: Metric, lm: Any, **facts: Any) -> "Situation":
        """The situation of a program, data, metric and LM, without an LM call; `facts` are the other fields."""
        window = ContextWindow.of(lm)
        return cls(
            train=len(data.train),
            validation=len(data.validation),
            predictors=max(1, len(signatures_of(program))),
            feedback=gives_feedback(metric, data.train, program),
            billions=billions_of(LMInfo.of(lm).model),
            demos_that_fit=window.demos_that_fit(program, data.train) if window else None,
            **facts,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An optimizer, the parameters that suit the situation, and why."""

    optimizer: OptimizerType
    reason: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def select_optimizer(task_type: str, dataset_size: int, complexity: Complexity = "medium") -> Choice:
    """Choose for `dataset_size` rows that will be split 40/20/40 into train, validation and test.

    `task_type` is free text; it is used in the reason only. Raises OptimizationError for fewer than 3 rows or an
    unknown complexity.
    """
    if dataset_size < 3:
        raise OptimizationError(
            f"The dataset has {dataset_size} rows; expected at least 3, one each to train, compare and test on."
        )
    if complexity not in ("low", "medium", "high"):
        raise OptimizationError(f"The complexity is {complexity!r}; expected 'low', 'medium' or 'high'.")
    train = max(1, round(dataset_size * 0.4))
    validation = max(1, round(dataset_size * 0.6) - train)
    return choose(Situation(train=train, validation=validation, task_type=task_type, complexity=complexity))


def choose(situation: Situation) -> Choice:
    """The rule at the top of this file."""
    demos = situation.demos_that_fit
    if demos == 0:
        return _instructions(situation)
    if situation.validation < _MIN_VALIDATION:
        return Choice(
            optimizer=OptimizerType.BOOTSTRAP_FEW_SHOT,
            reason=f"with {situation.validation} validation rows, differences between candidates would be luck.",
        )
    if situation.billions is not None and situation.billions < SMALL:
        size = f"{1000 * situation.billions:.0f}M" if situation.billions < 1 else f"{situation.billions:g}B"
        return _random_search(
            situation, f"a model of {size} parameters follows demonstrations better than instructions it writes"
        )
    if situation.complexity == "low":
        return _random_search(situation, "for a simple task the right demonstrations are enough")
    hard = situation.complexity == "high" or situation.predictors > 1
    if situation.feedback and hard and _affordable(situation, 8 * situation.validation + 120):
        why = f"{situation.predictors} predictors" if situation.predictors > 1 else "a hard task"
        return Choice(
            optimizer=OptimizerType.GEPA,
            reason=f"the metric says what went wrong, which is worth most with {why}.",
        )
    train, validation = _MIPRO_ROWS
    if situation.train >= train and situation.validation >= validation:
        trials = 10 * situation.predictors
        if _affordable(situation, (trials + 1) * situation.validation + 40):
            return Choice(
                optimizer=OptimizerType.MIPRO_V2,
                reason=f"{situation.train} training and {situation.validation} validation rows are enough to compare "
                "instructions and demonstrations together.",
            )
    return _random_search(
        situation,
        f"{situation.train} training rows make good demonstrations and {situation.validation} validation rows choose "
        "among them",
    )


def billions_of(model: str) -> float | None:
    """Billions of parameters, as far as a model's name tells: `smollm2-135m` has 0.135, `Qwen2.5-7B-4bit` has 7."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", model.lower().replace("_", "-"))
    if not sizes:
        return None
    number, unit = sizes[-1]
    return float(number) / (1000 if unit == "m" else 1)


def _instructions(situation: Situation) -> Choice:
    reason = "not one demonstration fits the model's context, so only instructions can be improved."
    optimizer = OptimizerType.GEPA if situation.feedback else OptimizerType.COPRO
    return Choice(optimizer=optimizer, reason=reason)


def _random_search(situation: Situation, why: str) -> Choice:
    """As many candidates as the budget allows, 8 at most; below 2 the search is a plain bootstrap."""
    per_candidate = (situation.validation + 8) * situation.predictors
    affordable = 8 if situation.max_calls is None else situation.max_calls // per_candidate - 3
    if affordable < 2:
        return Choice(
            optimizer=OptimizerType.BOOTSTRAP_FEW_SHOT,
            reason=f"{situation.max_calls} calls do not pay for comparing candidates on {situation.validation} rows.",
        )
    fit = situation.demos_that_fit
    return Choice(
        optimizer=OptimizerType.BOOTSTRAP_FEW_SHOT_WITH_RANDOM_SEARCH,
        reason=f"{why}.",
        parameters={
            "num_candidate_programs": min(8, affordable),
            "max_labeled_demos": _MAX_DEMOS if fit is None else min(_MAX_DEMOS, fit),
            "nearest": True,
        },
    )


def _affordable(situation: Situation, calls: int) -> bool:
    return situation.max_calls is None or situation.predictors * calls <= situation.max_calls
