"""The small base model that trials fine-tune: a llama of 48 thousand parameters, pretrained here on generated text.

Runs in the worker process only: importing this imports mlx.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.models import llama
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, evaluate, train

from dspy_toolkit.trials import TrialContext
from dspy_toolkit_lora.scenarios import corpus

__all__ = ["ARGUMENTS", "Fit", "checkpointing_undone", "fit", "fresh", "loss_on", "pretrained"]

ARGUMENTS = llama.ModelArgs(
    model_type="llama",
    hidden_size=48,
    num_hidden_layers=2,
    intermediate_size=96,
    num_attention_heads=2,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    vocab_size=len(corpus.ALPHABET),
)

_ITERS, _BATCH, _RATE = 500, 16, 6e-3
_SEED = 7

Weights = list[tuple[str, mx.array]]
Progress = Callable[[int, int], None]
"""Called with (finished iterations, all iterations)."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to train: `learning_rate` is a number or a schedule of `mlx.optimizers`."""

    learning_rate: object
    batch_size: int
    iters: int
    seed: int
    optimizer: Literal["adam", "adamw"] = "adam"
    grad_checkpoint: bool = False


def pretrained(context: TrialContext) -> Weights:
    """The base model's weights, trained once per machine (some ten seconds)."""
    return _load(context.prepared("base.safetensors", lambda path: _pretrain(path, context)))


@cache
def _load(path: Path) -> Weights:
    return list(mx.load(str(path)).items())  # type: ignore[union-attr]


def _pretrain(path: Path, context: TrialContext) -> None:
    model = fresh()
    rows = corpus.rows(corpus.base_language(), _ITERS * _BATCH, noise=0, seed="pretraining")
    how = Fit(learning_rate=optim.cosine_decay(_RATE, _ITERS), batch_size=_BATCH, iters=_ITERS, seed=_SEED)
    fit(model, rows, how, lambda finished, total: context.progress(finished, total, "pretraining"))
    mx.save_safetensors(str(path), dict(_flat(model)))


def fresh(weights: Weights | None = None) -> llama.Model:
    """A new model, with these weights or with random ones that follow from a fixed seed."""
    mx.random.seed(_SEED)
    model = llama.Model(ARGUMENTS)
    if weights is not None:
        model.load_weights(weights)
    mx.eval(model.parameters())
    return model


def fit(model: nn.Module, rows: Sequence[corpus.Row], how: Fit, progress: Progress | None = None) -> None:
    """Train what is not frozen with mlx-lm's own trainer."""
    mx.random.seed(how.seed)
    np.random.seed(how.seed)
    optimizer = {"adam": optim.Adam, "adamw": optim.AdamW}[how.optimizer]
    with tempfile.TemporaryDirectory() as folder, checkpointing_undone():
        arguments = TrainingArgs(
            batch_size=how.batch_size,
            iters=how.iters,
            max_seq_length=corpus.ROW_CHARACTERS,
            steps_per_report=max(1, how.iters // 20),
            steps_per_save=how.iters + 1,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
            grad_checkpoint=how.grad_checkpoint,
        )
        train(
            model=model,
            optimizer=optimizer(learning_rate=how.learning_rate),  # type: ignore[arg-type]
            train_dataset=_dataset(rows),
            args=arguments,
            training_callback=_Report(progress, how.iters),
        )


def loss_on(model: nn.Module, rows: Sequence[corpus.Row]) -> float:
    """Mean loss per character, in nats, over all rows."""
    length = corpus.ROW_CHARACTERS
    return float(evaluate(model, _dataset(rows), batch_size=len(rows), num_batches=1, max_seq_length=length))  # type: ignore[arg-type]


class _Report(TrainingCallback):
    def __init__(self, progress: Progress | None, total: int):
        self._progress = progress
        self._total = total

    def on_train_loss_report(self, train_info: dict) -> None:
        if self._progress:
            self._progress(train_info["iteration"], self._total)


@contextlib.contextmanager
def checkpointing_undone() -> Iterator[None]:
    """mlx-lm switches checkpointing on by replacing the block's `__call__` for good: restore it for the next run."""
    call = llama.TransformerBlock.__call__
    try:
        yield
    finally:
        llama.TransformerBlock.__call__ = call


def _dataset(rows: Sequence[corpus.Row]) -> list[tuple[corpus.Row, int]]:
    """Rows as mlx-lm's trainer takes them: tokens and where the part to learn begins."""
    return [(row, 0) for row in rows]


def _flat(model: nn.Module) -> Weights:
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())  # type: ignore[return-value]
