"""What can be measured, optimized or run: a program under a name, plain or in a stored version."""

from collections.abc import Callable
from dataclasses import dataclass

import dspy

from dspy_toolkit.errors import DataError, MetricError
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.metrics.named import AnyMetrics, find_metrics
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.programs.task import Task
from dspy_toolkit.types import MetricEntry, TaskData

__all__ = ["Target", "target_of"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """`module` is what runs; `plain` makes a fresh one as it was before optimization. Neither has an LM.

    `name` is what it is stored under; `version` is a version's name, None for the plain program, or, where `folder`
    says so, a bundle's folder.
    """

    name: str
    version: str | None
    module: dspy.Module
    plain: Callable[[], dspy.Module]
    task: Task | None = None
    folder: bool = False

    @property
    def shown(self) -> str:
        if self.version is None:
            return f"{self.name} (not optimized)"
        return self.version if self.folder else f"{self.name}@{self.version}"

    @property
    def project(self) -> str:
        """Whose settings apply."""
        return self.name.partition("/")[0]

    def data(self) -> TaskData:
        """The task's own rows. Raises DataError for what is no task."""
        if self.task is None:
            raise DataError(f"{self.name} has no rows of its own; give some (--data FILE, or `dataset` in Python).")
        return self.task.data()

    def metrics(self, plugins: PluginManager, names: AnyMetrics | None) -> list[Metric]:
        """Those that are given, or the task's. Raises MetricError for what is no task, and as `find_metric` does."""
        if names not in (None, [], ()):
            return find_metrics(plugins, names, project=self.project)
        if self.task is None:
            available = ", ".join(plugins.entries(MetricEntry))
            raise MetricError(f"{self.name} has no metric of its own; name one (--metric): {available}.")
        return [self.task.metric()]


def target_of(module: dspy.Module) -> Target:
    """The target of a module in hand."""
    return Target(name=type(module).__name__, version=None, module=module, plain=module.deepcopy)
