"""The grammar of one output field: what DSPy's `parse_value` turns into a value of the field's type.

`parse_value` hands most text to json_repair first, so that the text `12` of a `Path` becomes a number and is refused.
What is compiled here is the part of the texts that comes back as a value of the type; where several spellings of a
value exist (a word, the word in quotes, an enum member's name), DSPy itself is asked which one it reads.
"""

import enum
import json
import types
from collections.abc import Iterator
from typing import Any, NamedTuple, Union, get_args, get_origin

import dspy
from pydantic.fields import FieldInfo

from dspy_toolkit.compat.adapters import format_field_value, parse_value, serialize_for_json
from dspy_toolkit.grammar.pattern import translate
from dspy_toolkit.grammar.rules import Piece, Rules, literal, padded, regex_of_number, regex_piece, string_format
from dspy_toolkit.grammar.schema import UnsupportedTypeError, schema_of

__all__ = ["LINE_BREAKS", "MARKER", "Value", "chat_value", "json_value"]

MARKER = "\n\n[[ ## "
"""What ends a free text in ChatAdapter's format. Shorter would end at texts that contain a matrix."""

LINE_BREAKS = r"\x85\u2028\u2029"
"""Where `str.splitlines` breaks beyond the ASCII controls."""

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
_CHAR = rf"[^\n{_CONTROLS}]"
_BLANK = r" \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"

# Words that json or Python reads as something else than text.
_WORDS = "null|true|false|NaN|Infinity|None|True|False"
_WORDY_CHARS = r"A-Za-z0-9\p{L},.;:!?%&*+=<>@^_|~$-"
_WORDY = rf"[A-Za-z\p{{L}}](?:[ {_WORDY_CHARS}]*[{_WORDY_CHARS}])?"


class Value(NamedTuple):
    """The grammar of a field's value. `closed` says that its rule takes the MARKER behind it along."""

    lark: str
    minimal: str
    closed: bool = False


def _unless(prefix: str, excluded: str = "") -> str:
    """The rest of a line that does not begin with `prefix`; its first character is not in the class `excluded`."""
    rest = ""
    for place in range(len(prefix) - 1, -1, -1):
        char = "\\" + prefix[place] if prefix[place] in "[#" else prefix[place]
        first = excluded if place == 0 else ""
        other = rf"[^\n{_CONTROLS}{first}{char}]{_CHAR}*"
        rest = f"(?:{other}|{char}{rest})?" if rest or place < len(prefix) - 1 else f"(?:{other})?"
    return rest


# ChatAdapter.parse takes every line that begins with a header for the start of another field, whatever stands before.
_LINE = rf"[{_BLANK}]*{_unless('[[ ##', _BLANK)}"
_FIRST_LINE = _unless("[[", _BLANK).removesuffix("?")
_TEXT = rf"{_FIRST_LINE}(?:\n{_LINE})*"
# DSPy shows the answer's shape with `{answer}` in the place of a value, and small models answer just that.
_NO_PLACEHOLDER = rf"(?:{_unless('[[', _BLANK + '{').removesuffix('?')}|\{{(?:[\"'}}\d]{_CHAR}*)?)"
_PROSE = rf"{_NO_PLACEHOLDER}(?:\n{_LINE})*"


def chat_value(rules: Rules, info: FieldInfo) -> Value:
    """The value of a field between its header and the next. Raises UnsupportedTypeError."""
    annotation = info.annotation
    if _is_text(annotation):
        return _free_text(rules, {} if annotation is Any else schema_of(info.rebuild_annotation()))
    schema = schema_of(info.rebuild_annotation())
    piece = rules.either(list(_chat_options(rules, schema, schema, annotation)))
    if piece is None:
        raise UnsupportedTypeError("it cannot be written without nesting too deeply")
    return Value(*piece)


def json_value(rules: Rules, info: FieldInfo) -> Piece:
    """The value of a field of JSONAdapter's object. Raises UnsupportedTypeError."""
    annotation = info.annotation
    schema = schema_of(info.rebuild_annotation())
    if _is_text(annotation):
        piece = rules.value(schema, schema, 1)
    else:
        piece = rules.either(list(_json_options(rules, schema, schema, annotation)))
    if piece is None:
        raise UnsupportedTypeError("it cannot be written without nesting too deeply")
    return piece


def _is_text(annotation: Any) -> bool:
    """Whether every text comes back as a value of the type."""
    if annotation is str or annotation is Any:
        return True
    if isinstance(annotation, type) and issubclass(annotation, (dspy.Reasoning, dspy.Code)):
        return True
    # The same question as parse_value asks: an Annotated[str, ...] inside a union does not count.
    args = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    return type(None) in args and str in args


def _options(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema's alternatives, unions inside unions laid flat."""
    if "$ref" in schema:
        yield from _options(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    elif "anyOf" in schema or "oneOf" in schema:
        for option in schema.get("anyOf", schema.get("oneOf", [])):
            yield from _options(option, root)
    else:
        yield schema


# --- ChatAdapter


def _free_text(rules: Rules, schema: dict[str, Any]) -> Value:
    """Text up to the next marker: not empty, no blank, `[[` or placeholder at its start, no line like a header."""
    strings = [option for option in _options(schema, schema) if option.get("type") == "string"]
    limits = [
        {key: option[key] for key in ("minLength", "maxLength", "pattern") if key in option} for option in strings
    ]
    limit = limits[0] if limits and all(limits) else {}
    if not limit:
        return Value(rules.delimited(f"/{_PROSE}/", MARKER), "a", closed=True)
    least, most = max(limit.get("minLength", 1), 1), limit.get("maxLength", "")
    if most == 0:
        raise UnsupportedTypeError("a text without a character cannot be written")
    # Blanks at the end would be stripped and no longer count.
    terms = [f"/{_TEXT}/", r"/(?s:.*)\S/", f"/(?s:.){{{least},{most}}}/"]
    minimal = padded("", {"minLength": least})
    if "pattern" in limit:
        piece = translate(limit["pattern"], in_json=False, anything="(?s:.)")
        terms.append(regex_piece(piece.regex, "").lark)
        minimal = padded(piece.minimal, {"minLength": least})
    return Value(rules.delimited(rules.named(" & ".join(terms), terminal=True), MARKER), minimal, closed=True)


def _chat_options(
    rules: Rules, schema: dict[str, Any], root: dict[str, Any], annotation: Any
) -> Iterator[Piece | None]:
    for option in _options(schema, root):
        kind = option.get("type")
        if "const" in option or "enum" in option:
            for value in [option["const"]] if "const" in option else option["enum"]:
                yield literal(_spelling(value, annotation))
        elif kind == "null":
            yield literal("None")
        elif kind == "boolean":
            yield literal("True")
            yield literal("False")
        elif kind in ("integer", "number"):
            yield regex_of_number(option)
        elif kind == "string":
            form = string_format(option)
            yield regex_piece(*form) if form else _wordy(rules, option, quote="")
        else:
            yield rules.value(option, root)


def _wordy(rules: Rules, schema: dict[str, Any], quote: str) -> Piece:
    """A line of words that json_repair leaves alone, for types that are not `str` but are read from text."""
    if "pattern" in schema:
        raise UnsupportedTypeError("a pattern on a text that is one of several types cannot be compiled; use str alone")
    least, most = max(schema.get("minLength", 1), 1), schema.get("maxLength", "")
    terms = [
        f"/{quote}{_WORDY}{quote}/",
        f"~/{quote}(?:{_WORDS}){quote}/",
        f"/{quote}(?s:.){{{least},{most}}}{quote}/",
    ]
    return Piece(rules.named(" & ".join(terms), terminal=True), f"{quote}{'a' * least}{quote}")


def _spelling(value: Any, annotation: Any) -> str:
    """The text that DSPy reads as `value` (in its JSON form): as demonstrations show it, or in quotes, or by name."""
    rendered = format_field_value(FieldInfo(annotation=annotation), value)
    texts = [str(rendered), json.dumps(value, ensure_ascii=False), *_names(value, annotation)]
    for text in texts:
        one_line = text == text.strip() and len(text.splitlines()) == 1 and not text.startswith("[[")
        if one_line and _reads_as(text, value, annotation):
            return text
    raise UnsupportedTypeError(f"DSPy reads no text as its value {value!r}")


def _names(value: Any, annotation: Any) -> list[str]:
    if not isinstance(annotation, enum.EnumMeta):
        return []
    return [name for name, member in annotation.__members__.items() if serialize_for_json(member) == value]


def _reads_as(spelling: Any, value: Any, annotation: Any) -> bool:
    try:
        parsed = serialize_for_json(parse_value(spelling, annotation))
    except (ValueError, TypeError):
        return False
    return parsed == value and type(parsed) is type(value)


# --- JSONAdapter


def _json_options(
    rules: Rules, schema: dict[str, Any], root: dict[str, Any], annotation: Any
) -> Iterator[Piece | None]:
    for option in _options(schema, root):
        if "const" in option or "enum" in option:
            for value in [option["const"]] if "const" in option else option["enum"]:
                yield _json_spelling(rules, value, annotation)
        elif option.get("type") == "string" and string_format(option) is None:
            yield _wordy(rules, option, quote='"')
        else:
            yield rules.value(option, root, 1)


def _json_spelling(rules: Rules, value: Any, annotation: Any) -> Piece | None:
    for spelling in [value, json.dumps(value, ensure_ascii=False), *_names(value, annotation)]:
        if _reads_as(spelling, value, annotation):
            return rules.value({"const": spelling}, {}, 1)
    raise UnsupportedTypeError(f"DSPy reads no JSON value as its value {value!r}")
