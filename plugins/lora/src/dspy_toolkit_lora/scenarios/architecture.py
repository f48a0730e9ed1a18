"""Shapes of the models people fine-tune: what memory depends on."""

from dataclasses import dataclass
from typing import Literal

from dspy_toolkit.errors import UnknownNameError

__all__ = ["ARCHITECTURES", "Architecture", "architecture"]

Bits = Literal[4, 8, 16, 32]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder of the llama family. Sizes are counts of numbers, as in a model's `config.json`.

    `bits` is how weights of linear and embedding layers are stored: 32, 16, or quantized in groups of `group_size`
    with a 16-bit scale and bias each (mlx-lm's affine quantization). `activation_bytes` is the width of activations.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int | None = None
    tied: bool = True
    bits: Bits = 16
    group_size: int = 64
    activation_bytes: int = 2
    mlx_model: str = ""
    """Where mlx-lm loads it from; empty for one that has no name on the hub."""
    base_model: str = ""
    """Where transformers and PEFT load it from."""

    @property
    def query_width(self) -> int:
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def key_width(self) -> int:
        return self.kv_heads * (self.head_size or self.hidden // self.heads)

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block."""
        return {
            "q_proj": (self.hidden, self.query_width),
            "k_proj": (self.hidden, self.key_width),
            "v_proj": (self.hidden, self.key_width),
            "o_proj": (self.query_width, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }


# The numbers are those of each model's published config.json.
ARCHITECTURES = {
    "SmolLM2-135M": Architecture(
        layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, vocabulary=49152,
        mlx_model="HuggingFaceTB/SmolLM2-135M-Instruct", base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "SmolLM2-360M": Architecture(
        layers=32, hidden=960, intermediate=2560, heads=15, kv_heads=5, vocabulary=49152,
        mlx_model="HuggingFaceTB/SmolLM2-360M-Instruct", base_model="HuggingFaceTB/SmolLM2-360M-Instruct",
    ),
    "Qwen2.5-0.5B": Architecture(
        layers=24, hidden=896, intermediate=4864, heads=14, kv_heads=2, vocabulary=151936,
        mlx_model="Qwen/Qwen2.5-0.5B-Instruct", base_model="Qwen/Qwen2.5-0.5B-Instruct",
    ),
    "Llama-3.2-1B-4bit": Architecture(
        layers=16, hidden=2048, intermediate=8192, heads=32, kv_heads=8, vocabulary=128256, bits=4,
        mlx_model="mlx-community/Llama-3.2-1B-Instruct-4bit", base_model="meta-llama/Llama-3.2-1B-Instruct",
    ),
    "SmolLM2-1.7B": Architecture(
        layers=24, hidden=2048, intermediate=8192, heads=32, kv_heads=32, vocabulary=49152,
        mlx_model="HuggingFaceTB/SmolLM2-1.7B-Instruct", base_model="HuggingFaceTB/SmolLM2-1.7B-Instruct",
    ),
    "Llama-3.2-3B-4bit": Architecture(
        layers=28, hidden=3072, intermediate=8192, heads=24, kv_heads=8, vocabulary=128256, bits=4,
        mlx_model="mlx-community/Llama-3.2-3B-Instruct-4bit", base_model="meta-llama/Llama-3.2-3B-Instruct",
    ),
    "Llama-3.1-8B-4bit": Architecture(
        layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=128256, tied=False, bits=4,
        mlx_model="mlx-community/Meta-Llama-3.1-8B-Instruct-4bit", base_model="meta-llama/Llama-3.1-8B-Instruct",
    ),
}  # fmt: skip


def architecture(name: str) -> Architecture:
    """The architecture called `name`. Raises UnknownNameError, closest first."""
    if name not in ARCHITECTURES:
        raise UnknownNameError("model architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]
