"""Fine-tuning scenarios: which model, how much memory, how much time, what data. The rows of `lora/hyperparameters`.

A scenario holds what is known ahead of a LoRA run. Model, memory and tokens per row decide by formula what fits;
rows, shift and noise decide what text the trial trains on; the steps say when it has to stop.
"""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

from dspy_toolkit.errors import DataError, UnknownNameError
from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.scenarios.architecture import ARCHITECTURES, Architecture, architecture
from dspy_toolkit_lora.scenarios.memory import peak_bytes

__all__ = ["GIGABYTE", "Scenario", "splits"]

GIGABYTE = 10**9
CHECKPOINT_STEP = 4 / 3
"""Time of a step with gradient checkpointing: one more forward pass beside one forward and a backward of two."""

SIZES = {"train": 24, "validation": 12, "test": 24}
_SEED = 2026


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One scenario. Field names are the input fields of LoRAOptimizationSignature; see there for what they mean."""

    model: str
    memory_gb: float
    max_steps: int
    rows: int
    row_tokens: int
    shift: float
    noise: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Scenario":
        """The scenario in a row, which may have other fields too. Raises DataError with the field."""
        values = {}
        for field in fields(cls):
            value = row.get(field.name)
            kind = {"model": str, "memory_gb": float, "shift": float, "noise": float}.get(field.name, int)
            try:
                values[field.name] = kind(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise DataError(
                    f"A LoRA scenario has {field.name}={value!r}; expected {kind.__name__}, as in {EXAMPLE}."
                ) from None
        scenario = cls(**values)
        scenario._check()
        return scenario

    def _check(self) -> None:
        try:
            architecture(self.model)
        except UnknownNameError as error:
            raise DataError(f"A LoRA scenario cannot be used. {error}") from None
        limits = {"memory_gb": (0.01, 10_000), "max_steps": (14, 500), "rows": (1, 4096), "row_tokens": (8, 131072),
                  "shift": (0, 1), "noise": (0, 1)}  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise DataError(f"A LoRA scenario has {name}={getattr(self, name)}; expected {low} to {high}.")

    @property
    def architecture(self) -> Architecture:
        return architecture(self.model)

    @property
    def memory_bytes(self) -> float:
        return self.memory_gb * GIGABYTE

    def peak_bytes(self, config: LoRAConfig) -> int:
        """Memory the proposal needs on the described model, by formula."""
        return peak_bytes(self.architecture, config, sequence=self.row_tokens)

    def fits(self, config: LoRAConfig) -> bool:
        return self.peak_bytes(config) <= self.memory_bytes

    def affordable_steps(self, config: LoRAConfig) -> int:
        """Steps the time allows: `max_steps`, fewer with gradient checkpointing, where each takes longer."""
        return max(1, int(self.max_steps / CHECKPOINT_STEP)) if config.grad_checkpoint else self.max_steps

    @property
    def row(self) -> dict[str, Any]:
        return asdict(self)


EXAMPLE = json.dumps(
    {
        "model": "SmolLM2-360M",
        "memory_gb": 8.0,
        "max_steps": 60,
        "rows": 128,
        "row_tokens": 512,
        "shift": 0.5,
        "noise": 0.0,
    }
)


@cache
def splits() -> dict[str, tuple[Scenario, ...]]:
    """The task's scenarios, three disjoint sets drawn from one distribution. Always the same ones."""
    scenarios = _draw(random.Random(_SEED))
    drawn: dict[Scenario, None] = {}
    while len(drawn) < sum(SIZES.values()):
        drawn[next(scenarios)] = None
    everything = iter(drawn)
    return {name: tuple(next(everything) for _ in range(size)) for name, size in SIZES.items()}


def _draw(rng: random.Random) -> Iterator[Scenario]:
    """An endless draw. The memory is what some batch needs, so that what fits differs from row to row."""
    while True:
        name, row_tokens = rng.choice(list(ARCHITECTURES)), rng.choice([256, 512, 1024])
        few = rng.random() < 0.35
        fits = LoRAConfig(
            rank=16,
            scale=10,
            learning_rate=0.001,
            iters=10,
            batch_size=rng.choice([2, 4, 8, 12, 16]),
            grad_checkpoint=rng.random() < 0.3,
        )
        need = peak_bytes(ARCHITECTURES[name], fits, sequence=row_tokens) / GIGABYTE
        yield Scenario(
            model=name,
            memory_gb=round(need * rng.uniform(1.05, 1.3), 1),
            max_steps=rng.choice([48, 64, 96, 128] if few else [16, 24, 32, 48, 64, 96, 128]),
            rows=rng.choice([16, 24]) if few else rng.choice([128, 256, 512]),
            row_tokens=row_tokens,
            shift=rng.choice([0.5, 0.75] if few else [0.25, 0.5, 0.75]),
            noise=0.2 if few else rng.choice([0.0, 0.0, 0.1]),
        )
