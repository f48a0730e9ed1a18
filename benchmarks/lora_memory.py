"""Predicted against measured peak memory of LoRA runs: the formula of `scenarios.memory` against mlx-lm itself.

    python benchmarks/lora_memory.py [--runs 20] [--seed 1000] [--compiled] [--json]

Draws random small llamas and LoRA configurations that the formula was not fitted to. `--compiled` trains as mlx-lm
does by default, which on a CPU needs a C++ compiler.
"""

import argparse
import json
import random

from dspy_toolkit.trials import run_trial
from dspy_toolkit_lora.config import TrainingPlan
from dspy_toolkit_lora.scenarios.architecture import Architecture
from dspy_toolkit_lora.scenarios.memory import peak_bytes
from dspy_toolkit_lora.trial.peak_memory import MemoryTrial, peak_memory


def draw(rng: random.Random, *, compiled: bool) -> MemoryTrial:
    heads, head_size = rng.choice([2, 4, 8]), rng.choice([16, 32])
    hidden = heads * head_size
    return MemoryTrial(
        architecture=Architecture(
            layers=rng.choice([2, 3, 4, 6, 8]),
            hidden=hidden,
            intermediate=rng.choice([1, 2, 3, 4]) * hidden,
            heads=heads,
            kv_heads=rng.choice([count for count in (1, 2, 4, 8) if heads % count == 0]),
            vocabulary=rng.choice([64, 256, 1024, 4096]),
            tied=rng.random() < 0.5,
            bits=32,
            activation_bytes=4,
        ),
        plan=TrainingPlan(
            rank=rng.choice([4, 8, 16, 32]),
            scale=10,
            learning_rate=0.001,
            batch_size=rng.choice([1, 2, 4, 8]),
            iters=10,
            grad_checkpoint=rng.random() < 0.5,
        ),
        sequence=rng.choice([32, 64, 128, 192]),
        compiled=compiled,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    runs = [draw(rng, compiled=arguments.compiled) for _ in range(arguments.runs)]
    rows = []
    for run in runs:
        measured = run_trial(peak_memory, run)
        shape, config = run.architecture, run.plan
        predicted = peak_bytes(shape, config, sequence=run.sequence, compiled=run.compiled)
        heads = f"heads {shape.heads}/{shape.kv_heads}"
        sizes = f"{shape.layers}x{shape.hidden}/{shape.intermediate} {heads} vocabulary {shape.vocabulary}"
        batch = f"batch {config.batch_size}x{run.sequence} rank {config.rank}{' checkpointed' * config.grad_checkpoint}"
        rows.append({"model": sizes, "run": batch, "predicted": predicted, "measured": measured})
    ratios = sorted(row["predicted"] / row["measured"] for row in rows)
    summary = {"lowest": ratios[0], "median": ratios[len(ratios) // 2], "highest": ratios[-1]}
    if arguments.json:
        print(json.dumps({"runs": rows, "predicted_over_measured": summary}, indent=1))
        return
    for row in rows:
        ratio = row["predicted"] / row["measured"]
        print(
            f"{row['model']:46} {row['run']:32} "
            f"{row['predicted'] / 1e6:8.2f} {row['measured'] / 1e6:8.2f} MB {ratio:6.3f}"
        )
    print("predicted / measured:", ", ".join(f"{name} {value:.3f}" for name, value in summary.items()))


if __name__ == "__main__":
    main()
