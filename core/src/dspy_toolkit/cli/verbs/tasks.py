"""`dspy-toolkit tasks`: what can be optimized and run by name."""

from typing import Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def tasks(
        name: Annotated[str | None, typer.Argument(help="Show one task: its fields, data, metric, defaults.")] = None,
        as_json: Json = False,
    ) -> None:
        """List the tasks of all plugins, or show one."""
        with edge(as_json) as output:
            from rich.table import Table

            from dspy_toolkit.plugins import PluginManager
            from dspy_toolkit.types import TaskEntry

            plugins = PluginManager()
            table = Table(box=None, header_style="bold", pad_edge=False)
            if name is not None:
                shown = _one(plugins, name)
                output.document(shown)
                for column in ("", name):
                    table.add_column(column, overflow="fold")
                for key, value in shown.items():
                    table.add_row(
                        key, ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
                    )
                output.print(table)
                return
            found = plugins.entries(TaskEntry).values()
            output.document(
                {
                    "tasks": [
                        {"name": f.qualified_name, "summary": f.entry.summary, "distribution": f.distribution}
                        for f in found
                    ]
                }
            )
            for column in ("task", "summary", "from"):
                table.add_column(column, overflow="fold")
            for one in found:
                table.add_row(one.qualified_name, one.entry.summary, one.distribution)
            output.print(table)


def _one(plugins: Any, name: str) -> dict[str, Any]:
    from dspy_toolkit.programs.inspect import input_fields
    from dspy_toolkit.programs.task import Task
    from dspy_toolkit.signatures.fingerprints import fingerprint
    from dspy_toolkit.types import TaskEntry

    task = Task(plugins.get(TaskEntry, name), plugins)
    program, data = task.program(), task.data()
    return {
        "task": task.name,
        "summary": task.entry.summary,
        "distribution": task.found.distribution,
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
