"""What many rows behind one prefix hold, against the least they could: the prefix once and each row's own tokens.

    python benchmarks/memory.py                      # 32 rows behind about 1,500 tokens of SmolLM2 135M
    python benchmarks/memory.py --rows 8 --sentences 20 --temperature 1 --json

`kv_peak_bytes` is the engine's own count of keys and values; `mlx peak` is what MLX had allocated at most beyond the
weights, so the work space of a step and the building of the prefix are in it. With a temperature there is noise for
every row and token of the vocabulary, too.
"""

import argparse
import json
import sys
from typing import Any

from dspy.lm15 import Config, Message, Request
from rich.console import Console
from rich.table import Table

import dspy_toolkit_mlx  # noqa: F401 - first: it puts a fast BLAS under MLX
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.models.resolve import load, resolve_model

INSTRUCTION = "Read the customer's message, say in one short sentence why it goes where it goes, then name the queue. "


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="mlx/smollm2-135m")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--sentences", type=int, default=65, help="of the instruction: 23 tokens each")
    parser.add_argument("--tokens", type=int, default=20, help="written by each row")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, the table on stderr")
    options = parser.parse_args()
    result = measure(options)
    table = Table(
        title=f"{options.rows} rows behind {result['prefix']:,} tokens, {result['own']:,} tokens of their own"
    )
    for column in ("", "bytes", "of the least"):
        table.add_column(column, justify="left" if not column else "right")
    for name in ("least", "kv_peak_bytes", "mlx peak", "copied to every row"):
        table.add_row(name, f"{result[name]:,}", f"{result[name] / result['least']:.3f}")
    Console(stderr=options.json).print(table)
    if options.json:
        json.dump({"options": vars(options), **result}, sys.stdout, indent=1)
        print()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import mlx.core as mx

    resolved = resolve_model(options.model)
    config = Config(max_tokens=options.tokens, temperature=options.temperature, seed=1)
    system = INSTRUCTION * options.sentences
    requests = [
        Request(model="m", messages=(Message.user(f"{row} parcels are missing."),), system=system, config=config)
        for row in range(options.rows)
    ]
    with MLXEngine(lambda: load(resolved), name=resolved.name, options=EngineOptions(max_rows=options.rows)) as engine:
        engine.start()
        weights = mx.get_active_memory()
        mx.reset_peak_memory()
        sequences = [ticket.future.result() for ticket in [engine.submit(request) for request in requests]]
        peak = mx.get_peak_memory() - weights
        stats = engine.stats()
        per_token, _ = engine._ready()._runner.footprint()
    prompts = [sequence.prompt for sequence in sequences]
    prefix = next(i for i, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
    own = sum(len(sequence.prompt) + len(sequence.tokens) - prefix for sequence in sequences)
    return {
        "prefix": prefix,
        "own": own,
        "least": (prefix + own) * per_token,
        "kv_peak_bytes": stats["kv_peak_bytes"],
        "mlx peak": peak,
        "copied to every row": (prefix * options.rows + own) * per_token,
    }


if __name__ == "__main__":
    main()
