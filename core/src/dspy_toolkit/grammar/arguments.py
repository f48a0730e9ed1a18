"""The grammar of a tool's arguments: JSON that fits the tool's JSON schema.

Schemas made of what pydantic and DSPy write are compiled here, and then mean exactly what they say: no argument that
the tool does not have, numbers that a program can hold, strings that are text. Everything else goes to llguidance's own
compiler (`%json`), which knows more of JSON Schema and bounds less.
"""

import json
from collections.abc import Mapping
from typing import Any

from dspy_toolkit.grammar.rules import Piece, Rules
from dspy_toolkit.grammar.schema import UnsupportedTypeError

__all__ = ["arguments", "value_of"]

_NOTES = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "$schema",
    "$id",
    "readOnly",
    "writeOnly",
    "strict",
}
_KNOWN = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
# llguidance's options: the spacing of `json.dumps`, which is what chat templates show models.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def arguments(rules: Rules, schema: Mapping[str, Any]) -> Piece:
    """The JSON object of a call's arguments. Adds its rules to `rules`."""
    return value_of(rules, {"type": "object", "properties": {}, **schema}, schema)


def value_of(rules: Rules, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Piece:
    """A JSON value that fits `schema`, whose `$ref`s point into `root`."""
    whole = {**schema, **{key: root[key] for key in ("$defs", "definitions") if key in root}}
    try:
        if _is_plain(whole, root):
            piece = rules.value(_strict(schema), _strict(root))
            if piece is not None:
                return piece
    except UnsupportedTypeError:
        pass  # a keyword's value that only llguidance may know
    schema_text = json.dumps({**_closed(whole), "x-guidance": _SPACING}, ensure_ascii=False)
    return Piece(rules.named(f"%json {schema_text}"), _least(whole))


def _is_plain(schema: Any, root: Mapping[str, Any]) -> bool:
    """Whether `Rules` knows every keyword of the schema, so that none is left out of account."""
    if not isinstance(schema, Mapping):
        return False
    keys = set(schema) - _NOTES - {"$defs", "definitions"}
    if "$ref" in keys:
        ref = schema["$ref"]
        name = ref.removeprefix("#/$defs/") if isinstance(ref, str) else ref
        # Types that contain themselves are llguidance's: `Rules` would unroll them to its depth.
        return (
            keys == {"$ref"}
            and name in root.get("$defs", {})
            and _is_plain(
                root["$defs"][name], {"$defs": {key: value for key, value in root["$defs"].items() if key != name}}
            )
        )
    if "anyOf" in keys:
        return keys == {"anyOf"} and all(_is_plain(option, root) for option in schema["anyOf"])
    if "const" in keys or "enum" in keys:
        return not keys - {"const", "enum", "type"}
    kind = schema.get("type")
    if not isinstance(kind, str) or keys - {"type"} - _KNOWN.get(kind, set()) or kind not in _KNOWN:
        return not keys
    inner = [*schema.get("properties", {}).values(), *schema.get("prefixItems", [])]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), Mapping)]
    if "properties" in schema and isinstance(schema.get("additionalProperties"), Mapping):
        return False
    return all(_is_plain(part, root) for part in inner)


def _strict(schema: Any) -> Any:
    """The same with what may be left out marked for `Rules`: a tool's optional arguments may be absent."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    literal = ("enum", "const", "default", "examples")
    marked = {key: value if key in literal else _strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), Mapping):
        marked["x-optional"] = True
        # A property may be called `enum` or `default`: those are schemas here.
        marked["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
    return marked


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Without arguments that nobody declared, unless the schema speaks of them."""
    speaks = {"additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"}
    if "properties" in schema and not speaks & set(schema):
        return {**schema, "additionalProperties": False}
    return dict(schema)


def _least(schema: Mapping[str, Any]) -> str:
    """About how long a short value is. Only ever used to know when to stop in time."""
    if schema.get("type") == "object":
        return json.dumps(dict.fromkeys(schema.get("required", ()), ""))
    return '""'
