"""What a framework was asked to optimize with: what a call says, and what the settings say where it is silent."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.data.splits import AnyData
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.metrics.named import AnyMetrics

if TYPE_CHECKING:
    from dspy_toolkit.framework.modules import ProjectSignatureConfig
    from dspy_toolkit.programs.target import Target
    from dspy_toolkit.settings import DSPyConfig

__all__ = ["OptimizationRequest"]


@dataclass(frozen=True, kw_only=True)
class OptimizationRequest:
    """The arguments that `optimize_*` and `plan_*` of a framework share; None or empty where nothing was said."""

    dataset: AnyData | None = None
    metrics: AnyMetrics | None = None
    optimizer: str | None = None
    model: str | None = None
    seed: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    num_threads: int | None = None
    limits: Limits | None = None
    max_errors: int | None = None

    def for_target(self, target: "Target", config: "DSPyConfig") -> "OptimizationRequest":
        """Over the settings of the target's project, over the task's own, if it is a task."""
        project, entry = config.project(target.project), target.task and target.task.entry
        usual = project.optimizer or (entry.optimizer if entry else "bootstrap")
        optimizer = self.optimizer or usual
        # Parameters belong to the optimizer they were written for.
        own = entry.optimizer_params if entry and optimizer == entry.optimizer else {}
        projects = project.optimizer_params if optimizer == usual else {}
        drawn = entry.rows if entry and self.dataset is None else {}
        return replace(
            self,
            optimizer=optimizer,
            model=self.model or project.model,
            rows={**drawn, **project.rows, **self.rows},
            parameters={**own, **projects, **self.parameters},
        )

    def for_module(self, registered: "ProjectSignatureConfig | None") -> "OptimizationRequest":
        """Over the optimizer and the parameters that a module was registered with."""
        if self.optimizer is not None or registered is None or not registered.optimizer:
            return self
        parameters = {**registered.optimizer_params, **self.parameters}
        return replace(self, optimizer=registered.optimizer, parameters=parameters)

    def whole(self, config: "DSPyConfig") -> "OptimizationRequest":
        """Over the general settings: only limits, and how many rows may fail, may be None after this."""
        return replace(
            self,
            optimizer=self.optimizer or "bootstrap",
            model=self.model or config.model,
            seed=config.seed if self.seed is None else self.seed,
            num_threads=self.num_threads or config.num_threads,
            max_errors=config.max_errors if self.max_errors is None else self.max_errors,
        )

    def named(self) -> dict[str, Any]:
        """What was said of rows and metrics, as far as it can be written down: files and names."""
        asked: dict[str, Any] = {}
        if isinstance(self.dataset, str | os.PathLike):
            asked["dataset"] = str(Path(self.dataset).absolute())
        names = [self.metrics] if isinstance(self.metrics, str) else self.metrics
        if isinstance(names, Sequence) and names and all(isinstance(metric, str) for metric in names):
            asked["metrics"] = list(names)
        return asked

    def options(self) -> dict[str, Any]:
        """The rest, as the record of a run keeps it."""
        return {
            "optimizer": self.optimizer,
            "model": self.model,
            "seed": self.seed,
            "rows": dict(self.rows),
            "parameters": dict(self.parameters),
            "num_threads": self.num_threads,
            "limits": {} if self.limits is None else self.limits.active(),
            "max_errors": self.max_errors,
        }
