"""The official JSON Schema test suite against the engine's `response_format`, with a model of random weights.

    pip download --no-deps --no-binary :all: jsonschema==4.26.0     # its source distribution carries the suite
    python benchmarks/json_schemas.py jsonschema-4.26.0.tar.gz
    python benchmarks/json_schemas.py jsonschema-4.26.0.tar.gz --draft draft7 --json

Each schema is either refused before any token, with its reason, or what the model writes under it is validated with
`jsonschema`. A random model writes anything that the grammar lets it, so what is invalid shows where the grammar is
weaker than the schema. Schemas that are no objects (`true`) cannot be asked for and are left out.
"""

import argparse
import json
import sys
import tarfile
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import jsonschema
from dspy.lm15 import Config, InvalidRequestError, Message, Request
from rich.console import Console
from rich.table import Table
from step import tiny_model

from dspy_toolkit_mlx.engine.engine import MLXEngine

DRAFTS: dict[str, Any] = {
    "draft7": jsonschema.Draft7Validator,
    "draft2019-09": jsonschema.Draft201909Validator,
    "draft2020-12": jsonschema.Draft202012Validator,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suite", help="the source distribution of jsonschema, a .tar.gz")
    parser.add_argument("--draft", default="draft2020-12", choices=DRAFTS)
    parser.add_argument("--seeds", type=int, default=2, help="answers per schema")
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, the table on stderr")
    options = parser.parse_args()
    results = run(read(options.suite, options.draft), options)
    console = Console(stderr=options.json)
    table = Table(title=f"{options.draft}: {len(results)} schemas")
    for column in ("file", "valid", "refused", "invalid", "no JSON"):
        table.add_column(column, justify="left" if column == "file" else "right")
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(result["file"], Counter())[result["outcome"]] += 1
    total = sum(counts.values(), Counter())
    for name, count in [*sorted(counts.items()), ("all", total)]:
        table.add_row(name, *(str(count[kind] or "") for kind in ("valid", "refused", "invalid", "no JSON")))
    console.print(table)
    for result in results:
        if result["outcome"] in ("invalid", "no JSON"):
            console.print(
                result["outcome"], json.dumps(result["schema"])[:200], "->", result["text"][:100], markup=False
            )
    if options.json:
        json.dump({"counts": total, "results": results}, sys.stdout, indent=1)
        print()


def read(suite: str, draft: str) -> list[tuple[str, dict[str, Any]]]:
    """The schemas of a draft that are objects, each once, with the file that they are in."""
    schemas: dict[str, tuple[str, dict[str, Any]]] = {}
    with tarfile.open(suite) as archive:
        for member in archive.getmembers():
            path = PurePosixPath(member.name)
            if path.parent.name != draft or path.suffix != ".json" or "tests" not in path.parts:
                continue
            content = archive.extractfile(member)
            assert content is not None
            for case in json.load(content):
                if isinstance(case["schema"], dict):
                    schemas.setdefault(json.dumps(case["schema"], sort_keys=True), (path.stem, case["schema"]))
    return list(schemas.values())


def run(schemas: list[tuple[str, dict[str, Any]]], options: argparse.Namespace) -> list[dict[str, Any]]:
    results, waiting = [], []
    with MLXEngine(lambda: tiny_model(2), name="random") as engine:
        engine.start()
        for file, schema in schemas:
            result: dict[str, Any] = {"file": file, "schema": schema}
            results.append(result)
            try:
                tickets = [engine.submit(_request(schema, seed, options)) for seed in range(options.seeds)]
            except InvalidRequestError as error:
                result.update(outcome="refused", reason=str(error))
            else:
                waiting.append((result, tickets))
        for result, tickets in waiting:
            result["outcome"] = "valid"
            for ticket in tickets:
                text = ticket.future.result().text
                outcome = _judge(result["schema"], text, DRAFTS[options.draft])
                if outcome != "valid":
                    result.update(outcome=outcome, text=text)
    return results


def _request(schema: dict[str, Any], seed: int, options: argparse.Namespace) -> Request:
    config = Config(
        max_tokens=options.max_tokens,
        temperature=1.0,
        seed=seed,
        response_format={"type": "json_schema", "schema": schema, "name": "case"},
    )
    return Request(model="random", messages=(Message.user("Write one."),), config=config)


def _judge(schema: dict[str, Any], text: str, draft: Any) -> str:
    try:
        draft(schema).validate(json.loads(text))
    except jsonschema.ValidationError:
        return "invalid"
    except ValueError:
        return "no JSON"
    return "valid"


if __name__ == "__main__":
    main()
