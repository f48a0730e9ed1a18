"""How models write tool calls: the marks, the grammar between them, and the parser of mlx-lm that reads it back.

A model whose template mlx-lm knows keeps its format; for every other model the system message describes this default:

    <tool_call>
    {"name": "look_up", "arguments": {"city": "Lima"}}
    </tool_call>

    format                                          what the grammar guarantees
    json_tools, mistral, kimi_k2, pythonic          the tool, and arguments that fit its schema
    qwen3_coder, glm47, longcat, minimax_m2         the same; a string's pattern and format are kept by quoting it
    gemma4, function_gemma, minicpm5, muse_spark    the tool; its arguments are what mlx-lm's parser reads
    kimi_k3                                         nothing, it is refused: its marks are several tokens
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
from dspy.lm15 import FunctionTool, InvalidRequestError, UnsupportedFeatureError
from llguidance import LLTokenizer
from mlx_lm.tool_parsers import json_tools

from dspy_toolkit.grammar.arguments import arguments, value_of
from dspy_toolkit.grammar.pattern import escape
from dspy_toolkit.grammar.rules import Piece, Rules, literal
from dspy_toolkit_mlx.decoding.grammar import GrammarSource
from dspy_toolkit_mlx.models.tokenizers import chat_template_text, has_template_function

__all__ = ["ToolFormat", "tool_format"]

Parse = Callable[[str, list[dict[str, Any]]], Any]

# Escapes that mean the same in Python, whose strings know neither `\/` nor pairs of surrogates.
_PYTHON_ESCAPE = r'\\(?:["\\bfnrt]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))'
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


@dataclass(frozen=True)
class _Tags:
    """A format with tags around every argument. `call` and `argument` have a `%` where the name goes."""

    call: tuple[str, str]
    argument: tuple[str, str]
    quirks: str = ""  # a regex of strings that the parser would not return as strings
    bare: bool = True  # whether the parser reads a call without arguments; else it is written as JSON, which it reads


_TAGGED: Mapping[str, _Tags] = {
    "qwen3_coder": _Tags(
        ("\n<function=%>\n", "</function>\n"), ("<parameter=%>\n", "\n</parameter>\n"), r"[nN][uU][lL][lL]"
    ),
    "glm47": _Tags(("%\n", ""), ("<arg_key>%</arg_key>\n<arg_value>", "</arg_value>\n")),
    "longcat": _Tags(
        ("%\n", ""),
        ("<longcat_arg_key>%</longcat_arg_key>\n<longcat_arg_value>", "</longcat_arg_value>\n"),
        bare=False,
    ),
    "minimax_m2": _Tags(
        ('\n<invoke name="%">\n', "</invoke>\n"), ('<parameter name="%">', "</parameter>\n"), r"\s*[nN][uU][lL][lL]\s*"
    ),
}


@dataclass(frozen=True)
class _Named:
    """A format with unconstrained arguments: the text around the name, and what closes a call before its end mark."""

    opening: str
    after: str
    closing: str = ""
    quote: str = ""  # the token around strings
    name: re.Pattern[str] = _NAME  # names that the parser accepts


_NAMED: Mapping[str, _Named] = {
    "gemma4": _Named("call:", "{", "}", '<|"|>', re.compile(r"[A-Za-z_][\w-]*")),
    "function_gemma": _Named("call:", "{", "}", "<escape>", re.compile(r"[A-Za-z_]\w*")),
    "minicpm5": _Named('"', '">'),
    "muse_spark": _Named('\n<atem:invoke name="', '">', "</atem:invoke>\n"),
}


@dataclass(frozen=True)
class ToolFormat:
    """How one tokenizer writes calls. `described`: the template has no tools, so the system message describes them."""

    name: str
    start: str
    end: str
    parse: Parse
    described: bool
    tokenizer: LLTokenizer
    template: str = ""

    @property
    def opening(self) -> tuple[int, ...]:
        """The tokens that open a call."""
        return tuple(self.tokenizer.tokenize_str(self.start))

    @property
    def until(self) -> str:
        """The text that opens a call, "" if a special token does."""
        return "" if self.tokenizer.is_special_token(self.opening[0]) else self.start

    def source(self, tools: Sequence[FunctionTool], *, several: bool) -> GrammarSource:
        """The grammar of what follows the opening. Raises UnsupportedFeatureError and InvalidRequestError."""
        if self.name == "kimi_k3":
            raise UnsupportedFeatureError("Tool calls in Kimi K3's format are not supported.", feature="tools")
        if self.name != "json_tools":
            name = _NAMED[self.name].name if self.name in _NAMED else _NAME
            for tool in tools:
                if not name.fullmatch(tool.name):
                    raise InvalidRequestError(
                        f"The tool {tool.name!r} cannot be called in this model's format ({self.name}); use a name of "
                        "letters, digits and '_'."
                    )
        writer = _Writer(self, several)
        body = writer.body(tools)
        end = "" if writer.ended else writer.spelled(self.end)
        lark = f"start: {body.lark} {end}\n{writer.rules.text()}"
        quoted = self.name in ("json_tools", "mistral", "kimi_k2", "pythonic")
        markers = () if quoted else tuple(sorted({*writer.markers, *writer.rules.markers}))
        last = self.end if end else ""
        return GrammarSource("lark", lark, body.minimal + self.end, markers=markers, end=last, quoted=quoted)

    def read(self, text: str, tools: Sequence[FunctionTool]) -> list[dict[str, Any]]:
        """The calls (`name`, `arguments`, perhaps `id`) in a text; [] if it calls none of these tools."""
        inner = text[: len(text) - len(self.end)] if self.end and text.endswith(self.end) else text
        shapes = [{"type": "function", "function": {"name": t.name, "parameters": t.parameters}} for t in tools]
        try:
            parsed = self.parse(inner, shapes)
        except Exception:  # noqa: BLE001 - mlx-lm's parsers raise anything on unexpected text
            return []
        calls = parsed if isinstance(parsed, list) else [parsed]
        parameters = {tool.name: tool.parameters for tool in tools}
        valid = [call for call in calls if call.get("name") in parameters and isinstance(call.get("arguments"), dict)]
        tagged = self.name in _TAGGED
        return [
            {**call, "arguments": _with_types(call["arguments"], parameters[call["name"]])} if tagged else call
            for call in valid
        ]


class _Writer:
    """Builds the grammar of one format's calls."""

    def __init__(self, form: ToolFormat, several: bool):
        self._form = form
        self._several = several
        if form.name == "pythonic":
            self.rules = Rules(indent=None, escape=_PYTHON_ESCAPE)
        else:  # in JSON between tags, nothing may look like a tag
            self.rules = Rules(indent=None, line_breaks="<" if form.name in _TAGGED else "")
        self.markers: set[str] = set()
        self.ended = False  # whether the body includes the end mark

    def spelled(self, text: str) -> str:
        """A fixed text in Lark: special tokens by number, the rest as text."""
        low = self._form.tokenizer
        parts: list[str] = []
        plain: list[int] = []
        for token in [*low.tokenize_str(text), None]:
            if token is not None and not low.is_special_token(token):
                plain.append(token)
                continue
            if plain:
                parts.append(json.dumps(low.decode_str(plain)))
                plain = []
            if token is not None:
                parts.append(f"<[{token}]>")
        return " ".join(parts)

    def body(self, tools: Sequence[FunctionTool]) -> Piece:
        name = self._form.name
        if name == "kimi_k2":
            return self._repeated([self._kimi(tool) for tool in tools], "")
        if name == "pythonic":
            return self._listed("", [self._python(tool) for tool in tools])
        if name == "mistral" and "[ARGS]" in self._form.template:
            pieces = [(f"{tool.name}[ARGS]", arguments(self.rules, tool.parameters)) for tool in tools]
            return self._either([self._text(*piece) for piece in pieces])
        if name == "mistral":
            return self._listed("", [self._object(tool) for tool in tools])
        if name in _TAGGED:
            return self._either([self._tagged(tool, _TAGGED[name]) for tool in tools])
        if name in _NAMED:
            return self._named(tools, _NAMED[name])
        piece = self._either([self._object(tool) for tool in tools])
        return Piece(f'"\\n" {piece.lark} "\\n"', f"\n{piece.minimal}\n")

    def _either(self, pieces: Sequence[Piece]) -> Piece:
        piece = self.rules.either(pieces)
        assert piece is not None
        return piece if len(pieces) == 1 else Piece(self.rules.named(piece.lark), piece.minimal)

    def _repeated(self, pieces: Sequence[Piece], between: str) -> Piece:
        one = self._either(pieces)
        more = f" ({self.spelled(between)} {one.lark})*" if self._several else ""
        return Piece(one.lark + more, one.minimal)

    def _listed(self, prefix: str, pieces: Sequence[Piece]) -> Piece:
        inner = self._repeated(pieces, ", ")
        return Piece(f'"{prefix}[" {inner.lark} "]"', f"{prefix}[{inner.minimal}]")

    def _text(self, prefix: str, piece: Piece, suffix: str = "") -> Piece:
        lark = " ".join(part for part in (self.spelled(prefix), piece.lark, self.spelled(suffix)) if part)
        return Piece(self.rules.named(lark), prefix + piece.minimal + suffix)

    def _object(self, tool: FunctionTool) -> Piece:
        opening = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
        body = arguments(self.rules, tool.parameters)
        return Piece(self.rules.named(f'{json.dumps(opening)} {body.lark} "}}"'), opening + body.minimal + "}")

    def _kimi(self, tool: FunctionTool) -> Piece:
        body = arguments(self.rules, tool.parameters)
        prefix, suffix = f"<|tool_call_begin|>functions.{tool.name}:", "<|tool_call_argument_begin|>"
        end = "<|tool_call_end|>"
        parts = [self.spelled(prefix), "/[0-9]{1,3}/", self.spelled(suffix), body.lark, self.spelled(end)]
        return Piece(self.rules.named(" ".join(parts)), f"{prefix}0{suffix}{body.minimal}{end}")

    def _properties(self, tool: FunctionTool) -> tuple[list[tuple[str, Mapping[str, Any]]], list[bool]]:
        schema: Any = tool.parameters
        required = schema.get("required") or ()
        properties = list((schema.get("properties") or {}).items())
        missing = [name for name in required if name not in dict(properties)]
        if missing:
            properties += [(name, {}) for name in missing]
        return properties, [name not in required for name, _ in properties]

    def _python(self, tool: FunctionTool) -> Piece:
        properties, optional = self._properties(tool)
        pieces: list[Piece | None] = []
        for name, schema in properties:
            value = value_of(self.rules, schema, tool.parameters)
            pieces.append(Piece(f"{json.dumps(name + '=')} {value.lark}", f"{name}={value.minimal}"))
        piece = self.rules.bracketed("()", pieces, 0, optional)
        assert piece is not None
        return self._text(tool.name, piece)

    def _tagged(self, tool: FunctionTool, tags: _Tags) -> Piece:
        names, optional = self._properties(tool)
        opening = tags.call[0].replace("%", tool.name)
        pieces: list[Piece] = []
        for name, schema in names:
            start_tag, end_tag = tags.argument[0].replace("%", name), tags.argument[1]
            pieces.append(self._text(start_tag, *self._bare(schema, tool.parameters, tags, end_tag)))
        least = "".join(piece.minimal for piece, lacks in zip(pieces, optional, strict=True) if not lacks)
        marked = [f"{piece.lark}?" if lacks else piece.lark for piece, lacks in zip(pieces, optional, strict=True)]
        if tags.bare or not all(optional):
            return self._text(opening, Piece(" ".join(marked), least), tags.call[1])
        # One alternative for each argument that may come first, and one for none.
        empty = f'{{"name": {json.dumps(tool.name)}, "arguments": {{}}}}'
        options = [self._text(opening, Piece(" ".join([piece.lark, *marked[index + 1 :]]), piece.minimal), tags.call[1])
                   for index, piece in enumerate(pieces)]  # fmt: skip
        return self._either([literal(empty), *options])

    def _bare(self, schema: Mapping[str, Any], root: Mapping[str, Any], tags: _Tags, closing: str) -> tuple[Piece, str]:
        """A value between tags (a bare string, or JSON), and the part of `closing` that it does not include."""
        if schema.get("type") != "string" or {"pattern", "format", "$ref"} & set(schema):
            return value_of(self.rules, schema, root), closing
        options = [schema["const"]] if "const" in schema else schema.get("enum")
        if options is not None:
            return self._either([literal(str(option)) for option in options]), closing
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        terms = [rf"/(?s:.){{{least},{most}}}/"]
        if least or most != "":  # the parsers strip blanks at the ends, which then no longer count
            terms.append(r"/(?:\S(?s:.*\S)?)?/")
        if tags.quirks:
            terms.append(f"~/{tags.quirks}/")
        self.markers.add(closing)
        tag = closing.strip()
        if self._special(tag):  # text never contains the special token, but it may spell it
            terms.append(f"~/(?s:.*){escape(tag, in_json=False).replace('/', chr(92) + '/')}(?s:.*)/")
            return Piece(self.rules.named(" & ".join(terms), terminal=True), "a" * least), closing
        text = self.rules.named(" & ".join(terms), terminal=True)
        blank, _, rest = closing.partition(tag)
        return Piece(self.rules.delimited(text, tag), "a" * least + blank + tag), rest

    def _special(self, text: str) -> bool:
        low = self._form.tokenizer
        return low.is_special_token(low.tokenize_str(text)[0])

    def _named(self, tools: Sequence[FunctionTool], named: _Named) -> Piece:
        """A tool's name, then anything up to the first end mark outside of quotes."""
        names = self._either([self._text(named.opening + tool.name + named.after, Piece("", "")) for tool in tools])
        end = self._form.end
        self.markers |= {end, named.closing + end}
        if not self._special(end):
            self.ended = True
            text = self.rules.named("/(?s:.*)/", terminal=True)
            return Piece(f"{names.lark} {self.rules.delimited(text, end)}", names.minimal)
        if not named.quote or not self._special(named.quote):
            return Piece(f"{names.lark} /(?s:.*)/", names.minimal)
        self.markers |= {named.quote + end, named.quote + named.closing + end}
        text, quote = self.rules.named("/(?s:.+)/", terminal=True), self.spelled(named.quote)
        return Piece(f"{names.lark} {text}? ({quote} {text}? {quote} {text}?)*", names.minimal)


def _with_types(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in the types of their schemas: parsers leave JSON as text where a schema has no plain type."""
    root = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    properties = schema.get("properties") or {}
    repaired: dict[str, Any] = {}
    for name, value in arguments.items():
        property_schema = properties.get(name, {})
        if isinstance(value, str) and property_schema.get("type") != "string":
            try:
                loaded = json.loads(value)
                jsonschema.validate(loaded, {**property_schema, **root})
                value = loaded
            except (ValueError, jsonschema.ValidationError, jsonschema.SchemaError):
                pass  # it is text
        repaired[name] = value
    return repaired


def tool_format(tokenizer: Any, low: LLTokenizer) -> ToolFormat:
    """The format of an mlx-lm tokenizer: its own where its template knows tools, else the default."""
    text = chat_template_text(tokenizer)
    parser = tokenizer.tool_parser
    if parser is None or not tokenizer.has_tool_calling or not ("tools" in text or has_template_function(tokenizer)):
        start, end = json_tools.tool_call_start, json_tools.tool_call_end
        return ToolFormat("json_tools", start, end, json_tools.parse_tool_call, True, low)
    name = parser.__module__.rpartition(".")[2]
    return ToolFormat(name, tokenizer.tool_call_start, tokenizer.tool_call_end, parser, False, low, text)
