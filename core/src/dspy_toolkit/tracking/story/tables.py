"""The tables of a run: its rows by stage, and its errors. Columns by name, as MLflow has them."""

import json
from collections.abc import Iterable
from typing import Any

from dspy_toolkit.runs.records import ErrorRecord, RowRecord

__all__ = ["error_table", "row_tables"]

Table = dict[str, list[Any]]


def row_tables(rows: Iterable[RowRecord]) -> dict[str, Table]:
    """From stage to its table, one line per row: inputs and outputs in columns of their own, then score and the rest.

    Where a row of a stage is there twice, because the run was resumed, the later counts.
    """
    stages: dict[str, dict[int, RowRecord]] = {}
    for row in rows:
        stages.setdefault(row.stage, {})[row.row] = row
    return {stage: _table([_line(of[number]) for number in sorted(of)]) for stage, of in stages.items()}


def error_table(errors: Iterable[ErrorRecord]) -> Table:
    """One line per kind of error; no columns where there is none."""
    return _table([dict(vars(error)) for error in errors])


def _line(row: RowRecord) -> dict[str, Any]:
    return {
        "row": row.row,
        **{f"input.{name}": _cell(value) for name, value in row.inputs.items()},
        **{f"output.{name}": _cell(value) for name, value in row.prediction.items()},
        "score": row.score,
        **{f"score.{name}": score for name, score in row.parts.items()},
        "feedback": row.feedback,
        "error": row.error or "",
        "seconds": row.seconds,
    }


def _table(lines: list[dict[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for line in lines for name in line))
    # A row that failed has no outputs; where it comes first, its columns must not push the outputs to the end.
    order = {"row": 0, "input": 1, "output": 2, "score": 3}
    columns.sort(key=lambda name: order.get(name.partition(".")[0], 4))
    return {name: [line.get(name) for line in lines] for name in columns}


def _cell(value: Any) -> Any:
    """A value as a cell shows it: lists and objects as their JSON."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
