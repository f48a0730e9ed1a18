"""Evaluating and optimizing programs: data, scores with intervals, runs that can be stopped and gone on with."""

from dspy_toolkit.optimize.amount import Amount
from dspy_toolkit.optimize.budget import calls_per_row
from dspy_toolkit.optimize.cache import configure_cache
from dspy_toolkit.optimize.columns import Column
from dspy_toolkit.optimize.context import ContextWindow, limit_demos
from dspy_toolkit.optimize.data import Splits, digest, input_fields, prepare, to_examples
from dspy_toolkit.optimize.engine import OptimizerEngine
from dspy_toolkit.optimize.evaluate import ErrorGroup, Evaluation, RowResult, evaluate
from dspy_toolkit.optimize.events import Event, EventKind, EventSink, Stage
from dspy_toolkit.optimize.forecast import Final, Forecast, Known, Work
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.journal import Entry, Journal, read_journal
from dspy_toolkit.optimize.limits import Limits
from dspy_toolkit.optimize.optimizers import check_parameters, find_optimizer
from dspy_toolkit.optimize.pareto import by_parts, fewer_tokens, less_time, mean_score, pareto_front
from dspy_toolkit.optimize.plan import Plan, PlanRow, plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.run import optimize
from dspy_toolkit.optimize.runs import Run, Runs, RunStatus
from dspy_toolkit.optimize.scores import Comparison, ScoreEstimate, compare, estimate
from dspy_toolkit.optimize.selection import Choice, OptimizerType, Situation, choose, select_optimizer
from dspy_toolkit.optimize.set_scores import compare_evaluations, estimate_set, measure
from dspy_toolkit.optimize.sources import Dataset, read_dataset
from dspy_toolkit.optimize.usage import Usage

__all__ = [
    "Amount",
    "Choice",
    "Column",
    "Comparison",
    "ContextWindow",
    "Dataset",
    "Entry",
    "ErrorGroup",
    "Evaluation",
    "Event",
    "EventKind",
    "EventSink",
    "Final",
    "Forecast",
    "Journal",
    "Known",
    "Limits",
    "OptimizationResult",
    "OptimizerEngine",
    "OptimizerJob",
    "OptimizerType",
    "Plan",
    "PlanRow",
    "RowResult",
    "Run",
    "RunStatus",
    "Runs",
    "ScoreEstimate",
    "Situation",
    "Splits",
    "Stage",
    "Usage",
    "Work",
    "by_parts",
    "calls_per_row",
    "check_parameters",
    "choose",
    "compare",
    "compare_evaluations",
    "configure_cache",
    "digest",
    "estimate",
    "estimate_set",
    "evaluate",
    "fewer_tokens",
    "find_optimizer",
    "input_fields",
    "less_time",
    "limit_demos",
    "mean_score",
    "measure",
    "optimize",
    "pareto_front",
    "plan",
    "planned",
    "preflight",
    "prepare",
    "read_dataset",
    "read_journal",
    "select_optimizer",
    "to_examples",
]
