"""The same DSPy program on the same model: our engine beside the ways there were before.

    python benchmarks/engine.py                      # all workloads and contenders, 64 calls each: long on a CPU
    python benchmarks/engine.py --calls 8 --workloads A
    python benchmarks/engine.py --contenders ours,batch --json
    python benchmarks/engine.py --contenders ours,llama --llama-server llama-server --llama-model smollm2-f32.gguf

Loading is not timed. Everyone gets the same number type (float32 on a CPU), BLAS, budget and prompts, and starts cold.
The table relates the prompt tokens that were computed to the least, which is the prefix that all prompts share once and
the rest of each prompt, and our decode steps to the fewest that these answers could have taken (`bounds.py`).
"""

import argparse
import json
import logging
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dspy
from bounds import prompt_bounds
from contenders import CONTENDERS
from job import Job, Outcome
from rich.console import Console
from rich.table import Table
from workloads import workloads

import dspy_toolkit_mlx  # noqa: F401 - first: it puts a fast BLAS under MLX
from dspy_toolkit_mlx.models.resolve import ResolvedModel, load, resolve_model


def main() -> None:
    options = _options()
    logging.getLogger("dspy").setLevel(logging.ERROR)  # it warns of every answer that reaches its budget
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    model = resolve_model(options.model)
    console = Console(stderr=options.json)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = _expanded(model, Path(scratch)) if "server" in options.contenders else model.checkpoint.path
        for workload in options.workloads:
            job = Job(
                workload=workload,
                model=model,
                directory=directory,
                calls=options.calls,
                threads=options.threads,
                demonstrations=options.demonstrations,
                max_tokens=options.max_tokens,
                llama_server=options.llama_server,
                llama_model=options.llama_model,
                llama_slots=options.llama_slots,
            )
            results.append(_run(job, options.contenders, console))
    report = {"model": model.name, "machine": _machine(), "options": _plain(options), "workloads": results}
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="mlx/smollm2-135m")
    parser.add_argument("--calls", "--examples", type=int, default=64, help="LM calls per workload")
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--demonstrations", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=90)
    parser.add_argument("--workloads", type=_several(workloads()), default=list(workloads().values()))
    parser.add_argument("--contenders", type=_several({name: name for name in CONTENDERS}), default=list(CONTENDERS))
    llama = parser.add_argument_group("llama.cpp")
    llama.add_argument("--llama-server", metavar="PATH", help="the program, or a Python that has xllamacpp installed")
    llama.add_argument("--llama-model", type=Path, metavar="GGUF", help="default: the file that ours is from, as it is")
    llama.add_argument("--llama-slots", type=int, metavar="N", help="calls at once; default: one for every thread")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, the tables on stderr")
    return parser.parse_args()


def _several(choices: dict[str, Any]) -> Any:
    def read(text: str) -> list[Any]:
        unknown = set(text.split(",")) - set(choices)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(choices)}")
        return [choices[name] for name in text.split(",")]

    return read


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    return {**plain, "workloads": [workload.name for workload in options.workloads]}


def _machine() -> dict[str, Any]:
    import os

    import mlx.core as mx

    info = mx.device_info()
    return {"device": info.get("device_name"), "cores": os.cpu_count(), "system": platform.platform()}


def _expanded(model: ResolvedModel, directory: Path) -> Path:
    """The weights as our engine computes with them, for a server that would otherwise keep them quantized."""
    import shutil
    import threading

    from mlx_lm.utils import save_model

    source = model.checkpoint.path
    if not model.float32:
        return source

    def write() -> None:
        save_model(directory, load(model)[0])

    # On a thread of its own, whose end gives the memory back.
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    for file in source.glob("*"):
        if file.suffix != ".safetensors" and file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, directory / file.name)
    config = {key: value for key, value in model.checkpoint.config.items() if not key.startswith("quantization")}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _run(job: Job, names: Sequence[str], console: Console) -> dict[str, Any]:
    bounds = prompt_bounds(job)
    outcomes: dict[str, Outcome] = {}
    for name in names:
        with console.status(f"{job.workload.name}: {name} ..."):
            outcome = CONTENDERS[name](job)
        if outcome is not None:
            outcomes[name] = outcome
            console.print(
                f"{job.workload.name} {name}: {outcome.seconds:.1f} s, {outcome.parsed}/{outcome.calls} parsed"
            )
    console.print(_table(job, bounds, outcomes))
    rows = {name: asdict(outcome) for name, outcome in outcomes.items()}
    return {"workload": job.workload.name, "bounds": bounds, "contenders": rows}


def _table(job: Job, bounds: dict[str, int], outcomes: dict[str, Outcome]) -> Table:
    first = outcomes.get("ours")
    table = Table(
        title=f"{job.workload.name}: {job.workload.summary}; {job.calls} calls, {job.threads} threads, "
        f"{bounds['common_prefix']} tokens in common"
    )
    for column in ("", "seconds", "ours is faster by", "parsed", "right", "prompt tokens computed", "written", "steps"):
        table.add_column(column, justify="left" if not column else "right")
    for name, outcome in outcomes.items():
        table.add_row(
            name,
            f"{outcome.seconds:.1f}",
            f"{outcome.seconds / first.seconds:.1f}x" if first else "",
            f"{outcome.parsed}/{outcome.calls}",
            f"{outcome.right}/{outcome.calls}",
            _computed(outcome, bounds),
            "" if outcome.output_tokens is None else f"{outcome.output_tokens:,}",
            _stepped(outcome),
        )
    return table


def _computed(outcome: Outcome, bounds: dict[str, int]) -> str:
    if outcome.prefill_computed is None:
        return ""
    ratio = outcome.prefill_computed / bounds["prefix_and_suffixes"]
    return f"{outcome.prefill_computed:,} ({ratio:.2f}x)"


def _stepped(outcome: Outcome) -> str:
    if outcome.steps is None:
        return ""
    if outcome.least_steps is None:
        return f"{outcome.steps:,}"
    return f"{outcome.steps:,} ({outcome.steps / outcome.least_steps:.2f}x of {outcome.least_steps:,})"


if __name__ == "__main__":
    main()
