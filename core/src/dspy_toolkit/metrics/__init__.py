"""Metrics: fields compared with fields, a score from 0 to 1, and a sentence of feedback."""

from dspy_toolkit.metrics.combine import lexicographic, product, threshold, weighted
from dspy_toolkit.metrics.cost import CallCost, Latency, TokenCost, cost_of
from dspy_toolkit.metrics.fields import Accuracy, ExactMatch, FieldMetric, TokenF1
from dspy_toolkit.metrics.judge import LLMJudge
from dspy_toolkit.metrics.labels import F1, LabelCounts, Precision, Recall, by_label
from dspy_toolkit.metrics.metric import Metric, Score
from dspy_toolkit.metrics.numeric import NumericTolerance
from dspy_toolkit.metrics.overlap import SetOverlap
from dspy_toolkit.metrics.rouge import RougeL
from dspy_toolkit.metrics.schema import SchemaValidity
from dspy_toolkit.metrics.set_metric import SetMetric

__all__ = [
    "F1",
    "Accuracy",
    "CallCost",
    "ExactMatch",
    "FieldMetric",
    "LLMJudge",
    "LabelCounts",
    "Latency",
    "Metric",
    "NumericTolerance",
    "Precision",
    "Recall",
    "RougeL",
    "SchemaValidity",
    "Score",
    "SetMetric",
    "SetOverlap",
    "TokenCost",
    "TokenF1",
    "by_label",
    "cost_of",
    "lexicographic",
    "product",
    "threshold",
    "weighted",
]
