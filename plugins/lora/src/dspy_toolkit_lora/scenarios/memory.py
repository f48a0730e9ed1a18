"""How much memory a LoRA run needs at its worst moment, by formula.

    bytes = weights + 2.5 x adapter + tokens x width x (saved + max(logits phase, layer phase))

tokens = batch x sequence. Letters below: D hidden, Q query width, K key width, F intermediate, H heads, S sequence,
R the ranks of a block's adapted layers added up, V vocabulary, L layers.

weights    Each linear and embedding weight in its stored width; quantized ones carry a 16-bit scale and a 16-bit bias
           per group (mlx.nn.QuantizedLinear). Norms in 16 or 32 bit. The adapter's `lora_a` (inputs x rank) and
           `lora_b` (rank x outputs) are created in float32 (mlx_lm.tuner.lora).
adapter    Two more of the adapter's size for Adam's moments m and v (mlx.optimizers.Adam). Gradients are used one by
           one during the backward pass; about half of them exist at the peak: 0.5, measured.
saved      What one block saves for its backward pass, in numbers per token (a "unit"):
               4 D  inputs and outputs of the two norms       2 Q  rotated queries, attention's output
               2 K  rotated keys, values                      H S  attention probabilities
               5 F  gate, up, sigmoid, activation, product    R    inputs of the `lora_b`s
           L units without gradient checkpointing. With it one input per block, L D, and a block's unit is computed
           again when the backward pass gets there (mx.checkpoint).
logits     4 V in float32: logits, exponentials, the loss's gradient, their product (mlx.nn.losses.cross_entropy);
           the final norm's 2 D; and the first number of `_OVERLAP` in units.
layer      The block being differentiated: the second number of `_OVERLAP` in units of values and gradients.

Overlap is memory that MLX has allocated ahead or not yet released. It was measured, not derived, on 192 real mlx-lm
runs of float32 llama models (2-8 layers, D 32-256, F 32-1024, V 64-4096, batch 1-8, S 32-192, rank 2-32) on a CPU.
Under `mx.compile`, which mlx-lm's trainer uses, about one more unit is alive. `benchmarks/lora_memory.py` repeats the
comparison, also on configurations that the formula was not fitted to.
"""

from dspy_toolkit_lora.config import LoRAConfig, TrainingPlan
from dspy_toolkit_lora.scenarios.architecture import Architecture

__all__ = ["adapter_parameters", "peak_bytes", "weight_bytes"]

_OVERLAP = {
    # (compiled, grad_checkpoint): units in flight during the logits phase, and during the layer phase
    (False, False): (0.4, 1.4),
    (False, True): (0.8, 2.2),
    (True, False): (1.25, 1.0),
    (True, True): (1.65, 2.65),
}


def peak_bytes(model: Architecture, config: LoRAConfig, *, sequence: int, compiled: bool = True) -> int:
    """Peak bytes of a LoRA training step on rows of `sequence` tokens; see this module's text for every term.

    `compiled` is whether the step runs under `mx.compile`, as mlx-lm's trainer does unless it is disabled.
    """
    plan = TrainingPlan.of(config)
    width = model.activation_bytes
    scores = model.heads * sequence
    ranks = config.rank * len(plan.target_modules)
    unit = 4 * model.hidden + 2 * model.query_width + 2 * model.key_width + 5 * model.intermediate + scores + ranks
    busy = unit + model.hidden + scores / 2
    overlap = _OVERLAP[compiled, config.grad_checkpoint]
    logits_phase = 4 * model.vocabulary * 4 + width * (2 * model.hidden + overlap[0] * busy)
    layer_phase = width * overlap[1] * busy
    saved = width * model.layers * (model.hidden if config.grad_checkpoint else unit)
    adapter = 4 * adapter_parameters(model, plan)
    activations = config.batch_size * sequence * (saved + max(logits_phase, layer_phase))
    return round(weight_bytes(model) + 3.5 * adapter + activations)


def adapter_parameters(model: Architecture, config: LoRAConfig) -> int:
    """How many numbers the adapter has: rank x (inputs + outputs) of every adapted layer."""
    plan = TrainingPlan.of(config)
    layers = model.layers if plan.num_layers == -1 else min(plan.num_layers, model.layers)
    shapes = model.linear_shapes
    return layers * sum(plan.rank * sum(shapes[name]) for name in plan.target_modules)


def weight_bytes(model: Architecture) -> int:
    """Bytes of the frozen weights."""
    block = sum(inputs * outputs for inputs, outputs in model.linear_shapes.values())
    matrices = model.layers * block + model.vocabulary * model.hidden * (1 if model.tied else 2)
    norms = (2 * model.layers + 1) * model.hidden
    if model.bits in (16, 32):
        return (matrices + norms) * model.bits // 8
    # a scale and a bias of 16 bit per group
    return round(matrices * (model.bits + 32 / model.group_size) / 8) + 2 * norms
