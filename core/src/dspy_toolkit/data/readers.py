"""Files to rows: JSON Lines, JSON, CSV, Parquet, and datasets saved by Hugging Face's library.

Every reader takes a path that exists and returns dictionaries. What cannot be read is a DataError that names the file
and, in text, the line.
"""

import codecs
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import DataError, closest_first

__all__ = ["READERS", "ReadOptions", "format_of"]

Rows = list[dict[str, Any]]

_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """`encoding` is that of text files (None: by the byte order mark, else UTF-8); `delimiter` that of CSV (None: as
    the header shows); `split` names one of several datasets in one file or folder.
    """

    encoding: str | None = None
    delimiter: str | None = None
    split: str | None = None


def format_of(path: Path) -> str:
    """The reader's name by the path's ending, or for a folder by what is in it. Raises DataError for none."""
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return "saved"
        raise DataError(f"{path} is a folder, but none that `Dataset.save_to_disk` wrote; give a file in it.")
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise DataError(
            f"The ending of {path} does not say its format; expected one of {', '.join(_ENDINGS)}, or give format=, "
            f"one of {', '.join(READERS)}."
        )
    return _ENDINGS[ending]


def read_jsonl(path: Path, options: ReadOptions) -> Rows:
    rows = []
    # Only "\n" ends a line: JSON texts may hold other line separators of Unicode as they are.
    for number, line in enumerate(_text(path, options).split("\n"), start=1):
        if line.strip():
            rows.append(_object(_json(line, f"{path}, line {number}"), f"Line {number} of {path}"))
    return rows


def read_json(path: Path, options: ReadOptions) -> Rows:
    text = _text(path, options)
    content = _json(text, str(path)) if text.strip() else []
    if isinstance(content, dict):
        lists = [name for name, value in content.items() if isinstance(value, list)]
        if not lists:
            raise DataError(f"{path} holds one JSON object; expected a list of rows, or one list of rows by split.")
        content = content[_split(path, lists, options)]
    elif options.split is not None:
        raise DataError(f"{path} holds one list of rows, so there is no split {options.split!r} in it.")
    if not isinstance(content, list):
        raise DataError(f"{path} holds a JSON {type(content).__name__}; expected a list of objects.")
    return [_object(row, f"Row {number} of {path}") for number, row in enumerate(content, start=1)]


def read_csv(path: Path, options: ReadOptions) -> Rows:
    text = _text(path, options)
    delimiter = options.delimiter or _delimiter(text.partition("\n")[0])
    if len(delimiter) != 1:
        raise DataError(f"The delimiter is {delimiter!r}; expected one character.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    field_limit = csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is less than a document
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"Row {len(rows) + 1} of {path} (up to line {reader.line_num}) has {len(cells)} cells; expected "
                    f"{len(header)}, as in the header. Text that holds {delimiter!r} must be in double quotes."
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV at line {reader.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(field_limit)
    return rows


def read_parquet(path: Path, options: ReadOptions) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"Reading {path} needs pyarrow: pip install 'dspy-toolkit[parquet]'") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {_line(error)}") from error


def read_saved(path: Path, options: ReadOptions) -> Rows:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"Reading {path}, which Hugging Face's `datasets` saved, needs it: pip install 'dspy-toolkit[datasets]'"
        ) from error
    try:
        dataset = datasets.load_from_disk(str(path))
        if isinstance(dataset, datasets.DatasetDict):
            dataset = dataset[_split(path, [str(name) for name in dataset], options)]
        elif options.split is not None:
            raise DataError(f"{path} holds one dataset, so there is no split {options.split!r} in it.")
        return [dict(row) for row in dataset]
    except (OSError, ValueError, TypeError, KeyError) as error:  # what a damaged folder makes the library raise
        raise DataError(f"{path} cannot be read as a saved dataset: {_line(error)}") from error


READERS: Mapping[str, Callable[[Path, ReadOptions], Rows]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
    "saved": read_saved,
}

_ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


def _text(path: Path, options: ReadOptions) -> str:
    data = path.read_bytes()
    encoding = options.encoding or next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"Line {line} of {path} holds the byte 0x{data[error.start]:02x}, which is no {encoding}. Save the file as "
            "UTF-8, or give its encoding, for example encoding='cp1252'."
        ) from error
    except LookupError as error:
        raise DataError(f"There is no encoding {encoding!r}; for example 'utf-8' or 'cp1252'.") from error


def _json(text: str, place: str) -> Any:
    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"the key {twice[0]!r} occurs twice in one object")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=no_number, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {_line(error)}.") from error


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place} is a JSON {type(row).__name__}; expected an object with the fields of a row.")
    return row


def _split(path: Path, names: list[str], options: ReadOptions) -> str:
    if options.split is None and len(names) == 1:
        return names[0]
    if options.split not in names:
        remedy = "give one with split=" if options.split is None else f"there is no {options.split!r}"
        raise DataError(f"{path} holds the splits {', '.join(closest_first(options.split or '', names))}; {remedy}.")
    return options.split


def _delimiter(header: str) -> str:
    """Comma, unless the header has none and has tabs or semicolons (as spreadsheets write where 1.5 is 1,5)."""
    return next((character for character in (",", "\t", ";") if character in header), ",")


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise DataError(f"The header of {path} has the column {twice[0]!r} twice; rename one.")
    if "" in header:
        raise DataError(f"Column {header.index('') + 1} of {path} has no name in the header.")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
