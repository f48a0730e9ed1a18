"""The command `dspy-toolkit`: one file per verb.

Start-up is a feature: a verb's file imports typer and the standard library; everything else inside its function.
"""

from importlib import import_module
from typing import Annotated

import typer

from dspy_toolkit.version import __version__

__all__ = ["app", "main"]

VERBS = ["demo", "optimize", "evaluate", "compare", "runs", "track", "run", "tasks", "signatures", "validate"]
VERBS += ["plugins", "config", "doctor"]
"""In the order in which `--help` lists them."""

app = typer.Typer(
    name="dspy-toolkit",
    help="Program, optimize and ship DSPy programs on models you run yourself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help costs 150 ms at every start
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"dspy-toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    for verb in VERBS:
        import_module(f"dspy_toolkit.cli.verbs.{verb}").add_to(app)
    app()
