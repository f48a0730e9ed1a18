"""The task `lora/hyperparameters`: propose a configuration for a scenario."""

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_toolkit.types import TaskData
from dspy_toolkit_lora.config import LoRAConfig, TrainingPlan
from dspy_toolkit_lora.scenarios.scenario import Scenario, splits
from dspy_toolkit_lora.signatures import LoRAOptimizationSignature
from dspy_toolkit_lora.writers.files import mlx_lm_yaml, peft_adapter_config

__all__ = ["data", "files", "program"]


def program() -> dspy.Module:
    """A plain predictor: reasoning leads small models away from a good demonstration."""
    return dspy.Predict(LoRAOptimizationSignature)


def data() -> TaskData:
    """The scenarios as rows. They carry no label: the metric runs the proposal."""
    return TaskData(**{name: tuple(scenario.row for scenario in split) for name, split in splits().items()})


def files(inputs: Mapping[str, Any], prediction: dspy.Prediction) -> Mapping[str, str]:
    """`lora.yaml` for mlx-lm and `adapter_config.json` for PEFT."""
    scenario = Scenario.of(inputs)
    config = LoRAConfig.model_validate(prediction.config, from_attributes=True)
    plan = TrainingPlan.of(config, max_seq_length=scenario.row_tokens)
    model = scenario.architecture
    return {
        "lora.yaml": mlx_lm_yaml(plan, model=model.mlx_model),
        "adapter_config.json": peft_adapter_config(plan, base_model=model.base_model, layers=model.layers),
    }
