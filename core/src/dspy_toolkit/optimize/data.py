"""Rows in, `dspy.Example`s out: input fields inferred, missing values named, no row in two sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.types import TaskData

__all__ = ["Splits", "digest", "input_fields", "prepare", "to_examples"]

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Three disjoint lists of examples with inputs set."""

    train: tuple[dspy.Example, ...]
    validation: tuple[dspy.Example, ...]
    test: tuple[dspy.Example, ...]


def input_fields(program: dspy.Module) -> tuple[str, ...]:
    """The names a caller of `program` gives: `forward`'s named parameters, else what its predictors need and none makes."""
    raise NotImplementedError


def to_examples(rows: Sequence[Row], program: dspy.Module, *, name: str = "dataset") -> tuple[dspy.Example, ...]:
    """Rows (dictionaries or `dspy.Example`s) as examples of this program. Raises DataError with row (from 1) and field."""
    raise NotImplementedError


def prepare(
    data: TaskData | Sequence[Row],
    program: dspy.Module,
    *,
    rows: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Splits:
    """Check, split (a single dataset is split by content hash, the same way for ever), draw `rows` of each set by `seed`.

    Raises DataError: a missing input, an empty set, a test row that is also in train or validation.
    """
    raise NotImplementedError


def digest(splits: Splits) -> str:
    """sha256 over the canonical JSON of all rows: equal for equal data, in any process."""
    raise NotImplementedError
