"""Values typed on the command line."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from dspy_toolkit.errors import DataError

__all__ = ["own_code", "pairs", "read_inputs"]


def own_code(*names: str) -> None:
    """Names such as `mine:Answer` are looked for in the working folder too, as `python -m` does it."""
    if any(":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")


def pairs(option: str, words: Iterable[str] | None, *, numbers: bool = False) -> dict[str, str]:
    """`NAME=VALUE` words as a dictionary. A malformed word is wrong usage (exit code 2)."""
    found = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name or (numbers and not value.isdigit()):
            raise typer.BadParameter(f"{word!r} is not NAME={'NUMBER' if numbers else 'VALUE'}", param_hint=option)
        found[name] = value
    return found


def read_inputs(words: Iterable[str] | None, file: Path | None) -> dict[str, Any]:
    """Input values from a JSON file (`-` is stdin) and `NAME=VALUE` words, which win.

    Raises DataError if the file is not a JSON object.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
            values = json.loads(text)
        except OSError as error:
            raise DataError(f"The inputs file {file} cannot be read: {error.strerror}.") from error
        except json.JSONDecodeError as error:
            raise DataError(f"The inputs file {file} is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise DataError(
                f"The inputs file {file} holds {type(values).__name__}; expected an object of field values."
            )
    return {**values, **pairs("--input", words)}
