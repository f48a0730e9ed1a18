"""The process that trains: `python -m dspy_toolkit_lora.trial.worker CACHE`, one JSON document per line on both pipes.

    in   {"id": 1, "plan": {...}, "text": {"shift": 0.5, "rows": 64, "noise": 0.1}}
    out  {"id": 1, "progress": [20, 400]}      while the base model is being pretrained, once per machine
    out  {"id": 1, "result": {...}}            a TrialResult
    out  {"id": 1, "error": "one line"}

Only the main thread touches MLX. The process ends when its input does, in the middle of a training too.
"""

import json
import math
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from dspy_toolkit.hardware import load_fast_blas

load_fast_blas()  # before mlx is imported

import mlx.core as mx  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402

from dspy_toolkit_lora.config import TrainingPlan  # noqa: E402
from dspy_toolkit_lora.scenarios import corpus  # noqa: E402
from dspy_toolkit_lora.trial import base  # noqa: E402
from dspy_toolkit_lora.trial.versions import code_digest  # noqa: E402

VALIDATION_ROWS = 64


def train(plan: TrainingPlan, text: dict[str, Any], weights: base.Weights) -> dict[str, Any]:
    """Fine-tune the base model by this plan on the scenario's text; losses in nats per character."""
    started = time.perf_counter()
    training, validation = texts(**text)
    model = base.fresh(weights)
    initial = base.loss_on(model, validation)
    model.freeze()
    mx.random.seed(plan.seed)
    depth = len(model.layers)
    layers = depth if plan.num_layers == -1 else min(plan.num_layers, depth)
    linear_to_lora_layers(model, layers, plan.lora_parameters, use_dora=plan.fine_tune_type == "dora")
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    base.fit(
        model,
        training,
        plan.learning_rate,
        batch_size=plan.batch_size,
        iters=plan.iters,
        seed=plan.seed,
        optimizer=plan.optimizer,
        grad_checkpoint=plan.grad_checkpoint,
    )
    peak = mx.get_peak_memory()
    final = base.loss_on(model, validation)
    return {
        "initial_loss": initial,
        "counting_loss": counting_loss(training, validation),
        "final_val_loss": final if math.isfinite(final) else None,
        "peak_bytes": peak,
        "seconds": time.perf_counter() - started,
        "tokens": plan.batch_size * plan.iters * (corpus.ROW_CHARACTERS - 1),
    }


def texts(*, shift: float, rows: int, noise: float) -> tuple[list[corpus.Row], list[corpus.Row]]:
    """Training rows, with the noise, and validation rows of the same language, without: what should be learned."""
    seed = f"{shift} {rows} {noise}"
    language = corpus.shifted_language(shift, seed)
    return (
        corpus.rows(language, rows, noise=noise, seed=f"training {seed}"),
        corpus.rows(language, VALIDATION_ROWS, noise=0, seed=f"validation {seed}"),
    )


def counting_loss(training: Sequence[corpus.Row], validation: Sequence[corpus.Row]) -> float:
    """Loss of knowing only how often each character occurs in the training rows (with one more of each)."""
    counts = Counter(token for row in training for token in row)
    total = sum(counts.values()) + len(corpus.ALPHABET)
    predicted = [token for row in validation for token in row[1:]]
    return -sum(math.log((counts[token] + 1) / total) for token in predicted) / len(predicted)


def main() -> None:
    """Answer requests until the input ends."""
    out = _private_output()
    mx.set_default_device(mx.cpu)  # a tiny model is fastest there, and the GPU stays free for the language model
    mx.disable_compile()  # on a CPU it needs a C++ compiler, which a fresh machine has not
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    weights: base.Weights | None = None
    while True:
        request = json.loads(requests.get())
        number = request["id"]

        def say(number: int = number, **what: Any) -> None:
            out.write(json.dumps({"id": number, **what}) + "\n")
            out.flush()

        try:
            if weights is None:
                path = Path(sys.argv[1]) / f"base-{code_digest()}.safetensors"
                weights = base.load_weights(path, lambda done, total: say(progress=[done, total]))
            say(result=train(TrainingPlan.model_validate(request["plan"]), request["text"], weights))
        except (
            ValueError,
            TypeError,
            KeyError,
            RuntimeError,
            OSError,
        ) as error:  # MLX raises RuntimeError and ValueError
            say(error=f"{type(error).__name__}: {error}")


def _private_output() -> TextIO:
    """The pipe to the parent, to which nothing else can print: mlx-lm's trainer shows its progress on stdout."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone, and the main thread may be in the middle of a training


if __name__ == "__main__":
    main()
