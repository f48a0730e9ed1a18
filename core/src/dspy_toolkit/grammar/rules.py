"""From a JSON schema to Lark rules that write it the way `json.dumps` does.

    compact     {"a": 1, "b": [2, 3]}           inside ChatAdapter's fields
    indented    json.dumps(..., indent=2)       JSONAdapter's object

Rules are made per schema node and depth, because the indentation depends on the depth and because a recursive type must
end somewhere: pydantic and json give up on deep nesting, so beyond MAX_DEPTH only what does not nest is left.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from dspy_toolkit.grammar import numbers
from dspy_toolkit.grammar.formats import FORMATS, Format, moment
from dspy_toolkit.grammar.pattern import escape, translate
from dspy_toolkit.grammar.schema import UnsupportedTypeError

__all__ = ["MAX_DEPTH", "Piece", "Rules", "literal", "regex_of_number"]

MAX_DEPTH = 16
_MOST_VALUES = 2000

# Escapes of lone surrogates are no text; json.loads would make a string that nothing can encode.
_ESCAPE = (
    r'\\(?:["\\/bfnrt]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)


class Piece(NamedTuple):
    """A Lark expression and a shortest text that it accepts."""

    lark: str
    minimal: str


def literal(text: str) -> Piece:
    return Piece(json.dumps(text), text)


def regex_piece(regex: str, minimal: str) -> Piece:
    return Piece("/" + regex.replace("/", r"\/") + "/", minimal)


class Rules:
    """Collects the rules of one grammar.

    `indent` is the number of spaces per level, None for one line. `line_breaks` are characters beyond the controls that
    a string must write as escapes because the reader splits lines at them. `escape` is a regex of the escapes that may
    be written, for readers that do not know all of JSON's.
    """

    def __init__(self, *, indent: int | None, line_breaks: str = "", escape: str = _ESCAPE):
        self._indent = indent
        self.char = rf'(?:[^"\\\x00-\x1f{line_breaks}]|{escape})'
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._attributes: dict[str, str] = {}
        self._markers: dict[str, None] = {}
        self._values: dict[tuple[str, int], Piece | None] = {}

    def named(self, body: str, *, terminal: bool = False) -> str:
        """The name of a rule, or of a terminal, with this body."""
        if body not in self._names:
            name = f"T{len(self._names)}" if terminal else f"r{len(self._names)}"
            self._names[body] = name
            self._bodies[name] = body
        return self._names[body]

    def delimited(self, body: str, suffix: str) -> str:
        """A rule that matches the terminal `body` up to the first `suffix`, which it takes along."""
        name = self.named(body)
        self._attributes[name] = f"[suffix={json.dumps(suffix)}]"
        self._markers[suffix] = None
        return name

    @property
    def markers(self) -> tuple[str, ...]:
        """The suffixes that end free texts, in the order of their first use."""
        return tuple(self._markers)

    def text(self) -> str:
        """The Lark text of all rules."""
        return "".join(f"{name}{self._attributes.get(name, '')}: {body}\n" for name, body in self._bodies.items())

    def either(self, pieces: Iterable[Piece | None]) -> Piece | None:
        """A choice; pieces that are None cannot be written at their depth. None if nothing is left."""
        unique = {piece.lark: piece for piece in pieces if piece is not None}
        if not unique:
            return None
        minimal = min((piece.minimal for piece in unique.values()), key=len)
        if len(unique) == 1:
            return next(iter(unique.values()))
        return Piece(self.named(" | ".join(unique)), minimal)

    def value(self, schema: dict[str, Any], root: dict[str, Any], depth: int = 0) -> Piece | None:
        """The JSON value that `schema` describes, None if it would nest too deeply.

        `root` holds the `$defs`. Raises UnsupportedTypeError.
        """
        key = (json.dumps(schema, sort_keys=True, default=str), depth)
        if key not in self._values:
            self._values[key] = self._value(schema, root, depth)
        return self._values[key]

    def _value(self, schema: dict[str, Any], root: dict[str, Any], depth: int) -> Piece | None:
        if "$ref" in schema:
            return self.value(root["$defs"][schema["$ref"].rpartition("/")[2]], root, depth)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.either([self.value(option, root, depth) for option in schema[choice]])
        if "allOf" in schema and len(schema["allOf"]) == 1:
            return self.value(schema["allOf"][0], root, depth)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self.either([self._dumped(value, depth) for value in values])
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, root, depth)
        if kind == "array":
            return self._array(schema, root, depth)
        if kind == "string":
            return self.string(schema)
        if kind in ("integer", "number"):
            piece = regex_of_number(schema)
            return Piece(f'"\\"" {piece.lark} "\\""', f'"{piece.minimal}"') if "x-decimal" in schema else piece
        if kind in ("boolean", "null"):
            return self.either([literal(word) for word in (("true", "false") if kind == "boolean" else ("null",))])
        if kind is None and not schema.keys() - {"title", "description", "default", "examples", "deprecated"}:
            return self._anything(depth)
        raise UnsupportedTypeError(f"its JSON schema {_short(schema)} cannot be compiled")

    def _dumped(self, value: Any, depth: int) -> Piece:
        text = json.dumps(value, ensure_ascii=False, indent=self._indent)
        if self._indent is not None:
            text = text.replace("\n", "\n" + " " * (self._indent * depth))
        return literal(text)

    def _anything(self, depth: int) -> Piece | None:
        scalars = [{"type": kind} for kind in ("null", "boolean", "integer", "number", "string")]
        nested = [{"type": "array", "items": {}}, {"type": "object", "additionalProperties": {}}]
        return self.either([self.value(schema, {}, depth) for schema in scalars + nested])

    # Strings

    def string(self, schema: dict[str, Any]) -> Piece:
        """A JSON string, with its quotes."""
        form = string_format(schema)
        if form is not None:
            return regex_piece(f'"{form.regex}"', f'"{form.minimal}"')
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        plain = f'"{self.char}{_times(least, most)}"'
        if "pattern" not in schema:
            return Piece(self.named(regex_piece(plain, "").lark, terminal=True), f'"{"a" * least}"')
        piece = translate(schema["pattern"], in_json=True, anything=self.char)
        minimal = json.dumps(padded(piece.minimal, schema), ensure_ascii=False)
        body = f"{regex_piece(f'{chr(34)}{piece.regex}{chr(34)}', '').lark} & {regex_piece(plain, '').lark}"
        return Piece(self.named(body, terminal=True), minimal)

    # Containers

    def _layout(self, depth: int) -> tuple[str, str, str]:
        """What stands after the opening bracket, between the items, and before the closing bracket."""
        if self._indent is None:
            return "", ", ", ""
        inner, outer = " " * (self._indent * (depth + 1)), " " * (self._indent * depth)
        return f"\n{inner}", f",\n{inner}", f"\n{outer}"

    def _array(self, schema: dict[str, Any], root: dict[str, Any], depth: int) -> Piece | None:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        fixed = schema.get("prefixItems", [])
        if schema.get("uniqueItems") and least > 1:
            raise UnsupportedTypeError(
                f"a set of at least {least} items: a grammar cannot keep items apart; use a list"
            )
        if depth >= MAX_DEPTH:
            return literal("[]") if least == 0 else None
        if fixed and (most is None or most > len(fixed)):
            raise UnsupportedTypeError("a tuple that goes on after its fixed items cannot be compiled")
        if fixed:
            pieces = [self.value(item, root, depth + 1) for item in fixed]
            return self.bracketed("[]", pieces, depth)
        item = self.value(schema.get("items", {}), root, depth + 1) if most != 0 else None
        return self._repeated("[]", item, least, most, depth)

    def _object(self, schema: dict[str, Any], root: dict[str, Any], depth: int) -> Piece | None:
        if "properties" in schema:
            if depth >= MAX_DEPTH:
                return None
            properties = schema["properties"]
            required = set(schema.get("required", ()))
            fields: list[Piece | None] = []
            optional: list[bool] = []
            for name, inner in properties.items():
                field = self.pair(name, self.value(inner, root, depth + 1))
                if field is None and name not in required:
                    continue  # it has a default, and its type would nest too deeply here
                fields.append(field)
                optional.append(bool(schema.get("x-optional")) and name not in required)
            return self.bracketed("{}", fields, depth, optional)
        values = schema.get("additionalProperties", True)
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        if least > 1:
            raise UnsupportedTypeError(
                f"a dict of at least {least} items: a grammar cannot keep keys apart; use a list"
            )
        if depth >= MAX_DEPTH:
            return literal("{}") if least == 0 else None
        inner = self.value({} if values is True else values, root, depth + 1)
        key = self._key(schema.get("x-keys", {"type": "string"}), root)
        return self._repeated("{}", self._joined(key, inner), least, most, depth)

    def pair(self, name: str, value: Piece | None) -> Piece | None:
        """One property of an object."""
        return self._joined(literal(json.dumps(name, ensure_ascii=False)), value)

    def _joined(self, key: Piece, value: Piece | None) -> Piece | None:
        return value and Piece(f'{key.lark} ": " {value.lark}', f"{key.minimal}: {value.minimal}")

    def _key(self, schema: dict[str, Any], root: dict[str, Any]) -> Piece:
        """A dictionary's key: always a JSON string, whatever its type in Python."""
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            piece = self.either([literal(json.dumps(_key_text(value), ensure_ascii=False)) for value in values])
            assert piece is not None
            return piece
        kind = schema.get("type", "string")
        if kind == "string":
            return self.string(schema)
        if kind in ("integer", "number"):
            number = regex_of_number(schema)
            return Piece(f'"\\"" {number.lark} "\\""', f'"{number.minimal}"')
        raise UnsupportedTypeError(f"a dict with keys of the schema {_short(schema)} cannot be compiled")

    def bracketed(
        self, brackets: str, pieces: list[Piece | None], depth: int, optional: list[bool] | None = None
    ) -> Piece | None:
        """All pieces in order; the optional ones may be absent."""
        if any(piece is None for piece in pieces):
            return None
        if not pieces:
            return literal(brackets)
        opening, between, closing = self._layout(depth)
        if not optional or not any(optional):
            lark = f" {json.dumps(between)} ".join(piece.lark for piece in pieces if piece)
            lark = f"{json.dumps(brackets[0] + opening)} {lark} {json.dumps(closing + brackets[1])}"
            minimal = between.join(piece.minimal for piece in pieces if piece)
            return Piece(self.named(lark), f"{brackets[0]}{opening}{minimal}{closing}{brackets[1]}")
        rest: dict[bool, str] = {True: json.dumps(brackets), False: json.dumps(closing + brackets[1])}
        # From the last to the first, with nothing written yet (True) or something before it (False).
        for piece, may_lack in zip(reversed(pieces), reversed(optional), strict=True):
            assert piece is not None
            lead = {True: json.dumps(brackets[0] + opening), False: json.dumps(between)}
            taken = {first: f"{lead[first]} {piece.lark} {rest[False]}" for first in (True, False)}
            rest = {
                first: self.named(f"{taken[first]} | {rest[first]}" if may_lack else taken[first])
                for first in (True, False)
            }
        needed = [piece.minimal for piece, lacks in zip(pieces, optional, strict=True) if piece and not lacks]
        text = f"{brackets[0]}{opening}{between.join(needed)}{closing}{brackets[1]}" if needed else brackets
        return Piece(rest[True], text)

    def _repeated(self, brackets: str, item: Piece | None, least: int, most: int | None, depth: int) -> Piece | None:
        if item is None or most == 0:
            return literal(brackets) if least == 0 else None
        opening, between, closing = self._layout(depth)
        more = f"({json.dumps(between)} {self.named(item.lark)}){_times(max(least, 1) - 1, most and most - 1)}"
        lark = f"{json.dumps(brackets[0] + opening)} {self.named(item.lark)} {more} {json.dumps(closing + brackets[1])}"
        if least:
            minimal = between.join([item.minimal] * least)
            return Piece(self.named(lark), f"{brackets[0]}{opening}{minimal}{closing}{brackets[1]}")
        return Piece(self.named(f"{json.dumps(brackets)} | {lark}"), brackets)


def string_format(schema: dict[str, Any]) -> Format | None:
    """The format of a string schema, None if it has none that restricts the text."""
    name = schema.get("format", schema.get("contentMediaType"))
    if name in (None, "binary", "path"):
        return None
    if name in ("date-time", "time"):
        try:
            return moment(name, schema.get("x-zone"))
        except ValueError as error:
            raise UnsupportedTypeError(str(error)) from error
    if name not in FORMATS:
        raise UnsupportedTypeError(f"strings of the format {name!r} cannot be compiled; use str with a pattern")
    return FORMATS[name]


def regex_of_number(schema: dict[str, Any]) -> Piece:
    """A number as JSON writes it, within the bounds of its schema."""
    try:
        if "multipleOf" in schema:
            return _multiples(schema)
        if schema["type"] == "integer":
            low, high = _integer_bounds(schema)
            regex = numbers.integer_range(low, high)
            return regex_piece(regex, _nearest_zero(low, high))
        low, high = numbers.float_bounds(schema)
        if "x-decimal" in schema:
            limit = numbers.Decimal(10) ** numbers.INTEGER_DIGITS - 1
            low, high = max(low, -limit), min(high, limit)
            regex = numbers.decimal_range(low, high, schema["x-decimal"])
        else:
            regex = numbers.float_range(low, high)
        return regex_piece(regex, numbers.shortest(low, high, whole=False))
    except ValueError as error:
        raise UnsupportedTypeError(str(error)) from error


def _integer_bounds(schema: dict[str, Any]) -> tuple[int | None, int | None]:
    lows = [schema[key] + step for key, step in (("minimum", 0), ("exclusiveMinimum", 1)) if key in schema]
    highs = [schema[key] - step for key, step in (("maximum", 0), ("exclusiveMaximum", 1)) if key in schema]
    return (max(lows) if lows else None), (min(highs) if highs else None)


def _nearest_zero(low: int | None, high: int | None) -> str:
    if low is not None and low > 0:
        return str(low)
    return str(high) if high is not None and high < 0 else "0"


def _multiples(schema: dict[str, Any]) -> Piece:
    step = schema["multipleOf"]
    low, high = _integer_bounds(schema)
    if low is None or high is None or (high - low) / step > _MOST_VALUES:
        raise UnsupportedTypeError(f"multiples of {step} need both bounds, at most {_MOST_VALUES} steps apart")
    first, last = int(-(-low // step)), int(high // step)
    texts = [
        format(value, "g") if isinstance(step, float) else str(value)
        for value in (number * step for number in range(first, last + 1))
    ]
    if not texts:
        raise UnsupportedTypeError(f"there is no multiple of {step} from {low} to {high}")
    return regex_piece(f"(?:{'|'.join(escape(text, in_json=False) for text in texts)})", min(texts, key=len))


def padded(text: str, schema: dict[str, Any]) -> str:
    """`text`, made long enough for the schema's minLength. The compiler checks what comes out."""
    return text + "a" * (schema.get("minLength", 0) - len(text))


def _times(least: int, most: int | None) -> str:
    if most is None:
        return "*" if least == 0 else f"{{{least},}}"
    return f"{{{least},{most}}}"


def _key_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(schema: dict[str, Any]) -> str:
    text = json.dumps(schema, default=str)
    return text if len(text) < 120 else text[:117] + "..."
