"""The trial `lora/training`: fine-tune the small base model by a plan, on text generated for a scenario."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from dspy_toolkit.trials import TrialContext, run_trial, trial_kind
from dspy_toolkit_lora.config import LoRAConfig, TrainingPlan
from dspy_toolkit_lora.scenarios import corpus
from dspy_toolkit_lora.scenarios.scenario import Scenario
from dspy_toolkit_lora.trial.needs import INSTALL, PACKAGES

__all__ = ["TrainingResult", "TrainingTrial", "train", "training"]

_VALIDATION_ROWS = 64


class TrainingTrial(BaseModel):
    """The plan to train by, and what its text is generated from: see `Scenario`."""

    model_config = ConfigDict(frozen=True)

    plan: TrainingPlan
    shift: float
    rows: int
    noise: float

    @classmethod
    def of(cls, config: LoRAConfig, scenario: Scenario) -> "TrainingTrial":
        return cls(plan=TrainingPlan.of(config), shift=scenario.shift, rows=scenario.rows, noise=scenario.noise)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training reached. Losses are nats per character on the scenario's validation text.

    `initial_loss` is the base model's, `counting_loss` that of knowing only character frequencies, `final_val_loss` the
    tuned model's (None if training diverged to no number). `seconds` is what the training took when it ran.
    """

    initial_loss: float
    counting_loss: float
    final_val_loss: float | None
    peak_bytes: int
    seconds: float
    tokens: int

    @property
    def untrained_loss(self) -> float:
        """What a trial has to beat: the better of the base model and counting characters."""
        return min(self.initial_loss, self.counting_loss)


def train(config: LoRAConfig, scenario: Scenario) -> TrainingResult:
    """Train by `config` on the scenario's text, or return the stored result. Raises as `run_trial` does."""
    return run_trial(training, TrainingTrial.of(config, scenario))


@trial_kind("lora", packages=PACKAGES, install=INSTALL)
def training(trial: TrainingTrial, context: TrialContext) -> TrainingResult:
    from dspy_toolkit.hardware import load_fast_blas

    load_fast_blas()  # before mlx is imported
    import mlx.core as mx
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from dspy_toolkit_lora.trial import base

    mx.set_default_device(mx.cpu)  # a tiny model is fastest there, and the GPU stays free for the language model
    mx.disable_compile()  # on a CPU it needs a C++ compiler, which a fresh machine has not
    weights = base.pretrained(context)
    started = time.perf_counter()
    plan = trial.plan
    training_rows, validation_rows = texts(trial)
    model = base.fresh(weights)
    initial = base.loss_on(model, validation_rows)
    model.freeze()
    mx.random.seed(plan.seed)
    depth = len(model.layers)
    layers = depth if plan.num_layers == -1 else min(plan.num_layers, depth)
    linear_to_lora_layers(model, layers, plan.lora_parameters, use_dora=plan.fine_tune_type == "dora")
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    base.fit(
        model,
        training_rows,
        base.Fit(
            learning_rate=plan.learning_rate,
            batch_size=plan.batch_size,
            iters=plan.iters,
            seed=plan.seed,
            optimizer=plan.optimizer,
            grad_checkpoint=plan.grad_checkpoint,
        ),
    )
    peak = mx.get_peak_memory()
    final = base.loss_on(model, validation_rows)
    return TrainingResult(
        initial_loss=initial,
        counting_loss=counting_loss(training_rows, validation_rows),
        final_val_loss=final if math.isfinite(final) else None,
        peak_bytes=peak,
        seconds=time.perf_counter() - started,
        tokens=plan.batch_size * plan.iters * (corpus.ROW_CHARACTERS - 1),
    )


def texts(trial: TrainingTrial) -> tuple[list[corpus.Row], list[corpus.Row]]:
    """Training rows, with the noise, and validation rows of the same language, without: what should be learned."""
    seed = f"{trial.shift} {trial.rows} {trial.noise}"
    language = corpus.shifted_language(trial.shift, seed)
    return (
        corpus.rows(language, trial.rows, noise=trial.noise, seed=f"training {seed}"),
        corpus.rows(language, _VALIDATION_ROWS, noise=0, seed=f"validation {seed}"),
    )


def counting_loss(training_rows: Sequence[corpus.Row], validation_rows: Sequence[corpus.Row]) -> float:
    """Loss of knowing only how often each character occurs in the training rows (with one more of each)."""
    counts = Counter(token for row in training_rows for token in row)
    total = sum(counts.values()) + len(corpus.ALPHABET)
    predicted = [token for row in validation_rows for token in row[1:]]
    return -sum(math.log((counts[token] + 1) / total) for token in predicted) / len(predicted)
