"""`dspy-toolkit signatures`: the typed signatures of all plugins."""

from typing import Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import Output, styled
from dspy_toolkit.cli.tables import table

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
            if name is None:
                _list(output, project)
            else:
                _show(output, name)


def _list(output: Output, project: str | None) -> None:
    from dspy_toolkit.errors import UnknownNameError
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.types import SignatureEntry

    installed = PluginManager().entries(SignatureEntry).values()
    selected = [entry for entry in installed if project in (None, entry.project)]
    if not selected and project is not None:
        raise UnknownNameError("project with signatures", project, {entry.project for entry in installed})
    rows = [{"name": signature.qualified_name, "summary": signature.entry.summary} for signature in selected]
    output.document({"signatures": rows})
    listing = table("signature", "summary")
    for row in rows:
        listing.add_row(*row.values())
    output.print(listing)


def _show(output: Output, name: str) -> None:
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.types import SignatureEntry, resolve

    signature = PluginManager().get(SignatureEntry, name)
    summary, fields = signature.entry.summary, _fields(resolve(signature.entry.signature))
    output.document({"name": signature.qualified_name, "summary": summary, "fields": fields})
    listing = table("field", "role", "type", "description")
    for field in fields:
        listing.add_row(*field.values())
    output.print(styled("[bold]{}[/]: {}", signature.qualified_name, summary), listing)


def _fields(signature: Any) -> list[dict[str, str]]:
    from dspy_toolkit.compat.adapters import get_annotation_name

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
