"""Configurations as the files that trainers load: mlx-lm's YAML and PEFT's adapter_config.json."""

import json
from typing import Any

import yaml

from dspy_toolkit_lora.config import LoRAConfig, TrainingPlan

__all__ = ["mlx_lm_yaml", "peft_adapter_config"]


def mlx_lm_yaml(config: LoRAConfig, *, model: str, data: str = "data", adapter_path: str = "adapters") -> str:
    """A file for `mlx_lm.lora --config`.

    `model` is a folder or hub name, `data` a folder with `train.jsonl` and `valid.jsonl`. Options that are left
    out have mlx-lm's defaults.
    """
    plan = TrainingPlan.of(config)
    document: dict[str, Any] = {
        "model": model,
        "train": True,
        "data": data,
        "adapter_path": adapter_path,
        "fine_tune_type": plan.fine_tune_type,
        "optimizer": plan.optimizer,
        "num_layers": plan.num_layers,
        "lora_parameters": plan.lora_parameters,
        "learning_rate": plan.learning_rate,
        "batch_size": plan.batch_size,
        "iters": plan.iters,
        "max_seq_length": plan.max_seq_length,
        "grad_checkpoint": plan.grad_checkpoint,
        "seed": plan.seed,
        "steps_per_report": max(1, plan.iters // 10),
        "steps_per_eval": max(1, plan.iters // 4),
    }
    if plan.warmup:
        # constant after the warm-up: mlx-lm looks the name up in mlx.optimizers.schedulers, which has no constant one
        arguments = [plan.learning_rate, plan.learning_rate, plan.iters]
        document["lr_schedule"] = {"name": "linear_schedule", "warmup": plan.warmup, "arguments": arguments}
    return yaml.safe_dump(document, sort_keys=False)


def peft_adapter_config(config: LoRAConfig, *, base_model: str, layers: int | None = None) -> str:
    """PEFT's `adapter_config.json`, which `peft.LoraConfig.from_pretrained` reads.

    `layers` is the model's number of blocks, needed only for a plan that adapts some of them. Raises ValueError if it
    is needed and missing, or smaller than the number the plan adapts.
    """
    plan = TrainingPlan.of(config)
    document: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": plan.rank,
        "lora_alpha": plan.alpha,
        "lora_dropout": plan.dropout,
        "target_modules": list(plan.target_modules),
        "use_dora": plan.fine_tune_type == "dora",
        "bias": "none",
        "inference_mode": False,
    }
    if plan.num_layers != -1:
        if layers is None or layers < plan.num_layers:
            have = "the model's number of layers is not known" if layers is None else f"the model has {layers}"
            raise ValueError(f"The plan adapts the last {plan.num_layers} layers, and {have}; give `layers`.")
        document["layers_to_transform"] = list(range(layers - plan.num_layers, layers))
    return json.dumps(document, indent=2) + "\n"
