"""The tables of a run: its rows by stage, and its errors. Columns by name, as MLflow has them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["error_table", "row_tables"]

Table = dict[str, list[Any]]


def row_tables(rows: Iterable[Mapping[str, Any]]) -> dict[str, Table]:
    """From stage to its table, one line per row: inputs and outputs in columns of their own, then score and the rest.

    Where a row of a stage is there twice, because the run was resumed, the later counts.
    """
    stages: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        stages.setdefault(str(row.get("stage") or "evaluate"), {})[row.get("row")] = row
    return {
        stage: _table([_line(found[number]) for number in sorted(found, key=lambda each: (each is None, each))])
        for stage, found in stages.items()
    }


def error_table(errors: Iterable[Mapping[str, Any]]) -> Table:
    """One line per kind of error; no columns where there is none."""
    return _table([dict(error) for error in errors])


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    parts = {f"score.{name}": score for name, score in (row.get("parts") or {}).items()}
    return {
        "row": row.get("row"),
        **{f"input.{name}": _cell(value) for name, value in (row.get("inputs") or {}).items()},
        **{f"output.{name}": _cell(value) for name, value in (row.get("prediction") or {}).items()},
        "score": row.get("score"),
        **parts,
        "feedback": row.get("feedback") or "",
        "error": row.get("error") or "",
        "seconds": row.get("seconds"),
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
