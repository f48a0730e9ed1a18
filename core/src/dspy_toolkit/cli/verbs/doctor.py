"""`dspy-toolkit doctor`: what works on this machine, and what to do about the rest."""

import dataclasses
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import styled
from dspy_toolkit.cli.tables import table

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def doctor(as_json: Json = False) -> None:
        """Check what works on this machine.

        Looks at Python, packages, plugins, settings, folders, providers, and metrics that need something.
        Exit code 1 if something is wrong.
        """
        with edge(as_json) as output:
            checks = list(_checks())
            output.document(
                {"ok": all(check.ok for check in checks), "checks": [dataclasses.asdict(c) for c in checks]}
            )
            listing = table("", "check", "found", "what to do")
            for check in checks:
                state = styled("[green]ok[/]" if check.ok else "[red]no[/]")
                listing.add_row(state, check.name, check.detail, check.remedy)
            output.print(listing)
            if not all(check.ok for check in checks):
                raise typer.Exit(1)


def _checks() -> Iterator[Any]:
    from importlib_metadata import PackageNotFoundError, version

    from dspy_toolkit.cli.setup import setup_checks
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.settings import DSPyConfig
    from dspy_toolkit.types import Check, MetricEntry, ProviderEntry

    yield Check(
        name="python", ok=sys.version_info >= (3, 11), detail=f"{platform.python_version()} on {platform.platform()}"
    )
    for package in ("dspy-toolkit", "dspy", "litellm", "pluggy"):
        try:
            yield Check(name=package, ok=True, detail=version(package))
        except PackageNotFoundError:
            yield Check(name=package, ok=False, detail="not installed", remedy=f"pip install {package}")

    from dspy_toolkit.tracking.doctor import check_tracking

    config = DSPyConfig()
    yield Check(name="settings", ok=True, detail=str(config.file) if config.file else "defaults (no settings file)")
    for name in ("store", "cache"):
        yield _writable(name, getattr(config, name))
    yield check_tracking(config)

    plugins = PluginManager()
    for word in plugins.unknown_selected:
        yield Check(
            name="DSPY_TOOLKIT_PLUGINS",
            ok=False,
            detail=f"names {word!r}, which no installed plugin has",
            remedy="correct the name, or unset the variable",
        )
    for record in plugins.check():
        state = "blocked" if record.blocked else record.error or record.version
        remedy = f"pip install --upgrade {record.distribution}, or block it: DSPY_TOOLKIT_PLUGINS=-{record.name}"
        yield Check(
            name=f"plugin {record.name}", ok=not record.error, detail=state, remedy=remedy if record.error else ""
        )
    yield from setup_checks(config, plugins)
    providers = plugins.entries(ProviderEntry)
    if not providers:
        yield Check(
            name="providers",
            ok=False,
            detail="none installed",
            remedy="pip install 'dspy-toolkit-mlx[cpu]' (or without [cpu])",
        )
    for provider in providers.values():
        yield from _of_entry(provider.entry.name, provider.entry.doctor)
    for metric in plugins.entries(MetricEntry).values():
        yield from _of_entry(metric.qualified_name, metric.entry.doctor)


def _of_entry(name: str, doctor: Any) -> Iterator[Any]:
    """The checks of a provider or metric, each under its name; one that raises is a check that failed."""
    from dspy_toolkit.types import Check, resolve

    if doctor is None:
        return
    try:
        for check in resolve(doctor)():
            yield dataclasses.replace(check, name=f"{name}: {check.name}")
    except Exception as error:  # noqa: BLE001  # a stranger's code: the other checks go on
        yield Check(name=name, ok=False, detail=f"its doctor raised {type(error).__name__}: {error}")


def _writable(name: str, folder: Path) -> Any:
    from dspy_toolkit.types import Check

    existing = next(path for path in (folder, *folder.parents) if path.exists())
    ok = existing.is_dir() and os.access(existing, os.W_OK)
    return Check(
        name=f"{name} folder",
        ok=ok,
        detail=str(folder) if ok else f"{folder} cannot be written",
        remedy="" if ok else f"set DSPY_TOOLKIT_{name.upper()} to a folder you can write",
    )
