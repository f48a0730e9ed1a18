"""`dspy-toolkit validate`: what is wrong with signatures, before a model finds out."""

import dataclasses
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import styled
from dspy_toolkit.cli.tables import table

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def validate(
        names: Annotated[
            list[str] | None,
            typer.Argument(
                help="Signatures or tasks by name (lora/hyperparameters), or your own as package.module:Class. "
                "None: everything installed."
            ),
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Check signatures and tasks before a model does.

        Looks at descriptions, types, clashing names and grammars. Exit code 1 if there are errors.
        """
        with edge(as_json) as output:
            from dspy_toolkit.signatures.validation import validate as check

            rows = []
            for name, target in _targets(names or []):
                report = check(target)
                rows.append((name, report))
            document = [
                {
                    "name": name,
                    "ok": report.ok,
                    "fingerprint": report.fingerprint,
                    "findings": [dataclasses.asdict(finding) for finding in report.findings],
                }
                for name, report in rows
            ]
            output.document({"ok": all(report.ok for _, report in rows), "validated": document})
            listing = table("name", "fingerprint", "", "field", "finding", "what to do")
            for name, report in rows:
                first = (name, report.fingerprint)
                if not report.findings:
                    listing.add_row(*first, styled("[green]ok[/]"))
                for finding in report.findings:
                    colour = "red" if finding.severity == "error" else "yellow"
                    listing.add_row(
                        *first,
                        styled(f"[{colour}]{{}}[/]", finding.severity),
                        finding.field,
                        finding.message,
                        finding.remedy,
                    )
                    first = ("", "")
            output.print(listing)
            if not all(report.ok for _, report in rows):
                raise typer.Exit(1)


def _targets(names: list[str]) -> list[tuple[str, Any]]:
    import sys

    from dspy_toolkit.errors import UnknownNameError
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.types import SignatureEntry, TaskEntry, resolve

    plugins = PluginManager()
    signatures, tasks = plugins.entries(SignatureEntry), plugins.entries(TaskEntry)
    everything = {**signatures, **tasks}
    targets = []
    for name in names or everything:
        if ":" in name:
            sys.path.insert(0, "")
            found = resolve(name)
            targets.append((name, found() if callable(found) and not isinstance(found, type) else found))
        elif name in signatures:
            targets.append((name, resolve(signatures[name].entry.signature)))
        elif name in tasks:
            targets.append((name, resolve(tasks[name].entry.program)()))
        else:
            raise UnknownNameError("signature or task", name, everything)
    return targets
