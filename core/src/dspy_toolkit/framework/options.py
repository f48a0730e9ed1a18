"""The options of an optimization: what a call says, and what the settings say where it says nothing."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypedDict

from dspy_toolkit.data.splits import AnyData
from dspy_toolkit.framework.modules import ProjectSignatureConfig
from dspy_toolkit.framework.resources import Model, default_model
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.metrics.named import AnyMetrics
from dspy_toolkit.optimize.optimizer import optimizer_name
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.spec import Saved
from dspy_toolkit.programs.target import Target
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.settings import DSPyConfig

__all__ = ["AnyOptimizer", "PlanKeywords", "RunKeywords", "RunOptions"]

AnyOptimizer = Any
"""A name (`bootstrap`, `MIPROv2`, `auto`), an Optimizer, an instance of one of DSPy's, or a function of a job."""


class PlanKeywords(TypedDict, total=False):
    """The keywords that `optimize_task` and `plan_task` share. None, or left out: the settings or the task decide."""

    dataset: AnyData | None
    metrics: AnyMetrics | None
    optimizer: AnyOptimizer | None
    model: Model
    seed: int | None
    rows: Mapping[str, int] | None
    parameters: Mapping[str, Any] | None
    num_threads: int | None
    limits: Limits | None
    resume: str | bool


class RunKeywords(PlanKeywords, total=False):
    """The keywords of `optimize_task`."""

    max_errors: int | None
    on_event: EventSink | None
    stop: threading.Event | None
    planned: Plan | None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """`resume` is the id of the run to resume, or True for the newest unfinished run of the same spec.

    `save` stores the result and returns where; `planned` is a plan made before.
    """

    dataset: AnyData | None = None
    metrics: AnyMetrics | None = None
    optimizer: AnyOptimizer | None = None
    model: Model = None
    seed: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    num_threads: int | None = None
    limits: Limits | None = None
    max_errors: int | None = None
    resume: str | bool = False
    on_event: EventSink | None = None
    stop: threading.Event | None = None
    save: Callable[[OptimizationResult], Saved] | None = None
    planned: Plan | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """Those of `optimize_task`. Raises TypeError for a keyword that does not exist."""
        return cls(**{name: value for name, value in keywords.items() if value is not None})

    @classmethod
    def of_module(cls, dataset: AnyData, metrics: AnyMetrics, keywords: Mapping[str, Any]) -> Self:
        """Those of `optimize_module`, whose other keywords are parameters of the optimizer."""
        names = {option.name for option in fields(cls)} - {"dataset", "metrics", "parameters", "notes"}
        options = {name: value for name, value in keywords.items() if name in names}
        parameters = {name: value for name, value in keywords.items() if name not in names}
        return cls.of({**options, "dataset": dataset, "metrics": metrics, "parameters": parameters})

    def for_target(self, target: Target, config: DSPyConfig) -> Self:
        """Over the settings of the target's project, over the task's own, if it is a task."""
        project, entry = config.project(target.project), target.task and target.task.entry
        default = project.optimizer or (entry.optimizer if entry else "bootstrap")
        optimizer = self.optimizer or default
        # Parameters belong to the optimizer they were written for.
        of_task = entry.optimizer_params if entry and optimizer == entry.optimizer else {}
        of_project = project.optimizer_params if optimizer == default else {}
        rows_of_task = entry.rows if entry and self.dataset is None else {}
        return replace(
            self,
            optimizer=optimizer,
            model=self.model or default_model(project.model),
            rows={**rows_of_task, **project.rows, **self.rows},
            parameters={**of_task, **of_project, **self.parameters},
        )

    def for_module(self, registered: ProjectSignatureConfig | None) -> Self:
        """Over the optimizer and the parameters that a module was registered with."""
        if self.optimizer is not None or registered is None or not registered.optimizer:
            return self
        parameters = {**registered.optimizer_params, **self.parameters}
        return replace(self, optimizer=registered.optimizer, parameters=parameters)

    def for_config(self, config: DSPyConfig) -> Self:
        """Over the general settings."""
        return replace(
            self,
            optimizer=self.optimizer or "bootstrap",
            model=self.model or default_model(config.model),
            seed=config.seed if self.seed is None else self.seed,
            num_threads=self.num_threads or config.num_threads,
            max_errors=config.max_errors if self.max_errors is None else self.max_errors,
        )

    def named_data(self) -> dict[str, Any]:
        """Rows and metrics as far as they can be written down: files and names."""
        named: dict[str, Any] = {}
        if isinstance(self.dataset, str | os.PathLike):
            named["dataset"] = str(Path(self.dataset).absolute())
        names = [self.metrics] if isinstance(self.metrics, str) else self.metrics
        if isinstance(names, Sequence) and names and all(isinstance(metric, str) for metric in names):
            named["metrics"] = list(names)
        return named

    def to_record(self) -> dict[str, Any]:
        """The others, as the record of a run has them."""
        return {
            "optimizer": self.optimizer and optimizer_name(self.optimizer),
            "model": self.model if isinstance(self.model, str | None) else LMInfo.of(self.model).model,
            "seed": self.seed,
            "rows": dict(self.rows),
            "parameters": dict(self.parameters),
            "num_threads": self.num_threads,
            "limits": {} if self.limits is None else self.limits.active(),
            "max_errors": self.max_errors,
        }
