"""Where two programs differ in what their stored state depends on, field by field.

`signatures.fingerprints` says whether they do; this explains it. A shape is what the fingerprint covers,
`signatures.fingerprints.structure`: for each predictor a list of [role, field, type].
"""

from collections.abc import Mapping
from typing import Any

from dspy_toolkit.errors import closest_first

__all__ = ["Shape", "differences"]

Shape = dict[str, list[tuple[str, str, str]]]
"""Predictor's name to (role, field name, type), in the order of the signature."""


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What changed from the stored shape to the current one, a sentence each, with the closest new name."""
    changes = []
    for name in stored:
        if name not in current:
            changes.append(f"the predictor {name!r} is gone{_instead(name, stored, current)}")
    changes += [f"the predictor {name!r} is new" for name in current if name not in stored]
    for name in stored:
        if name in current:
            for role in ("input", "output"):
                changes += _field_changes(name, role, _of_role(stored[name], role), _of_role(current[name], role))
    return changes


def _of_role(fields: Any, expected_role: str) -> dict[str, str]:
    return {name: type_ for role, name, type_ in fields if role == expected_role}


def _field_changes(predictor: str, role: str, stored: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    changes = []
    for field in stored:
        if field not in current:
            changes.append(f"the {role} {field!r} of {predictor!r} is gone{_instead(field, stored, current)}")
        elif stored[field] != current[field]:
            changes.append(
                f"the type of the {role} {field!r} of {predictor!r} was {stored[field]} and is {current[field]}"
            )
    changes += [f"the {role} {field!r} of {predictor!r} is new" for field in current if field not in stored]
    if not changes and list(stored) != list(current):
        changes.append(
            f"the {role}s of {predictor!r} were in the order {', '.join(stored)} and are {', '.join(current)}"
        )
    return changes


def _instead(name: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    new = [candidate for candidate in current if candidate not in stored]
    return f" (renamed to {closest_first(name, new)[0]!r}?)" if new else ""
