"""`dspy-toolkit config`: the settings, and where each value came from."""

from pathlib import Path
from typing import Annotated

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.tables import table

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Settings: values and where they come from.")
    app.add_typer(group, name="config")

    @group.callback()
    def _group() -> None:
        pass

    @group.command()
    def show(
        file: Annotated[Path | None, typer.Option(help="Read this settings file instead of looking for one.")] = None,
        as_json: Json = False,
    ) -> None:
        """Print every setting with its source: default, file and line, variable, or argument."""
        with edge(as_json) as output:
            from dspy_toolkit.settings import DSPyConfig

            config = DSPyConfig(config_file=file)
            settings = config.sources()
            output.document(
                {
                    "file": str(config.file) if config.file else None,
                    "settings": {s.key: {"value": s.value, "source": s.source} for s in settings},
                }
            )
            listing = table("setting", "value", "from")
            for setting in settings:
                listing.add_row(setting.key, str(setting.value), setting.source)
            output.print(listing)
