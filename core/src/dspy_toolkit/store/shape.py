"""What of a program its stored state depends on, field by field, so that a mismatch can be explained.

`signatures.fingerprint` says whether two programs fit; a shape says where they differ.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.adapters.utils import get_annotation_name
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from dspy_toolkit.errors import closest_first
from dspy_toolkit.optimize.data import signatures_of

__all__ = ["Shape", "differences", "shape_of"]

Shape = dict[str, dict[str, dict[str, str]]]
"""Predictor's name to "inputs" and "outputs" to field name to type; in the order of the signature."""


def shape_of(program: dspy.Module) -> Shape:
    """The shape of a program. A type is its name and, for types with content (models, enums), a hash of that
    content.
    """
    return {
        name: {
            "inputs": {field: _type(info.annotation) for field, info in signature.input_fields.items()},
            "outputs": {field: _type(info.annotation) for field, info in signature.output_fields.items()},
        }
        for name, signature in signatures_of(program).items()
    }


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What changed from the stored shape to the current one, one sentence each; a removed name is paired with the
    closest.
    """
    changes = []
    for name in stored:
        if name not in current:
            changes.append(f"the predictor {name!r} is gone{_instead(name, stored, current)}")
    changes += [f"the predictor {name!r} is new" for name in current if name not in stored]
    for name in stored:
        if name in current:
            for role in ("inputs", "outputs"):
                changes += _field_changes(name, role[:-1], stored[name][role], current[name][role])
    return changes


def _field_changes(predictor: str, role: str, stored: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    changes = []
    for field in stored:
        if field not in current:
            changes.append(f"the {role} {field!r} of {predictor!r} is gone{_instead(field, stored, current)}")
        elif stored[field] != current[field]:
            was, now = _named(stored[field]), _named(current[field])
            became = f"was {was} and is {now}" if was != now else f"is still called {now}, with other content"
            changes.append(f"the type of the {role} {field!r} of {predictor!r} {became}")
    changes += [f"the {role} {field!r} of {predictor!r} is new" for field in current if field not in stored]
    if not changes and list(stored) != list(current):
        changes.append(
            f"the {role}s of {predictor!r} were in the order {', '.join(stored)} and are {', '.join(current)}"
        )
    return changes


def _instead(name: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    new = [each for each in current if each not in stored]
    return f" (renamed to {closest_first(name, new)[0]!r}?)" if new else ""


def _type(annotation: Any) -> str:
    name = get_annotation_name(annotation)
    try:
        schema = TypeAdapter(annotation).json_schema()
    except PydanticUserError:  # a type pydantic knows no schema for; its name has to do
        return name
    if "$defs" not in schema and "properties" not in schema and "enum" not in schema:
        return name
    return f"{name}#{hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:8]}"


def _named(type_: str) -> str:
    return type_.partition("#")[0]
