"""What the command line reads and writes: inputs, results, and the user's own code."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dspy_toolkit.cli.output import Output
from dspy_toolkit.errors import DataError

__all__ = ["allow_own_code", "check_reports", "read_inputs", "save_jsonl", "save_text"]


def allow_own_code(*names: str) -> None:
    """Names such as `mine:Answer` are looked for in the working folder too, as `python -m` does it."""
    if any(":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")


def read_inputs(file: Path | None) -> dict[str, Any]:
    """Input values from a JSON file; `-` is stdin. Raises DataError if it is not a JSON object."""
    if file is None:
        return {}
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        values = json.loads(text)
    except OSError as error:
        raise DataError(f"The inputs file {file} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"The inputs file {file} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise DataError(f"The inputs file {file} holds {type(values).__name__}; expected an object of field values.")
    return values


def check_reports(html: Path | None, *others: Path | None) -> None:
    """Raise before the work is done, not after, if a file cannot be written or plotly is missing. Leaves no file."""
    if html is not None:
        from dspy_toolkit.report import check_plots

        check_plots()
    for path in (html, *others):
        if path is None:
            continue
        existed = path.exists()
        try:
            path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
        if not existed:
            path.unlink()


def save_jsonl(output: Output, path: Path | None, records: Iterable[Mapping[str, Any]]) -> None:
    """One line of JSON for each record."""
    if path is not None:
        save_text(output, path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def save_text(output: Output, path: Path, text: str) -> None:
    """Raises DataError naming the file, if the disk refuses."""
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
    output.note(f"wrote {path}")
