"""The trial `lora/peak_memory`: the peak memory of a real mlx-lm LoRA run, to check the formula of `memory` against."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from dspy_toolkit.trials import TrialContext, trial_kind
from dspy_toolkit_lora.config import TrainingPlan
from dspy_toolkit_lora.scenarios.architecture import Architecture
from dspy_toolkit_lora.trial.needs import INSTALL, PACKAGES

__all__ = ["MemoryTrial", "model_of", "peak_memory"]

_STEPS = 3
"""The second step is the first with Adam's moments in place."""


@dataclass(frozen=True, kw_only=True)
class MemoryTrial:
    """One run to measure. The architecture must be of 32 bits: random weights in float32 are what is trained.

    Compiling on a CPU needs a C++ compiler.
    """

    architecture: Architecture
    plan: TrainingPlan
    sequence: int
    compiled: bool = False


@trial_kind("lora", packages=PACKAGES, install=INSTALL)
def peak_memory(trial: MemoryTrial, context: TrialContext) -> int:
    """Peak bytes of a run on random weights and equal rows."""
    from dspy_toolkit.hardware import load_fast_blas

    load_fast_blas()  # before mlx is imported
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from dspy_toolkit_lora.trial.base import checkpointing_undone

    mx.set_default_device(mx.cpu)
    (mx.enable_compile if trial.compiled else mx.disable_compile)()
    plan = trial.plan
    mx.clear_cache()
    baseline = mx.get_active_memory()
    model = model_of(trial.architecture)
    model.freeze()
    layers = trial.architecture.layers if plan.num_layers == -1 else plan.num_layers
    linear_to_lora_layers(model, layers, plan.lora_parameters)
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    rows = [([1] * (trial.sequence + 1), 0)] * plan.batch_size
    with tempfile.TemporaryDirectory() as folder, checkpointing_undone():
        arguments = TrainingArgs(
            batch_size=plan.batch_size,
            iters=_STEPS,
            max_seq_length=trial.sequence + 1,
            grad_checkpoint=plan.grad_checkpoint,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        train(model=model, optimizer=optim.Adam(learning_rate=plan.learning_rate), train_dataset=rows, args=arguments)
    return mx.get_peak_memory() - baseline


def model_of(shape: Architecture):
    """An mlx-lm llama of this shape with random weights in float32."""
    from mlx_lm.models import llama

    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        rms_norm_eps=1e-5,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    return llama.Model(arguments)
