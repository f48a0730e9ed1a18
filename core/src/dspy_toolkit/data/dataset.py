"""`read_dataset`: rows from a file, a folder or a list, checked against the program they are for.

path or list ──read──▶ rows ──rename──▶ ──fit to the program──▶ ──drop duplicates──▶ Dataset
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import dspy

from dspy_toolkit.data.columns import Column, fit, infer
from dspy_toolkit.data.duplicates import deduplicate, normal_form
from dspy_toolkit.data.readers import READERS, ReadOptions, format_of
from dspy_toolkit.data.splits import Row
from dspy_toolkit.errors import DataError, closest_first
from dspy_toolkit.programs.inspect import input_fields
from dspy_toolkit.values import plain

__all__ = ["Dataset", "read_dataset"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(Sequence[Mapping[str, Any]]):
    """Rows, and what was noticed when they were read. Goes wherever a sequence of rows does.

    `duplicates` were left out; `conflicts` are rows that have another row's inputs and different labels (counted where
    the program is known, and kept); `dropped` are columns that the program has no field for.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]
    columns: Mapping[str, Column]
    duplicates: int = 0
    conflicts: int = 0
    dropped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        return self.rows[index]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    @property
    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.name}: {len(self)} rows"]
        if self.duplicates:
            parts.append(f"{self.duplicates} duplicates left out")
        if self.conflicts:
            parts.append(f"{self.conflicts} rows contradict another with the same inputs")
        if self.dropped:
            parts.append(f"columns without a field: {', '.join(self.dropped)}")
        return "; ".join(parts)


def read_dataset(
    source: str | os.PathLike[str] | Iterable[Row],
    program: dspy.Module | None = None,
    *,
    format: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    deduplicated: bool = True,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Dataset:
    """Rows from a JSON Lines, JSON, CSV or Parquet file, a dataset saved by Hugging Face's library, or an iterable.

    With a `program` the columns are checked against its fields and converted to their types, and columns it has no
    field for are left out unless named in `keep` (a metric would take them for labels). `columns` renames: column to
    field. Rows that are equal but for blanks and Unicode forms are kept once, unless `deduplicated` is False. An empty
    cell of a CSV file is an empty text for an input that is text, else no value. `format` is jsonl, json, csv, parquet
    or saved, by default told from the path; `split` picks one of several datasets in it. Raises DataError with the
    file, the row (from 1) and the field.
    """
    if isinstance(source, str | os.PathLike):
        name, kind, rows = _read(Path(source), format, ReadOptions(encoding=encoding, delimiter=delimiter, split=split))
    else:
        name, kind, rows = "the dataset", "", [_as_dict(row, number) for number, row in enumerate(source, start=1)]
    if not rows:
        raise DataError(f"{name} has no rows; give at least one.")
    if columns:
        rows = _renamed(rows, columns, name)
    dropped: tuple[str, ...] = ()
    if program is not None:
        rows, dropped = fit(rows, program, name=name, keep=keep, blank_is_missing=kind == "csv")
    unique, again = deduplicate(rows, _normal_key) if deduplicated else (rows, 0)
    conflicts = 0 if program is None else _conflicts(unique, list(input_fields(program)), keep)
    return Dataset(
        name=name,
        rows=tuple(unique),
        columns=infer(unique),
        duplicates=again,
        conflicts=conflicts,
        dropped=dropped,
    )


def _read(path: Path, format: str | None, options: ReadOptions) -> tuple[str, str, list[dict[str, Any]]]:
    if format is not None and format not in READERS:
        raise DataError(f"There is no format {format!r}; expected one of {', '.join(closest_first(format, READERS))}.")
    if not path.exists():
        raise DataError(f"There is no file {path}.{_neighbours(path)}")
    kind = format or format_of(path)
    try:
        return str(path), kind, READERS[kind](path, options)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    near = closest_first(path.name, [entry.name for entry in path.parent.iterdir()])[:5]
    return f" In its folder there are: {', '.join(near)}." if near else " Its folder is empty."


def _as_dict(row: Any, number: int) -> dict[str, Any]:
    if isinstance(row, Mapping | dspy.Example):
        return dict(row.items())
    raise DataError(f"Row {number} of the dataset is a {type(row).__name__}; expected a dictionary or a dspy.Example.")


def _renamed(rows: list[dict[str, Any]], columns: Mapping[str, str], name: str) -> list[dict[str, Any]]:
    there = dict.fromkeys(column for row in rows for column in row)
    for column in columns:
        if column not in there:
            have = ", ".join(map(repr, closest_first(column, there)))
            raise DataError(f"{name} has no column {column!r} to rename; it has: {have}.")
    twice = [field for field, count in Counter(columns.get(entry, entry) for entry in there).items() if count > 1]
    if twice:
        raise DataError(f"Renaming gives {name} two columns {twice[0]!r}; rename the other one too.")
    return [{columns.get(column, column): value for column, value in row.items()} for row in rows]


def _normal_key(row: Mapping[str, Any]) -> str:
    return json.dumps(normal_form({str(key): plain(value) for key, value in row.items()}), sort_keys=True)


def _conflicts(rows: Sequence[Mapping[str, Any]], inputs: Sequence[str], keep: Sequence[str]) -> int:
    """How many different answers there are beyond one for each question."""
    questions = {_normal_key({name: row[name] for name in inputs if name in row}) for row in rows}
    answers = {_normal_key({name: row[name] for name in row if name not in keep or name in inputs}) for row in rows}
    return len(answers) - len(questions)
