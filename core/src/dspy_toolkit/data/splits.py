"""Rows in, `dspy.Example`s out: input fields inferred, missing values named, no row in two sets."""

import hashlib
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import dspy

from dspy_toolkit.data.duplicates import normal_form
from dspy_toolkit.errors import DataError
from dspy_toolkit.programs.inspect import call_parameters, input_fields
from dspy_toolkit.types import TaskData
from dspy_toolkit.values import canonical_json, plain

__all__ = [
    "AnyData",
    "Row",
    "Splits",
    "digest",
    "draw",
    "leak_key",
    "prepare",
    "row_digest",
    "to_examples",
]

Row = Mapping[str, Any] | dspy.Example
AnyData = TaskData | Sequence[Row] | str | os.PathLike[str]
"""Three sets, or one: rows, or a file or folder of them (see `read_dataset`)."""

_SETS = ("train", "validation", "test")
_CUTS = (0.4, 0.6)  # where validation and test begin, as shares of the hashes


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Three disjoint sets of examples with inputs set; see `TaskData` for what each is for."""

    train: tuple[dspy.Example, ...]
    validation: tuple[dspy.Example, ...]
    test: tuple[dspy.Example, ...]

    @property
    def sizes(self) -> dict[str, int]:
        return {field.name: len(getattr(self, field.name)) for field in fields(self)}


def to_examples(rows: Iterable[Row], program: dspy.Module, *, name: str = "dataset") -> tuple[dspy.Example, ...]:
    """Rows (dictionaries or `dspy.Example`s) as examples of this program; an Example keeps the inputs that
    `with_inputs` names. Raises DataError with row (from 1) and field.
    """
    inputs = input_fields(program)
    examples = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dspy.Example):
            values = dict(row.items())
        elif isinstance(row, Mapping):
            values = dict(row)
        else:
            raise DataError(
                f"Row {number} of the {name} is a {type(row).__name__}; expected a dictionary or a dspy.Example."
            )
        named = _named_inputs(row, number, name, program)
        if named is not None:
            examples.append(dspy.Example(**values).with_inputs(*named))
            continue
        for field, required in inputs.items():
            if required and values.get(field) is None:
                have = ", ".join(sorted(map(str, values))) or "no fields"
                raise DataError(
                    f"Row {number} of the {name} has no {field!r}, which the program needs; the row has: {have}."
                )
        examples.append(dspy.Example(**values).with_inputs(*[field for field in inputs if field in values]))
    return tuple(examples)


def _named_inputs(row: Row, number: int, name: str, program: dspy.Module) -> list[str] | None:
    """What `with_inputs` names of a row; None where it names nothing, or the row is a dictionary.

    Raises DataError where the program cannot be called with that.
    """
    if not isinstance(row, dspy.Example):
        return None
    try:
        named = [str(field) for field, _ in row.inputs().items()]
    except ValueError:  # with_inputs was not called
        return None
    accepted = call_parameters(program)
    for field, required in (accepted.fields if accepted else {}).items():
        if (required and row.get(field) is None) or (required and field not in named):
            have = ", ".join(sorted(named)) or "none"
            raise DataError(
                f"Row {number} of the {name} has no input {field!r}, which the program needs; with_inputs names: "
                f"{have}."
            )
    extra = [] if accepted is None or accepted.others else [field for field in named if field not in accepted.fields]
    if extra:
        raise DataError(
            f"Row {number} of the {name} has the input {extra[0]!r}, which the program does not take; leave it out of "
            "with_inputs."
        )
    return named


def prepare(
    data: TaskData | Iterable[Row],
    program: dspy.Module,
    *,
    rows: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Splits:
    """Check the data, split it if it is one dataset, and draw from each set what `rows` asks for.

    One dataset is split about 40/20/40 by the hash of each row's inputs, so neither the order of the rows nor rows
    added later move a row to another set, and rows with equal inputs stay together. Inputs are equal here that differ
    only in case, blanks and final punctuation. `rows` maps a set's name to how many of it to draw; the draw depends on
    the set and on `seed` alone, and draws with the same seed and different sizes are nested. Raises DataError for a
    missing input, an empty set, a count below 1, or a test row that is also in train or validation.
    """
    if isinstance(data, TaskData):
        sets = {name: to_examples(getattr(data, name), program, name=f"{name} set") for name in _SETS}
    else:
        sets = _split(to_examples(data, program))
    _check_disjoint(sets)
    for name in rows or {}:
        if name not in sets:
            raise DataError(f"No set named {name!r} to draw rows from; there are train, validation and test.")
    drawn = {name: draw(examples, (rows or {}).get(name), seed, name) for name, examples in sets.items()}
    for name, examples in drawn.items():
        if not examples:
            raise DataError(f"The {name} set is empty; give more rows (there are {_sizes(sets)}).")
    return Splits(**drawn)


def digest(splits: Splits) -> str:
    """sha256 over all rows of the three sets, in any order within a set: equal for equal data, in any process."""
    content = {name: sorted(map(row_digest, getattr(splits, name))) for name in _SETS}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def row_digest(row: Row) -> str:
    """sha256 over one row's canonical JSON."""
    return hashlib.sha256(canonical_json({str(key): plain(value) for key, value in row.items()})).hexdigest()


def _split(examples: Sequence[dspy.Example]) -> dict[str, tuple[dspy.Example, ...]]:
    # By where the hash of the inputs falls, so that neither order nor rows added later move a row to another set: what
    # was trained on is never tested on. Only a set that would be empty takes the nearest row of the fullest.
    keys = [leak_key(example) for example in examples]
    member = {key: _SETS[sum(int(key[:16], 16) / 16**16 >= cut for cut in _CUTS)] for key in keys}
    for name in _SETS:
        counts = {other: sum(where == other for where in member.values()) for other in _SETS}
        fullest = max(_SETS, key=counts.__getitem__)
        if not counts[name] and counts[fullest] > 1:
            key = (max if _SETS.index(name) > _SETS.index(fullest) else min)(
                key for key, where in member.items() if where == fullest
            )
            member[key] = name
    return {
        name: tuple(example for example, key in zip(examples, keys, strict=True) if member[key] == name)
        for name in _SETS
    }


def _check_disjoint(sets: Mapping[str, Sequence[dspy.Example]]) -> None:
    # Inputs are compared, not whole rows: the same question with another label is a leak too.
    tested = {leak_key(row): number for number, row in enumerate(sets["test"], start=1)}
    for name in ("train", "validation"):
        for number, row in enumerate(sets[name], start=1):
            twin = tested.get(leak_key(row))
            if twin is not None:
                same = row_digest(row.inputs()) == row_digest(sets["test"][twin - 1].inputs())
                raise DataError(
                    f"Row {twin} of the test set has the same inputs as row {number} of the {name} set"
                    f"{'' if same else ' but for case, blanks and final punctuation'}; scores on rows that were "
                    "trained on mean nothing. Remove one of them."
                )


def leak_key(example: dspy.Example) -> str:
    """Equal for rows that are copies of each other, though one may be written a little differently."""
    inputs = {str(key): normal_form(plain(value), loose=True) for key, value in example.inputs().items()}
    return hashlib.sha256(canonical_json(inputs)).hexdigest()


def draw(examples: tuple[dspy.Example, ...], count: int | None, seed: int, name: str) -> tuple[dspy.Example, ...]:
    """`count` of the examples of the set `name`, all of them if it is None or too many."""
    if count is None:
        return examples
    if count < 1:
        raise DataError(f"Cannot draw {count} rows from the {name} set; ask for at least 1.")
    order = list(range(len(examples)))
    random.Random(f"{seed}/{name}").shuffle(order)
    return tuple(examples[index] for index in order[:count])


def _sizes(sets: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(f"{len(rows)} {name}" for name, rows in sets.items())
