"""Running a program over rows and scoring each: our own loop, linear, nothing executed twice."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.events import EventSink, Stage
from dspy_toolkit.optimize.scores import ScoreEstimate

__all__ = ["ErrorGroup", "Evaluation", "RowResult", "Usage", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a stretch of work asked of its LMs.

    `lm_calls` reached the engine, `cache_hits` did not, `failures` of the calls raised. Tokens are as the engine reports them.
    """

    lm_calls: int = 0
    cache_hits: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One row: `row` counts from 1; `score` is 0-100, 0 where `error` is set; `prediction` maps field to plain value."""

    row: int
    inputs: Mapping[str, Any]
    prediction: Mapping[str, Any]
    score: float
    feedback: str
    error: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ErrorGroup:
    """Rows that failed in the same way: the error's type, how many, and the first one's row and message."""

    type: str
    count: int
    row: int
    example: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results in row order, their mean with interval, and what went wrong. `to_dict()` is JSON-able."""

    results: tuple[RowResult, ...]
    score: ScoreEstimate
    errors: tuple[ErrorGroup, ...]
    usage: Usage
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError


def evaluate(
    program: dspy.Module,
    rows: Sequence[dspy.Example],
    metric: Metric,
    *,
    lm: Any,
    adapter: dspy.Adapter | None = None,
    num_threads: int = 1,
    on_event: EventSink | None = None,
    stop: threading.Event | None = None,
    stage: Stage = "evaluate",
    seed: int = 0,
) -> Evaluation:
    """Run `program` on every row and score it; rows whose program call fails count as 0 and are in the error table.

    Raises OptimizationError when every row fails (a dead LM is not a score of 0), OptimizationInterrupted on Ctrl-C or
    when `stop` is set (its `partial` is the Evaluation of the finished rows, or None), MetricError when the metric
    returns something that is no score.
    """
    raise NotImplementedError
