"""`OptimizerEngine`: choosing, running and remembering, in one object."""

from typing import TYPE_CHECKING, Any

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.optimize.replay import recall
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.selection import Choice, Complexity, OptimizerType, select_optimizer

if TYPE_CHECKING:
    from dspy_toolkit.framework.framework import DSPyFramework

__all__ = ["OptimizerEngine"]


class OptimizerEngine:
    """Runs optimizations of a framework's; what the framework ever ran is its `history`."""

    def __init__(self, framework: "DSPyFramework"):
        self._framework = framework
        self._own: dict[str, OptimizationResult] = {}

    @property
    def history(self) -> tuple[OptimizationResult, ...]:
        """The results of all runs recorded in the framework's folder of runs, the oldest first, of every process.

        Runs that ended early are in it too, with what was finished. Results of this engine have their programs;
        those of others have none.
        """
        results = []
        for run in reversed(self._framework.runs.all()):
            if run.kind != "optimize":
                continue
            result = self._own.get(run.id) or recall(run)
            if result is not None:
                results.append(result)
        return tuple(results)

    @staticmethod
    def select_optimizer(task_type: str, dataset_size: int, complexity: Complexity = "medium") -> Choice:
        """See `dspy_toolkit.optimize.select_optimizer`."""
        return select_optimizer(task_type, dataset_size, complexity)

    def optimize(
        self, module: Any, dataset: Any, metrics: Any, *, optimizer: Any = OptimizerType.AUTO, **options: Any
    ) -> OptimizationResult:
        """`DSPyFramework.optimize_module` with the optimizer chosen, unless one is named; `resume=` resumes a run.

        Raises what that raises.
        """
        try:
            result = self._framework.optimize_module(module, dataset, metrics, optimizer=optimizer, **options)
        except OptimizationError as error:
            if isinstance(error.partial, OptimizationResult):
                self._own[error.partial.run] = error.partial
            raise
        self._own[result.run] = result
        return result
