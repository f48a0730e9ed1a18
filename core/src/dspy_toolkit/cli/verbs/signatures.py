"""`dspy-toolkit signatures`: the typed signatures of all plugins."""

from typing import Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import styled

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def signatures(
        name: Annotated[str | None, typer.Argument(help="Show one signature with its fields.")] = None,
        project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
        as_json: Json = False,
    ) -> None:
        """List the signatures of all plugins, or show one."""
        with edge(as_json) as output:
            from rich.table import Table

            from dspy_toolkit.errors import UnknownNameError
            from dspy_toolkit.plugins import PluginManager
            from dspy_toolkit.types import SignatureEntry, resolve

            plugins = PluginManager()
            table = Table(box=None, header_style="bold", pad_edge=False)
            if name is not None:
                found = plugins.get(SignatureEntry, name)
                fields = _fields(resolve(found.entry.signature))
                summary = found.entry.summary
                output.document({"name": found.qualified_name, "summary": summary, "fields": fields})
                for column in ("field", "role", "type", "description"):
                    table.add_column(column, overflow="fold")
                for field in fields:
                    table.add_row(*field.values())
                output.print(styled("[bold]{}[/]: {}", found.qualified_name, summary), table)
                return
            everything = plugins.entries(SignatureEntry).values()
            listed = [found for found in everything if project in (None, found.project)]
            if not listed and project is not None:
                raise UnknownNameError("project with signatures", project, {found.project for found in everything})
            output.document({"signatures": [{"name": f.qualified_name, "summary": f.entry.summary} for f in listed]})
            for column in ("signature", "summary"):
                table.add_column(column, overflow="fold")
            for found in listed:
                table.add_row(found.qualified_name, found.entry.summary)
            output.print(table)


def _fields(signature: Any) -> list[dict[str, str]]:
    from dspy.adapters.utils import get_annotation_name

    return [
        {
            "name": name,
            "role": role,
            "type": get_annotation_name(field.annotation),
            "description": field.json_schema_extra.get("desc", ""),
        }
        for role, fields in (("input", signature.input_fields), ("output", signature.output_fields))
        for name, field in fields.items()
    ]
