"""The peak memory of real mlx-lm LoRA runs, to check the formula of `memory` against.

Runs in a process of its own, which it ends with: mlx-lm's checkpointing and MLX's compilation are switched for good.

    python -m dspy_toolkit_lora.trial.peak_memory \
        '[{"architecture": {...}, "config": {...}, "sequence": 64, "compiled": false}]'

prints the peaks in bytes as a JSON list. Compiling on a CPU needs a C++ compiler.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dspy_toolkit_lora.config import LoRAConfig, TrainingPlan
from dspy_toolkit_lora.scenarios.architecture import Architecture

__all__ = ["Run", "measure", "model_of"]

_STEPS = 3
"""The second step is the first with Adam's moments in place."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run to measure. The architecture must be of 32 bits: random weights in float32 are what is trained."""

    architecture: Architecture
    config: LoRAConfig
    sequence: int
    compiled: bool = False


def measure(runs: Sequence[Run]) -> list[int]:
    """Peak bytes of each run, from a process that runs them one after the other on random weights and equal rows."""
    documents = json.dumps(
        [{**asdict(run), "config": TrainingPlan.of(run.config).model_dump(mode="json")} for run in runs]
    )
    command = [sys.executable, "-m", "dspy_toolkit_lora.trial.peak_memory", documents]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _peak(run: Run) -> int:
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx_lm.models import llama
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers

    (mx.enable_compile if run.compiled else mx.disable_compile)()
    plan, call = TrainingPlan.of(run.config), llama.TransformerBlock.__call__
    before = mx.get_active_memory()
    model = model_of(run.architecture)
    model.freeze()
    layers = run.architecture.layers if plan.num_layers == -1 else plan.num_layers
    linear_to_lora_layers(model, layers, plan.lora_parameters)
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    rows = [([1] * (run.sequence + 1), 0)] * plan.batch_size
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArgs(
            batch_size=plan.batch_size,
            iters=_STEPS,
            max_seq_length=run.sequence + 1,
            grad_checkpoint=plan.grad_checkpoint,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        train(model=model, optimizer=optim.Adam(learning_rate=plan.learning_rate), train_dataset=rows, args=arguments)
    llama.TransformerBlock.__call__ = call
    return mx.get_peak_memory() - before


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


def main() -> None:
    from dspy_toolkit.hardware import load_fast_blas

    load_fast_blas()
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    peaks = []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for document in json.loads(sys.argv[1]):
            run = Run(
                architecture=Architecture(**document["architecture"]),
                config=TrainingPlan(**document["config"]),
                sequence=document["sequence"],
                compiled=document["compiled"],
            )
            peaks.append(_peak(run))
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
