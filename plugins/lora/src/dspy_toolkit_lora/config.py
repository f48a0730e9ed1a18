"""The configuration of a LoRA run: the few numbers worth proposing, and the whole plan with its defaults."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ATTENTION", "LINEAR", "LoRAConfig", "TrainingPlan"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
"""The linear layers of a llama-like block, which mlx-lm adapts unless it gets keys."""


def _terse(schema: dict[str, Any]) -> None:
    """Remove titles and descriptions from the schema: adapters put it into every prompt, a third of it titles."""
    schema.pop("description", None)
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)


class LoRAConfig(BaseModel):
    """The hyperparameters that decide how a LoRA run goes. All are needed, so a proposal is short and complete.

    `scale` multiplies the low-rank update, as in mlx-lm; PEFT's `lora_alpha` is `scale * rank`. The bounds are
    those of practice: a small language model that reads "minimum: 1" in the schema answers 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_terse)

    rank: int = Field(ge=4, le=64)
    scale: float = Field(ge=2, le=20)
    learning_rate: float = Field(ge=0.0001, le=0.01)
    batch_size: int = Field(ge=1, le=16)
    iters: int = Field(ge=10, le=500)
    grad_checkpoint: bool

    @property
    def alpha(self) -> float:
        """PEFT's `lora_alpha`."""
        return self.scale * self.rank


class TrainingPlan(LoRAConfig):
    """A LoRAConfig with everything else that a trainer needs. The defaults are mlx-lm's where it has one.

    `num_layers` counts from the last layer; -1 is all. `target_modules` are names of linear layers in a block.
    """

    dropout: float = Field(0.0, ge=0, le=0.5, description="share of the adapter's input dropped while training")
    num_layers: int = Field(-1, ge=-1, le=200, description="how many of the last layers to adapt; -1 for all")
    target_modules: tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...] = (
        Field(LINEAR, min_length=1, description="linear layers of a block to adapt")
    )
    fine_tune_type: Literal["lora", "dora"] = Field("lora", description="lora, or dora: direction and magnitude apart")
    max_seq_length: int = Field(2048, ge=8, le=131072, description="tokens a row is cut to")
    optimizer: Literal["adam", "adamw"] = Field("adam", description="optimizer")
    warmup: int = Field(0, ge=0, le=1000, description="steps the learning rate takes to rise from zero")
    seed: int = Field(0, ge=0, description="seed of the adapter's initial weights and the order of rows")

    @property
    def lora_parameters(self) -> dict[str, object]:
        """mlx-lm's `lora_parameters`."""
        keys = [f"self_attn.{name}" if name in ATTENTION else f"mlp.{name}" for name in self.target_modules]
        return {"rank": self.rank, "scale": self.scale, "dropout": self.dropout, "keys": keys}

    @classmethod
    def of(cls, config: LoRAConfig, **rest: object) -> "TrainingPlan":
        """The plan for a proposal, with `rest` for the fields that a LoRAConfig lacks; changes `rest` in a plan."""
        return cls.model_validate({**config.model_dump(), **rest})
