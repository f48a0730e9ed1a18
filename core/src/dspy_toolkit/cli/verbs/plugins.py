"""`dspy-toolkit plugins`: what is installed, what it adds, and what is wrong with it."""

import dataclasses

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import styled

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def plugins(as_json: Json = False) -> None:
        """List the plugins, what they add, and what is wrong."""
        with edge(as_json) as output:
            from dspy_toolkit.plugins import PluginManager

            records = PluginManager().check()
            output.document({"plugins": [dataclasses.asdict(record) for record in records]})
            output.print(_table(records))


def _table(records):
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("project", "distribution", "version", "hooks", "state"):
        table.add_column(column, overflow="fold")
    for record in records:
        bad = "blocked" if record.blocked else styled("[red]{}[/]", record.error) if record.error else None
        state = bad or styled("[green]ok[/]")
        hooks = ", ".join(hook.removeprefix("toolkit_") for hook in record.hooks)
        table.add_row(record.name, record.distribution, record.version, hooks, state)
    return table
