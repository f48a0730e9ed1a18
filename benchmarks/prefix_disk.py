"""Time to the first token of a new process, with and without the prefixes that an earlier one kept on disk.

    python benchmarks/prefix_disk.py                 # SmolLM2 135M, a prefix of about 1,300 tokens
    python benchmarks/prefix_disk.py --json

Runs the same process four times: without the option; with it and nothing on disk, eight requests that share the prefix;
and twice with what that one left. The time is from the request to the first token, on a loaded model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from rich.console import Console
from rich.table import Table

INSTRUCTION = "Read the customer's message, say in one short sentence why it goes where it goes, then name the queue. "


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="mlx/smollm2-135m")
    parser.add_argument("--sentences", type=int, default=54, help="of the instruction: 24 tokens each, about")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, the table on stderr")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(options.model, options.sentences, json.loads(options.child))))
        return
    results = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, requests, disk in (
            ("off", 1, 0),
            ("cold", 8, 1 << 32),
            ("kept", 1, 1 << 32),
            ("kept again", 1, 1 << 32),
        ):
            task = {"requests": requests, "prefix_disk_bytes": disk, "cache": cache}
            command = [sys.executable, __file__, "--child", json.dumps(task), "--model", options.model]
            command += ["--sentences", str(options.sentences)]
            results[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    console = Console(stderr=options.json)
    table = Table(title=f"{options.model}: a prompt of {results['off']['prompt']} tokens")
    for column in ("process", "first token after", "prompt tokens computed", "read from disk", "bytes there"):
        table.add_column(column, justify="left" if column == "process" else "right")
    for name, result in results.items():
        table.add_row(
            name,
            f"{result['first_token']:.2f} s",
            f"{result['computed']:,}",
            str(result["read"]),
            f"{result['disk']:,}",
        )
    console.print(table)
    if options.json:
        json.dump(results, sys.stdout, indent=1)
        print()


def run(model: str, sentences: int, task: dict[str, Any]) -> dict[str, Any]:
    import os
    from pathlib import Path

    from dspy_toolkit_mlx.models.resolve import load, resolve_model

    resolved = resolve_model(model)  # first: what a GGUF file is converted to stays in the user's cache
    os.environ["DSPY_TOOLKIT_CACHE"] = task["cache"]
    from dspy.lm15 import Config, Message, Request

    from dspy_toolkit_mlx.engine.engine import MLXEngine
    from dspy_toolkit_mlx.engine.options import EngineOptions

    requests = [
        Request(
            model=model,
            messages=(Message.user(f"{name} has not received the parcel."),),
            system=INSTRUCTION * sentences,
            config=Config(max_tokens=1),
        )
        for name in ("Ann", "Bob", "Cleo", "Dan", "Eve", "Fay", "Gus", "Hal")[: task["requests"]]
    ]
    engine = MLXEngine(
        lambda: load(resolved), name=resolved.name, options=EngineOptions(prefix_disk_bytes=task["prefix_disk_bytes"])
    )
    with engine:
        engine.start()
        started = time.perf_counter()
        tickets = [engine.submit(request) for request in requests]
        prompt = len(tickets[0].future.result().prompt)
        first = time.perf_counter() - started
        for ticket in tickets:
            ticket.future.result()
    stats = engine.stats()
    files = Path(task["cache"]).rglob("*.safetensors")
    return {
        "prompt": prompt,
        "first_token": first,
        "computed": stats["prefill_computed"],
        "read": stats["prefixes_read"],
        "kept": stats["prefixes_kept"],
        "disk": sum(file.stat().st_size for file in files),
    }


if __name__ == "__main__":
    main()
