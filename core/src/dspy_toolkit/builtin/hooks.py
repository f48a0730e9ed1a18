"""The table of contents of the project `core`."""

from collections.abc import Iterable

from dspy_toolkit.hookspecs import hookimpl
from dspy_toolkit.types import MetricEntry, OptimizerEntry


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
        optimizer="dspy_toolkit.builtin.optimizers:bootstrap",
    )
