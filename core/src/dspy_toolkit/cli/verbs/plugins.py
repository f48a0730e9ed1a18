"""`dspy-toolkit plugins`: what is installed, what it adds, and what is wrong with it."""

import dataclasses
from typing import TYPE_CHECKING

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import styled
from dspy_toolkit.cli.tables import table

if TYPE_CHECKING:
    from rich.text import Text

    from dspy_toolkit.plugins import PluginRecord

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def plugins(as_json: Json = False) -> None:
        """List the plugins, what they add, and what is wrong."""
        with edge(as_json) as output:
            from dspy_toolkit.plugins import PluginManager

            records = PluginManager().check()
            output.document({"plugins": [dataclasses.asdict(record) for record in records]})
            listing = table("project", "distribution", "version", "hooks", "state")
            for record in records:
                hooks = ", ".join(hook.removeprefix("toolkit_") for hook in record.hooks)
                listing.add_row(record.name, record.distribution, record.version, hooks, _state(record))
            output.print(listing)


def _state(record: "PluginRecord") -> "Text | str":
    if record.blocked:
        return "blocked"
    return styled("[red]{}[/]", record.error) if record.error else styled("[green]ok[/]")
