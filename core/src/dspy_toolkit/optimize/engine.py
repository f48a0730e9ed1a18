"""`OptimizerEngine`: choosing, running and remembering, in one object."""

from typing import TYPE_CHECKING, Any

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.selection import Choice, Complexity, OptimizerType, select_optimizer

if TYPE_CHECKING:
    from dspy_toolkit.framework import DSPyFramework

__all__ = ["OptimizerEngine"]


class OptimizerEngine:
    """Runs optimizations of a framework's and keeps their results in `history`, the oldest first.

    Runs that ended early are in it too, with what they had finished. It holds results in memory; what is to last is
    stored by `DSPyFramework.optimize_task`.
    """

    def __init__(self, framework: "DSPyFramework"):
        self._framework = framework
        self._history: list[OptimizationResult] = []

    @property
    def history(self) -> tuple[OptimizationResult, ...]:
        return tuple(self._history)

    @staticmethod
    def select_optimizer(task_type: str, dataset_size: int, complexity: Complexity = "medium") -> Choice:
        """See `dspy_toolkit.optimize.select_optimizer`."""
        return select_optimizer(task_type, dataset_size, complexity)

    def optimize(
        self, module: Any, dataset: Any, metrics: Any, *, optimizer: str = OptimizerType.AUTO, **options: Any
    ) -> OptimizationResult:
        """`DSPyFramework.optimize_module` with the optimizer chosen, unless one is named. Raises what that raises."""
        try:
            result = self._framework.optimize_module(module, dataset, metrics, optimizer=optimizer, **options)
        except OptimizationError as error:
            if isinstance(error.partial, OptimizationResult):
                self._history.append(error.partial)
            raise
        self._history.append(result)
        return result
