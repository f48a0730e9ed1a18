"""Signature templates, their names, and what is wrong with a signature before a model finds out."""

from dspy_toolkit.signatures.fingerprints import fingerprint
from dspy_toolkit.signatures.registry import SignatureRegistry
from dspy_toolkit.signatures.templates import (
    ClassificationSignature,
    ContextQASignature,
    DeploymentSignature,
    EvaluationSignature,
    ExtractionSignature,
    JudgingSignature,
    OptimizationSignature,
    PairwiseJudgingSignature,
    QASignature,
    RankingSignature,
    SummarizationSignature,
    TrainingSignature,
    classification_into,
)
from dspy_toolkit.signatures.validation import Finding, Report, validate

__all__ = [
    "ClassificationSignature",
    "ContextQASignature",
    "DeploymentSignature",
    "EvaluationSignature",
    "ExtractionSignature",
    "Finding",
    "JudgingSignature",
    "OptimizationSignature",
    "PairwiseJudgingSignature",
    "QASignature",
    "RankingSignature",
    "Report",
    "SignatureRegistry",
    "SummarizationSignature",
    "TrainingSignature",
    "classification_into",
    "fingerprint",
    "validate",
]
