"""The formula against real runs of mlx-lm's trainer, and the directions in which it must move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit_lora.config import TrainingPlan
from dspy_toolkit_lora.scenarios.architecture import ARCHITECTURES, Architecture
from dspy_toolkit_lora.scenarios.memory import adapter_parameters, peak_bytes, weight_bytes
from dspy_toolkit_lora.trial.peak_memory import MemoryTrial, model_of, peak_memory


def shape(**changes):
    defaults = {"layers": 3, "hidden": 64, "intermediate": 192, "heads": 4, "kv_heads": 2, "vocabulary": 512}
    return Architecture(**{**defaults, "bits": 32, "activation_bytes": 4, **changes})


def plan(**changes):
    defaults = {"rank": 8, "scale": 10, "learning_rate": 0.001, "batch_size": 4, "iters": 10, "grad_checkpoint": False}
    return TrainingPlan(**{**defaults, **changes})


RUNS = [
    MemoryTrial(architecture=shape(), plan=plan(), sequence=96),
    MemoryTrial(architecture=shape(layers=6), plan=plan(grad_checkpoint=True), sequence=96),
    MemoryTrial(architecture=shape(vocabulary=4096), plan=plan(batch_size=2), sequence=64),
    MemoryTrial(architecture=shape(vocabulary=4096, tied=False), plan=plan(grad_checkpoint=True), sequence=64),
    MemoryTrial(
        architecture=shape(hidden=128, heads=8, kv_heads=8, intermediate=256), plan=plan(rank=32), sequence=128
    ),
    MemoryTrial(architecture=shape(kv_heads=1, intermediate=64), plan=plan(batch_size=8, rank=4), sequence=160),
]


def test_the_formula_agrees_with_real_runs(runner):
    predicted = [peak_bytes(run.architecture, run.plan, sequence=run.sequence, compiled=False) for run in RUNS]
    ratios = [formula / runner.run(peak_memory, run) for formula, run in zip(predicted, RUNS, strict=True)]
    assert min(ratios) > 0.9, ratios
    assert max(ratios) < 1.16, ratios


def test_weights_and_adapter_are_counted_exactly():
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    architecture = shape(layers=4, kv_heads=1, tied=False)
    training = plan(rank=5, num_layers=3, target_modules=("q_proj", "v_proj", "down_proj"))
    model = model_of(architecture)
    assert sum(array.nbytes for _, array in tree_flatten(model.parameters())) == weight_bytes(architecture)
    model.freeze()
    linear_to_lora_layers(model, 3, training.lora_parameters)
    mx.eval(model.parameters())
    trainable = sum(array.size for _, array in tree_flatten(model.trainable_parameters()))
    assert trainable == adapter_parameters(architecture, training)


def test_quantized_weights_are_counted_exactly():
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    model = model_of(shape())
    model.set_dtype(__import__("mlx.core").core.float16)
    nn.quantize(model, group_size=64, bits=4)
    counted = weight_bytes(shape(bits=4))
    assert sum(array.nbytes for _, array in tree_flatten(model.parameters())) == counted


@pytest.mark.parametrize("name", ARCHITECTURES)
@given(batch=st.integers(1, 15), rank=st.integers(4, 63), sequence=st.integers(8, 2000), grad_checkpoint=st.booleans())
def test_more_of_anything_needs_more(name, batch, rank, sequence, grad_checkpoint):
    model = ARCHITECTURES[name]

    def need(**changes):
        values = {
            "batch_size": batch,
            "rank": rank,
            "sequence": sequence,
            "grad_checkpoint": grad_checkpoint,
            **changes,
        }
        length = values.pop("sequence")
        return peak_bytes(model, plan(**values), sequence=length)

    assert need() < need(batch_size=batch + 1)
    assert need() < need(rank=rank + 1)
    assert need() < need(sequence=sequence + 1)
    assert need(grad_checkpoint=True) < need(grad_checkpoint=False)
