"""Metrics: fields compared with fields, a score from 0 to 1, and a sentence of feedback."""

from dspy_toolkit.metrics.fields import Accuracy, ExactMatch, TokenF1
from dspy_toolkit.metrics.metric import Metric, Score

__all__ = ["Accuracy", "ExactMatch", "Metric", "Score", "TokenF1"]
