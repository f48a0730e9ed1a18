"""The small base model that trials fine-tune: a llama of 48 thousand parameters, pretrained here on generated text.

Runs in the worker process only: importing this imports mlx.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.models import llama
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, evaluate, train

from dspy_toolkit_lora.scenarios import corpus

__all__ = ["ARGUMENTS", "fit", "fresh", "load_weights", "loss_on"]

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
"""Called with (iterations done, iterations in all)."""


def load_weights(path: Path, progress: Progress) -> Weights:
    """The pretrained weights, from `path` or pretrained now and written there, whole or not at all."""
    if path.exists():
        return list(mx.load(str(path)).items())  # type: ignore[union-attr]
    model = fresh()
    rows = corpus.rows(corpus.base_language(), _ITERS * _BATCH, noise=0, seed="pretraining")
    rate = optim.cosine_decay(_RATE, _ITERS)
    fit(model, rows, rate, batch_size=_BATCH, iters=_ITERS, seed=_SEED, progress=progress)
    weights = dict(_flat(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".safetensors", dir=path.parent)
    os.close(handle)
    mx.save_safetensors(temporary, weights)
    os.replace(temporary, path)
    return list(weights.items())


def fresh(weights: Weights | None = None) -> llama.Model:
    """A new model, with these weights or with random ones that follow from a fixed seed."""
    mx.random.seed(_SEED)
    model = llama.Model(ARGUMENTS)
    if weights is not None:
        model.load_weights(weights)
    mx.eval(model.parameters())
    return model


def fit(
    model: nn.Module,
    rows: Sequence[corpus.Row],
    learning_rate: object,
    *,
    batch_size: int,
    iters: int,
    seed: int,
    progress: Progress | None = None,
    optimizer: str = "adam",
    grad_checkpoint: bool = False,
) -> None:
    """Train what is not frozen with mlx-lm's own trainer. `learning_rate` is a number or a schedule."""
    mx.random.seed(seed)
    np.random.seed(seed)
    make = {"adam": optim.Adam, "adamw": optim.AdamW}[optimizer]
    with tempfile.TemporaryDirectory() as folder, _checkpointing_undone(grad_checkpoint):
        arguments = TrainingArgs(
            batch_size=batch_size,
            iters=iters,
            max_seq_length=corpus.ROW_CHARACTERS,
            steps_per_report=max(1, iters // 20),
            steps_per_save=iters + 1,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
            grad_checkpoint=grad_checkpoint,
        )
        train(
            model=model,
            optimizer=make(learning_rate=learning_rate),  # type: ignore[arg-type]
            train_dataset=_dataset(rows),
            args=arguments,
            training_callback=_Report(progress, iters),
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
def _checkpointing_undone(active: bool):
    """mlx-lm switches checkpointing on by replacing the block's `__call__` for good: put it back for the next run."""
    call = llama.TransformerBlock.__call__
    try:
        yield
    finally:
        if active:
            llama.TransformerBlock.__call__ = call


def _dataset(rows: Sequence[corpus.Row]) -> list[tuple[corpus.Row, int]]:
    """Rows as mlx-lm's trainer takes them: tokens and where the part to learn begins."""
    return [(row, 0) for row in rows]


def _flat(model: nn.Module) -> Weights:
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())  # type: ignore[return-value]
