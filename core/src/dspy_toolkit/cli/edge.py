"""The edge of the command line: errors become one line and an exit code.

0: fine. 1: it failed, and stderr says why and what to do. 2: wrong usage.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.output import Output, styled
from dspy_toolkit.errors import ToolkitError

__all__ = ["Json", "edge", "showing_partial"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


@contextmanager
def edge(as_json: bool) -> Iterator[Output]:
    """Run a verb's body: yields its Output, turns the project's errors and Ctrl-C into exit code 1.

    DSPY_TOOLKIT_STRICT=1 lets errors through with their traceback.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no call to a public endpoint nobody asked for
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # only its tokenizers are used; torch is not missed
    output = Output(as_json=as_json)
    try:
        with output.guard():
            yield output
        sys.stdout.flush()
    except ToolkitError as error:
        if os.environ.get("DSPY_TOOLKIT_STRICT"):
            raise
        run = getattr(getattr(error, "partial", None), "run", "")
        fail(output, type(error).__name__, str(error), **({"run": run} if run else {}))
    except KeyboardInterrupt:
        fail(output, "Interrupted", "Interrupted.")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in buffers is written at exit, and fails there
        if error.errno == errno.ENOSPC:
            print(f"error: The output cannot be written: {error.strerror}.", file=sys.stderr)
        raise typer.Exit(1) from error


@contextmanager
def showing_partial(show: Callable[[Any, Exception], None]) -> Iterator[None]:
    """A run that is stopped or fails shows what it finished, then ends with its error and exit code 1."""
    from dspy_toolkit.errors import OptimizationError

    try:
        yield
    except OptimizationError as error:
        if error.partial is not None:
            show(error.partial, error)
        raise


def fail(output: Output, kind: str, message: str, **more: str) -> None:
    """Say what went wrong on stderr (and as the JSON document, if one is expected) and leave with exit code 1."""
    if not output.documented:
        output.document({"error": {"type": kind, "message": message}, **more})
    sys.stdout.flush()
    output.stderr.print(styled("[bold red]error:[/] {}", message), highlight=False, soft_wrap=True)
    raise typer.Exit(1)
