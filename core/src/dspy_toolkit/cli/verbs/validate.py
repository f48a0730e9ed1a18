"""`dspy-toolkit validate`: what is wrong with signatures, before a model finds out."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import styled
from dspy_toolkit.cli.tables import table

if TYPE_CHECKING:
    from dspy_toolkit.signatures.validation import Report

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

        Looks at descriptions, types, clashing names and grammars; without names, also at what the plugins refer to and
        what the settings name. Exit code 1 if there are errors.
        """
        with edge(as_json) as output:
            rows = [*_reports(names or []), *([] if names else _setup())]
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


def _reports(names: list[str]) -> "Iterator[tuple[str, Report]]":
    """A report on each of these, or of all signatures and tasks there are. One that cannot be loaded is an error."""
    from dspy_toolkit.cli.files import allow_own_code
    from dspy_toolkit.errors import UnknownNameError
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.types import SignatureEntry, TaskEntry

    plugins = PluginManager()
    signatures, tasks = plugins.entries(SignatureEntry), plugins.entries(TaskEntry)
    everything = {**signatures, **tasks}
    for name in names:
        if ":" not in name and name not in everything:
            raise UnknownNameError("signature or task", name, everything)
    allow_own_code(*names)
    for name in names or everything:
        if name in signatures:
            yield name, _report(signatures[name].entry.signature, call=False)
        elif name in tasks:
            yield name, _report(tasks[name].entry.program, call=True)
        else:
            yield name, _report(name, call=None)


def _report(reference: Any, *, call: bool | None) -> "Report":
    """On what `reference` leads to, or what that makes when it is called; None calls what is no class."""
    from dspy_toolkit.signatures.validation import validate
    from dspy_toolkit.types import resolve

    try:
        target: Any = resolve(reference)
        calls = call or (call is None and callable(target) and not isinstance(target, type))
        program: Any = target() if calls else target
        return validate(program)
    except Exception as error:  # noqa: BLE001  # a stranger's code: the others are checked all the same
        return _failed(f"It cannot be loaded: {type(error).__name__}: {error}", "Mend the code it refers to.")


def _setup() -> "Iterator[tuple[str, Report]]":
    """What is wrong with plugins, with what they refer to, and with the settings; nothing for what is right."""
    from dspy_toolkit.cli.setup import setup_checks
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.settings import DSPyConfig
    from dspy_toolkit.types import MetricEntry, MigrationEntry, OptimizerEntry, ProviderEntry, TaskEntry, resolve

    plugins = PluginManager()
    for record in plugins.check():
        if record.error:
            yield f"plugin {record.name}", _failed(record.error, f"Mend or uninstall {record.distribution}.")
    for kind in (TaskEntry, MetricEntry, OptimizerEntry, ProviderEntry, MigrationEntry):
        for item in plugins.entries(kind).values():
            for name in item.entry.references():
                reference = getattr(item.entry, name)
                try:
                    if reference is not None and not (kind is TaskEntry and name == "program"):
                        resolve(reference)
                except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a stranger's module raises, the rest is checked
                    yield item.qualified_name, _failed(f"{name}: {error}", f"Mend {item.distribution}.")
    for check in setup_checks(DSPyConfig(), plugins):
        if not check.ok:
            yield f"settings {check.name}", _failed(check.detail, check.remedy)


def _failed(message: str, remedy: str) -> "Report":
    from dspy_toolkit.signatures.validation import Finding, Report

    return Report(fingerprint="", findings=(Finding(severity="error", field="", message=message, remedy=remedy),))
