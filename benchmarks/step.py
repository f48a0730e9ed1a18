"""What a step of the engine costs beside the model's own arithmetic, part by part.

    python benchmarks/step.py                        # 32 rows, a tiny random model, SmolLM2's vocabulary of 49,152
    python benchmarks/step.py --width 8 --layers 30 --json
    python benchmarks/step.py --profile grammar      # cProfile of the engine's thread in that case

Four cases: greedy, and sampled with seeds, each without a grammar and with a chat format as grammar. Only steps in
which all rows run are counted; a figure is the median over them. They are processor time of the engine's thread, so
neighbours on the machine do not count, nor does waiting: `handover` is what it costs to give MLX the graph, `all` the
sum of the parts, `ours` the sum without `graph` and `handover`, which are the model's call, and `step` the whole on the
clock, the device's work included. `masks` run while the device computes.

`mlx-lm` is `all` for a bare loop around the same model: as many rows in one of mlx-lm's caches, tokens chosen by
argmax or `mx.random.categorical`. That is what a step costs without an engine. It is measured before and after each
case, the lower median counts, and `overhead` is what ours takes more. What the engine computes itself where MLX's CPU
backend is slow (`host.py`) is left to MLX here, as on a GPU.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from dspy.lm15 import Config, Message, Request
from rich.console import Console
from rich.table import Table

import dspy_toolkit_mlx  # noqa: F401 - first: it puts a fast BLAS under MLX
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.models.resolve import resolve_model
from dspy_toolkit_mlx.runners import cpu_kernels as host

PARTS = ("schedule", "graph", "handover", "masks", "sampling", "accept", "count", "read")
GRAMMAR = r"""
start: "[[ ## reasoning ## ]]\n" reasoning " ## label ## ]]\n" label "\n\n[[ ## completed ## ]]"
reasoning[suffix="\n\n[["]: /[^\s\[](.|\n)*/
label: "billing" | "delivery" | "technical" | "praise"
"""
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "grammar": {"temperature": 0.0, "extensions": {"metadata": {"grammar": {"lark": GRAMMAR, "markers": ["\n\n[["]}}}},
    "sampled": {"temperature": 0.8},
    "both": {"temperature": 0.8, "extensions": {"metadata": {"grammar": {"lark": GRAMMAR, "markers": ["\n\n[["]}}}},
}
OURS = ("schedule", "masks", "sampling", "accept", "count", "read")
"""What is no call of the model: Python, masks and waiting."""


def main() -> None:
    options = _options()
    results = {}
    for name in [options.profile] if options.profile else CASES:
        bare_before = bare(name, options)
        measured = results[name] = measure(name, options)
        measured["mlx-lm"] = min(bare_before, bare(name, options))
        measured["overhead"] = measured["all"] - measured["mlx-lm"]
    console = Console(stderr=options.json, width=max(140, Console().width))
    table = Table(title=f"{options.width} rows, {options.layers} layers, microseconds per step (median)")
    columns = (*PARTS, "ours", "all", "mlx-lm", "overhead", "step", "steps")
    for column in ("case", *columns):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, result in results.items():
        table.add_row(name, *(f"{result[column]:,.0f}" for column in columns))
    console.print(table)
    if options.json:
        json.dump({"options": vars(options), "microseconds": results}, sys.stdout, indent=1)
        print()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=150, help="written by each row")
    parser.add_argument("--profile", choices=CASES, help="profile one case with cProfile; its times are then too long")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, the table on stderr")
    return parser.parse_args()


def tiny_model(layers: int) -> tuple[Any, Any]:
    """A random llama with the tokenizer of SmolLM2."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import load_tokenizer

    tokenizer = load_tokenizer(resolve_model("mlx/smollm2-135m").checkpoint.path)
    mx.random.seed(0)
    args = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": layers, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
        "vocab_size": len(tokenizer),
    }  # fmt: skip
    model = Model(ModelArgs.from_dict(args))
    model.update(tree_map(lambda w: mx.random.normal(w.shape) * 0.15 + (w if w.ndim == 1 else 0), model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model, tokenizer


class Stopwatch:
    """Seconds of each part of each step, of the steps that `full` says are to be counted."""

    def __init__(self, full: Callable[[], bool]):
        self.steps: list[dict[str, float]] = []
        self._full = full
        self.walls: list[float] = []
        self._now = dict.fromkeys(PARTS, 0.0)

    def time(self, owner: Any, name: str, part: str, inner: str | None = None) -> None:
        """Count calls of a method to a part, but for what they spend in the part `inner`."""
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            apart = self._now[inner] if inner else 0.0
            started = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                spent = time.thread_time() - started
                self._now[part] += spent - ((self._now[inner] - apart) if inner else 0.0)

        setattr(owner, name, timed)

    def per_step(self, owner: Any, name: str) -> None:
        """A call of this method ends a step."""
        method = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            full = self._full()
            started = time.perf_counter()
            method(*args, **kwargs)
            if full:
                self.steps.append(self._now.copy())
                self.walls.append(time.perf_counter() - started)
            for part in PARTS:
                self._now[part] = 0.0

        setattr(owner, name, counted)


def measure(case: str, options: argparse.Namespace) -> dict[str, float]:
    host.enable = lambda: False
    profile = cProfile.Profile()
    with MLXEngine(lambda: tiny_model(options.layers), name="tiny") as engine:
        loop: Any = engine._ready()
        steady = [0]

        def full() -> bool:
            rows = [entry.sequence for entry in loop.scheduler.running]
            good = len(rows) == options.width and all(row.sampled > 2 for row in rows)
            if options.profile and good and not steady[0]:
                profile.enable()
            if options.profile and steady[0] and not good:
                profile.disable()
            steady[0] = good
            return good

        watch = Stopwatch(full)
        for name in ("_drain", "_drop_cancelled", "_admit", "_build"):
            watch.time(loop, name, "schedule")
        watch.time(loop._runner, "step", "graph")
        watch.time(loop, "_forward", "handover", inner="graph")
        watch.time(loop, "_masks", "masks")
        watch.time(loop._sampler, "pick", "sampling")
        watch.time(loop._sampler, "read", "read")
        watch.time(loop, "_accept", "accept")
        watch.time(loop, "_count", "count")
        watch.per_step(loop, "_step")
        for ticket in [engine.submit(request) for request in _requests(case, options)]:
            ticket.future.result()
    if options.profile:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(35)
    medians = {part: statistics.median(step[part] for step in watch.steps) * 1e6 for part in PARTS}
    return {
        **medians,
        "ours": statistics.median(sum(step[part] for part in OURS) for step in watch.steps) * 1e6,
        "all": statistics.median(sum(step.values()) for step in watch.steps) * 1e6,
        "step": statistics.median(watch.walls) * 1e6,
        "steps": len(watch.steps),
    }


def bare(case: str, options: argparse.Namespace) -> float:
    """Microseconds of processor time per step of a loop around mlx-lm's own call of the model."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    host.enable = lambda: False
    model, _ = tiny_model(options.layers)
    cache = make_prompt_cache(model)
    temperature = CASES[case]["temperature"]
    tokens, taken = [[7] * 320] * options.width, []
    for _ in range(options.tokens):
        started = time.thread_time()
        logits = model(mx.array(tokens), cache=cache)[:, -1].astype(mx.float32)
        chosen = mx.random.categorical(logits / temperature) if temperature else mx.argmax(logits, axis=-1)
        mx.async_eval(chosen)
        tokens = [[token] for token in chosen.tolist()]  # type: ignore[union-attr]
        taken.append(time.thread_time() - started)
    return statistics.median(taken[3:]) * 1e6


def _requests(case: str, options: argparse.Namespace) -> list[Request]:
    system = "Sort a customer's message into the queue that should answer it. " * 20
    return [
        Request(
            model="tiny",
            messages=(Message.user(f"Message number {row} of those that came today."),),
            system=system,
            config=Config(max_tokens=options.tokens, seed=1, **CASES[case]),
        )
        for row in range(options.width)
    ]


if __name__ == "__main__":
    main()
