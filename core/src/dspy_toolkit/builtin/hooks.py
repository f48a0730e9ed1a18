"""The table of contents of the project `core`."""

from collections.abc import Iterable

from dspy_toolkit.hookspecs import hookimpl
from dspy_toolkit.types import MetricEntry, OptimizerEntry, SignatureEntry


@hookimpl
def toolkit_metrics() -> Iterable[MetricEntry]:
    yield MetricEntry(
        name="exact-match",
        summary="All labelled fields are equal, text after SQuAD's normalisation.",
        metric="dspy_toolkit.metrics.fields:exact_match",
    )
    yield MetricEntry(
        name="token-f1",
        summary="Words shared with the label, as SQuAD's F1, averaged over the labelled fields.",
        metric="dspy_toolkit.metrics.fields:token_f1",
    )
    yield MetricEntry(
        name="accuracy",
        summary="The share of labelled fields that are equal to their label as they stand.",
        metric="dspy_toolkit.metrics.fields:accuracy",
    )


@hookimpl
def toolkit_optimizers() -> Iterable[OptimizerEntry]:
    yield OptimizerEntry(
        name="bootstrap",
        summary="BootstrapFewShot: demonstrations the program made itself and the metric accepted.",
        optimizer="dspy_toolkit.builtin.bootstrap:bootstrap",
    )


@hookimpl
def toolkit_signatures() -> Iterable[SignatureEntry]:
    for name, summary in _SIGNATURES.items():
        yield SignatureEntry(name=name, summary=summary, signature=f"dspy_toolkit.signatures.templates:{name}")


_SIGNATURES = {
    "QASignature": "Answer a question.",
    "ContextQASignature": "Answer a question from passages, with sources.",
    "ClassificationSignature": "Choose one of the given labels for a text.",
    "ExtractionSignature": "Find the values of named fields in a text.",
    "SummarizationSignature": "Summarize a text in so many words.",
    "RankingSignature": "Order candidates by how well they serve a query.",
    "JudgingSignature": "Score an answer by criteria, with feedback.",
    "PairwiseJudgingSignature": "Decide which of two answers is better.",
    "OptimizationSignature": "Base of workflows that propose a change.",
    "TrainingSignature": "Base of workflows that plan a training run.",
    "EvaluationSignature": "Base of workflows that judge measurements.",
    "DeploymentSignature": "Base of workflows that bring an artifact into service.",
}
