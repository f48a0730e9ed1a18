"""Dataclasses as JSON objects of the journal, and back.

Reading is lenient, because a journal may come from another version of the toolkit: unknown keys are dropped, and a
field whose value is missing or of another type takes its default.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["Record", "read_fields"]

T = TypeVar("T")


class Record:
    """Base of what a journal holds. `KIND` and `key` are the entry's, `to_wire` gives its data.

    Every field of a record has a default, so that any JSON object can be read as one.
    """

    KIND: ClassVar[str]

    @property
    def key(self) -> str:
        return ""

    def to_wire(self) -> Mapping[str, Any]:
        return vars(self)

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], key: str = "") -> Self:
        return read_fields(cls, data)


def read_fields(cls: type[T], data: Mapping[str, Any]) -> T:
    """An instance of the dataclass `cls` from those values of `data` that its fields can hold."""
    return cls(**{name: data[name] for name, holds in _types(cls).items() if name in data and _is(data[name], holds)})


def _is(value: Any, holds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in holds or object in holds
    return isinstance(value, holds)


@cache
def _types(cls: type[Any]) -> dict[str, tuple[type, ...]]:
    hints = get_type_hints(cls)
    return {field.name: tuple(_of(hints[field.name])) for field in fields(cls)}


def _of(hint: Any) -> list[type]:
    """The JSON types that a field of this type hint can hold."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return [kind for member in get_args(hint) for kind in _of(member)]
    if origin is Literal:
        return [str]
    plain = {Any: [object], float: [int, float], Mapping: [dict], Sequence: [list]}
    return plain.get(origin or hint, [origin or hint])
