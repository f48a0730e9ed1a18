"""Evaluating and optimizing programs: data, scores with intervals, runs that can be stopped and gone on with."""

from dspy_toolkit.optimize.cache import configure_cache
from dspy_toolkit.optimize.context import ContextWindow, limit_demos
from dspy_toolkit.optimize.data import Splits, digest, input_fields, prepare, to_examples
from dspy_toolkit.optimize.engine import OptimizerEngine
from dspy_toolkit.optimize.evaluate import ErrorGroup, Evaluation, RowResult, evaluate
from dspy_toolkit.optimize.events import Event, EventKind, EventSink, Stage
from dspy_toolkit.optimize.job import OptimizerJob, preflight
from dspy_toolkit.optimize.optimizers import check_parameters, find_optimizer
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.run import optimize
from dspy_toolkit.optimize.scores import Comparison, ScoreEstimate, compare, estimate
from dspy_toolkit.optimize.selection import Choice, OptimizerType, Situation, choose, select_optimizer
from dspy_toolkit.optimize.usage import Usage

__all__ = [
    "Choice",
    "Comparison",
    "ContextWindow",
    "ErrorGroup",
    "Evaluation",
    "Event",
    "EventKind",
    "EventSink",
    "OptimizationResult",
    "OptimizerEngine",
    "OptimizerJob",
    "OptimizerType",
    "RowResult",
    "ScoreEstimate",
    "Situation",
    "Splits",
    "Stage",
    "Usage",
    "check_parameters",
    "choose",
    "compare",
    "configure_cache",
    "digest",
    "estimate",
    "evaluate",
    "find_optimizer",
    "input_fields",
    "limit_demos",
    "optimize",
    "preflight",
    "prepare",
    "select_optimizer",
    "to_examples",
]
