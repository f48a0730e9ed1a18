"""Columns of a dataset held against a program's fields: found and converted to their types, or said not to fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, cast

import dspy
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from dspy_toolkit.compat.adapters import annotation_allows_none
from dspy_toolkit.errors import DataError, closest_first
from dspy_toolkit.programs.inspect import input_fields

__all__ = ["Column", "fit", "infer"]

_KINDS = {bool: "boolean", int: "integer", float: "number", str: "text"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """What is in a column: `kind` is text, integer, number, boolean, list, object, the name of a Python type, "empty",
    or "mixed"; `missing` counts the rows without a value.
    """

    kind: str
    missing: int


@dataclass(frozen=True, kw_only=True)
class _Field:
    """One field of the program. `adapter` is None where nothing is known of its type."""

    annotation: Any
    adapter: TypeAdapter[Any] | None
    label: bool
    required: bool


def infer(rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns, in the order in which they first occur."""
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        kinds = {_kind(row[name]) for row in rows if row.get(name) is not None}
        if kinds == {"integer", "number"}:
            kinds = {"number"}
        kind = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "empty"
        columns[name] = Column(kind=kind, missing=sum(row.get(name) is None for row in rows))
    return columns


def fit(
    rows: Sequence[Mapping[str, Any]],
    program: dspy.Module,
    *,
    name: str,
    keep: Sequence[str] = (),
    blank_is_missing: bool = False,
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Rows with the program's fields only, each value of its field's type, and the columns that were left out.

    Where a label is a list and its field is not, its items are converted: they are several right answers. A label of
    None is left out where its field does not allow None. Columns in `keep` stay as they are. `blank_is_missing` says
    that an empty text is no value, except for an input that is text. Raises DataError with the row and field.
    """
    fields = _fields(program)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    _check_columns(columns, fields, keep, name)
    fitted = []
    for number, row in enumerate(rows, start=1):
        place = f"Row {number} of {name}"
        fitted.append(
            {
                **{column: row[column] for column in keep if column in row},
                **_fit_row(row, fields, place, blank_is_missing),
            }
        )
    return fitted, tuple(column for column in columns if column not in fields and column not in keep)


def _fit_row(
    row: Mapping[str, Any], fields: Mapping[str, _Field], place: str, blank_is_missing: bool
) -> dict[str, Any]:
    values = {}
    for field, about in fields.items():
        value = row.get(field)
        if value == "" and blank_is_missing and (about.label or about.annotation is not str):
            value = None
        if value is not None:
            values[field] = _converted(value, about, f"{place}: {field!r}")
        elif about.required:
            have = ", ".join(sorted(map(str, row))) or "no fields"
            raise DataError(f"{place} has no {field!r}, which the program needs; the row has: {have}.")
        elif field in row and annotation_allows_none(about.annotation):
            values[field] = None
    return values


def _converted(value: Any, field: _Field, place: str) -> Any:
    if field.adapter is None:
        return value
    if field.annotation is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    try:
        return field.adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(value, str):
            try:
                return field.adapter.validate_json(value)
            except ValidationError:
                pass  # the first error says what is wrong with the text as it is
        if field.label and isinstance(value, list) and value:
            return [_converted(item, field, place) for item in value]
        first = error.errors(include_url=False)[0]
        where = "".join(f"[{part!r}]" for part in first["loc"])
        raise DataError(f"{place} is {_short(value)}; {where}{' ' if where else ''}{first['msg'].lower()}.") from error


def _check_columns(columns: Sequence[str], fields: Mapping[str, _Field], keep: Sequence[str], name: str) -> None:
    for column in keep:
        if column not in columns:
            raise DataError(f"{name} has no column {column!r} to keep; it has: {_listed(column, columns)}.")
    for field, about in fields.items():
        if about.required and field not in columns:
            raise DataError(
                f"{name} has no column {field!r}, which the program needs; it has: {_listed(field, columns)}. "
                f"Name the column that holds it: columns={{'<column>': {field!r}}}."
            )
    labels = [field for field, about in fields.items() if about.label]
    if any(label in columns for label in labels):
        return
    for label in labels:
        left = [column for column in columns if column not in fields and column not in keep]
        if close := get_close_matches(label, left, n=1, cutoff=0.75):
            raise DataError(
                f"{name} has no label for the program's output {label!r}, but a column {close[0]!r}. If that is the "
                f"label, say so: columns={{{close[0]!r}: {label!r}}}. If not, drop the column or name it in keep=."
            )


def _fields(program: dspy.Module) -> dict[str, _Field]:
    signatures = [cast(type[dspy.Signature], predictor.signature) for _, predictor in program.named_predictors()]
    inputs = input_fields(program)
    fields = {}
    for name, required in inputs.items():
        info = next((item.input_fields[name] for item in signatures if name in item.input_fields), None)
        fields[name] = _field(info, label=False, required=required)
    for signature in signatures:
        for name, info in signature.output_fields.items():
            if name not in inputs:
                fields[name] = _field(info, label=True, required=False)
    return fields


def _field(info: Any, *, label: bool, required: bool) -> _Field:
    annotation = Any if info is None else info.annotation
    adapter = None
    if info is not None:
        try:
            constrained: Any = Annotated[annotation, *info.metadata] if info.metadata else annotation
            adapter = TypeAdapter(constrained)
        except PydanticSchemaGenerationError:
            adapter = None  # a type of which pydantic knows nothing; its values stay as they are
    return _Field(annotation=annotation, adapter=adapter, label=label, required=required)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping | BaseModel):
        return "object"
    if isinstance(value, list | tuple | set | frozenset):
        return "list"
    return _KINDS.get(type(value), type(value).__name__)


def _listed(name: str, columns: Sequence[str]) -> str:
    return ", ".join(map(repr, closest_first(name, columns))) or "no columns"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
