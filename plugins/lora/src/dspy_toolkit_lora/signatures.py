"""The typed signatures of the project `lora`."""

from typing import Literal

import dspy

from dspy_toolkit_lora.config import LoRAConfig, TrainingPlan

__all__ = [
    "LoRAComparisonSignature",
    "LoRADatasetAnalysisSignature",
    "LoRAMemorySignature",
    "LoRAOptimizationSignature",
    "LoRASearchSignature",
    "LoRATrainingSignature",
]


class LoRAOptimizationSignature(dspy.Signature):
    """Choose LoRA hyperparameters that reach the lowest validation loss within memory and steps."""

    model: str = dspy.InputField(desc="model to fine-tune")
    memory_gb: float = dspy.InputField(desc="free memory in GB")
    max_steps: int = dspy.InputField(desc="steps there is time for")
    rows: int = dspy.InputField(desc="training rows")
    row_tokens: int = dspy.InputField(desc="tokens per row")
    shift: float = dspy.InputField(desc="0: text like the model's own, 1: unlike it")
    noise: float = dspy.InputField(desc="share of wrong characters")
    config: LoRAConfig = dspy.OutputField(desc="hyperparameters")


class LoRATrainingSignature(dspy.Signature):
    """Write the whole plan of a LoRA run: hyperparameters, layers, adapted modules, schedule."""

    model: str = dspy.InputField(desc="model to fine-tune")
    dataset: str = dspy.InputField(desc="what the training rows are, how many, how long")
    goal: str = dspy.InputField(desc="what the tuned model should do better")
    memory_gb: float = dspy.InputField(desc="free memory in GB")
    max_steps: int = dspy.InputField(desc="steps there is time for")
    plan: TrainingPlan = dspy.OutputField(desc="everything a trainer needs to know")


class LoRAComparisonSignature(dspy.Signature):
    """Compare two LoRA runs on the same data and say which to keep."""

    goal: str = dspy.InputField(desc="what the tuned model is for")
    first: LoRAConfig = dspy.InputField(desc="configuration of the first run")
    first_losses: list[float] = dspy.InputField(desc="its validation losses, in order")
    second: LoRAConfig = dspy.InputField(desc="configuration of the second run")
    second_losses: list[float] = dspy.InputField(desc="its validation losses, in order")
    better: Literal["first", "second", "equal"] = dspy.OutputField(desc="the run to keep")
    reason: str = dspy.OutputField(desc="one sentence that names the losses it rests on")


class LoRASearchSignature(dspy.Signature):
    """Propose the next configuration to try from what has been tried."""

    situation: str = dspy.InputField(desc="model, memory, time and data")
    tried: list[LoRAConfig] = dspy.InputField(desc="configurations tried so far")
    losses: list[float] = dspy.InputField(desc="the validation loss of each")
    trials_left: int = dspy.InputField(desc="how many more can be tried")
    config: LoRAConfig = dspy.OutputField(desc="the configuration to try next")
    stop: bool = dspy.OutputField(desc="true if another trial is not worth its time")


class LoRAMemorySignature(dspy.Signature):
    """Make a LoRA configuration fit the memory while changing as little as possible."""

    model: str = dspy.InputField(desc="model to fine-tune")
    memory_gb: float = dspy.InputField(desc="free memory in GB")
    peak_gb: float = dspy.InputField(desc="memory the configuration needs, in GB")
    row_tokens: int = dspy.InputField(desc="tokens per row")
    current: LoRAConfig = dspy.InputField(desc="the configuration that does not fit")
    fitting: LoRAConfig = dspy.OutputField(desc="the configuration changed so that it fits")
    changed: Literal["batch_size", "grad_checkpoint", "rank", "several"] = dspy.OutputField(desc="what was changed")


class LoRADatasetAnalysisSignature(dspy.Signature):
    """Judge a fine-tuning data set from some of its rows."""

    samples: list[str] = dspy.InputField(desc="some rows of the data set")
    rows: int = dspy.InputField(desc="how many rows it has")
    language: str = dspy.OutputField(desc="language or kind of text")
    shift: float = dspy.OutputField(desc="0: text any language model knows, 1: unlike anything it has seen", ge=0, le=1)
    noise: float = dspy.OutputField(desc="share of characters that are wrong", ge=0, le=1)
    overfitting: Literal["low", "medium", "high"] = dspy.OutputField(desc="risk that a run learns rows by heart")
