"""Measuring a program by name, and comparing two: what `dspy-toolkit evaluate` and `compare` print."""

from dspy_toolkit.evaluation.noise import Noise
from dspy_toolkit.evaluation.program_comparison import Change, ProgramComparison
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.evaluation.rows import EvaluationRows
from dspy_toolkit.evaluation.several import evaluate_several
from dspy_toolkit.evaluation.target import Target

__all__ = [
    "Change",
    "EvaluationRows",
    "Noise",
    "ProgramComparison",
    "ProgramEvaluation",
    "Target",
    "evaluate_several",
]
