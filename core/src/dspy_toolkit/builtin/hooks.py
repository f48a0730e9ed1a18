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
    yield MetricEntry(
        name="numeric",
        summary="The share of labelled numbers that are met within 1 %.",
        metric="dspy_toolkit.metrics.numeric:numeric",
    )
    yield MetricEntry(
        name="set-f1",
        summary="F1 of the things listed against the labelled ones, in any order, averaged over the fields.",
        metric="dspy_toolkit.metrics.overlap:set_f1",
    )
    yield MetricEntry(
        name="rouge-l",
        summary="ROUGE-L: the longest common subsequence of words with the label, averaged over the labelled fields.",
        metric="dspy_toolkit.metrics.rouge:rouge_l",
    )
    yield MetricEntry(
        name="macro-f1",
        summary="F1 of the one labelled field over the whole set, each label counting the same (scikit-learn's).",
        metric="dspy_toolkit.metrics.labels:macro_f1",
    )
    yield MetricEntry(
        name="weighted-f1",
        summary="F1 of the one labelled field over the whole set, labels counting by their rows (scikit-learn's).",
        metric="dspy_toolkit.metrics.labels:weighted_f1",
    )


@hookimpl
def toolkit_optimizers() -> Iterable[OptimizerEntry]:
    for name, summary in _OPTIMIZERS.items():
        class_name = name.title().replace("-", "")
        optimizer = f"dspy_toolkit.builtin.{name.replace('-', '_')}:{class_name}"
        yield OptimizerEntry(name=name, summary=summary, optimizer=optimizer)


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

_OPTIMIZERS = {
    "bootstrap": "BootstrapFewShot: demonstrations the program made itself and the metric accepted.",
    "random-search": "BootstrapFewShotWithRandomSearch: the best of several sets of them.",
    "mipro": "MIPROv2: the best combination of proposed instructions and demonstrations.",
    "gepa": "GEPA: instructions rewritten from the metric's feedback.",
    "simba": "SIMBA: demonstrations and rules from rows where attempts differ.",
    "copro": "COPRO: instructions proposed from the scores of earlier ones.",
    "knn": "KNNFewShot: each call is shown the demonstrations most like it.",
    "labeled": "LabeledFewShot: training rows as they are; no LM calls.",
    "ensemble": "Ensemble: the best of several bootstrapped programs vote.",
    "better-together": "BetterTogether: optimizers one after the other.",
}
