"""The table of contents of the project `lora`."""

from collections.abc import Iterable

from dspy_toolkit import hookimpl
from dspy_toolkit.types import MetricEntry, SignatureEntry, TaskEntry

_SIGNATURES = {
    "LoRAOptimizationSignature": "Hyperparameters for a model, memory, time and data.",
    "LoRATrainingSignature": "The whole plan of a run: hyperparameters, layers, modules, schedule.",
    "LoRAComparisonSignature": "Which of two runs to keep.",
    "LoRASearchSignature": "The next configuration to try, from those tried.",
    "LoRAMemorySignature": "A configuration changed so that it fits the memory.",
    "LoRADatasetAnalysisSignature": "How far, how noisy and how small a data set is.",
}


@hookimpl
def toolkit_signatures() -> Iterable[SignatureEntry]:
    for name, summary in _SIGNATURES.items():
        yield SignatureEntry(name=name, summary=summary, signature=f"dspy_toolkit_lora.signatures:{name}")


@hookimpl
def toolkit_metrics() -> Iterable[MetricEntry]:
    yield MetricEntry(
        name="training",
        summary="Trains a small model by the proposal and compares its loss with a reference run's.",
        metric="dspy_toolkit_lora.metric.training:training",
        doctor="dspy_toolkit_lora.trial.needs:doctor",
    )
    yield MetricEntry(
        name="feasibility",
        summary="Is it valid, does it fit the memory and the time. Trains nothing.",
        metric="dspy_toolkit_lora.metric.training:feasibility",
    )


@hookimpl
def toolkit_tasks() -> Iterable[TaskEntry]:
    yield TaskEntry(
        name="hyperparameters",
        summary="LoRA hyperparameters for a model, memory, time and data.",
        program="dspy_toolkit_lora.task:program",
        data="dspy_toolkit_lora.task:data",
        metric="training",
        optimizer="bootstrap",
        optimizer_params={
            "max_bootstrapped_demos": 2,
            "max_labeled_demos": 0,
            "max_rounds": 5,
            "metric_threshold": 0.5,
        },
        rows={"train": 12, "validation": 8, "test": 16},
        files="dspy_toolkit_lora.task:files",
    )
