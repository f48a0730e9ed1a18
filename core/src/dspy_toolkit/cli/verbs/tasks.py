"""`dspy-toolkit tasks`: what can be optimized and run by name."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import Output
from dspy_toolkit.cli.tables import table

if TYPE_CHECKING:
    from dspy_toolkit.plugins import PluginManager

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def tasks(
        name: Annotated[str | None, typer.Argument(help="Show one task: its fields, data, metric, defaults.")] = None,
        as_json: Json = False,
    ) -> None:
        """List the tasks of all plugins, or show one."""
        with edge(as_json) as output:
            if name is None:
                _list(output)
            else:
                _show(output, name)


def _list(output: Output) -> None:
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.types import TaskEntry

    rows = [
        {"name": task.qualified_name, "summary": task.entry.summary, "distribution": task.distribution}
        for task in PluginManager().entries(TaskEntry).values()
    ]
    output.document({"tasks": rows})
    listing = table("task", "summary", "from")
    for row in rows:
        listing.add_row(*row.values())
    output.print(listing)


def _show(output: Output, name: str) -> None:
    from dspy_toolkit.plugins import PluginManager

    facts = _facts(PluginManager(), name)
    output.document(facts)
    listing = table("", name)
    for key, value in facts.items():
        text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        listing.add_row(key, text)
    output.print(listing)


def _facts(plugins: "PluginManager", name: str) -> dict[str, Any]:
    from dspy_toolkit.programs.inspect import input_fields
    from dspy_toolkit.programs.task import Task
    from dspy_toolkit.signatures.fingerprints import fingerprint
    from dspy_toolkit.types import TaskEntry

    task = Task(plugins.get(TaskEntry, name), plugins)
    program, data = task.program(), task.data()
    return {
        "task": task.name,
        "summary": task.entry.summary,
        "distribution": task.registered.distribution,
        "inputs": ", ".join(input_fields(program)),
        "predictors": {key: _line(predictor.signature) for key, predictor in program.named_predictors()},
        "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "rows_drawn": dict(task.entry.rows),
        "metric": task.metric_name,
        "optimizer": task.entry.optimizer,
        "optimizer_params": dict(task.entry.optimizer_params),
        "fingerprint": fingerprint(program),
    }


def _line(signature: Any) -> str:
    return f"{', '.join(signature.input_fields)} -> {', '.join(signature.output_fields)}"
