r"""From a signature to a grammar, as text: what a model may write so that DSPy's adapter can read it.

The text is Lark in llguidance's dialect. For `question -> reasoning, label: Literal["a", "b"]` and ChatAdapter:

    start: "[[ ## reasoning ## ]]\n" r0 "label ## ]]\n" r1 "\n\n[[ ## completed ## ]]"
    r0[suffix="\n\n[[ ## "]: /.../
    r1: "a" | "b"

What such a grammar accepts, the adapter parses to a value of the declared type within its constraints; only validators
written in Python may still refuse it. What DSPy renders for a demonstration, the grammar accepts, except what a model
should not imitate:

    both    numbers beyond INTEGER_DIGITS; infinities; Decimals in scientific notation; abbreviated IPv6 addresses;
            models whose rendered names are not the names they are parsed by (aliases); nesting beyond MAX_DEPTH
    chat    empty texts; texts that begin with a blank, with `[[`, or with `{` unless `"`, `'`, `}`, a digit or the
            line's end follows (DSPy shows `{answer}` where a value goes, and small models answer just that); texts with
            a line that begins with `[[ ##` or with control characters (DSPy strips or misreads them); values of an Enum
            that DSPy only reads by member name; the newline at the very end

Free text, lists and strings are unbounded unless their type says otherwise: the engine ends them when its budget does.
"""

import copy
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import dspy
import pydantic

from dspy_toolkit.errors import GrammarError
from dspy_toolkit.grammar.answer import AnswerField, AnswerGrammar
from dspy_toolkit.grammar.arguments import arguments
from dspy_toolkit.grammar.fields import LINE_BREAKS, MARKER, chat_value, json_value
from dspy_toolkit.grammar.rules import Rules, literal
from dspy_toolkit.grammar.schema import UnsupportedTypeError

__all__ = ["compile_arguments", "compile_chat", "compile_json", "problems"]

Signature = type[dspy.Signature]
_REMEDY = " Change its type, or use a plain adapter."


class _Cache:
    """Grammars by signature, and by output fields: an optimizer makes many signatures that differ in their words only.

    The second level keeps the types it has seen alive, so it is bounded.
    """

    def __init__(self, build: Callable[[Signature], AnswerGrammar], size: int = 512):
        self._build = build
        self._size = size
        self._lock = threading.Lock()
        self._by_signature: weakref.WeakKeyDictionary[Signature, tuple[Any, AnswerGrammar]] = (
            weakref.WeakKeyDictionary()
        )
        self._by_fields: OrderedDict[Any, AnswerGrammar] = OrderedDict()

    def get(self, signature: Signature) -> AnswerGrammar:
        # A signature may be edited in place, so what it was compiled from is kept with the grammar and compared.
        fields = [(name, info, info.annotation, tuple(info.metadata)) for name, info in signature.output_fields.items()]
        with self._lock:
            cached = self._by_signature.get(signature)
        if cached is not None and cached[0] == fields:
            return cached[1]
        grammar = self._by_types(signature)
        with self._lock:
            self._by_signature[signature] = fields, grammar
        return grammar

    def _by_types(self, signature: Signature) -> AnswerGrammar:
        key = tuple((name, info.rebuild_annotation()) for name, info in signature.output_fields.items())
        try:
            hash(key)
        except TypeError:  # constraints that cannot be hashed
            return self._build(signature)
        with self._lock:
            grammar = self._by_fields.get(key)
        grammar = grammar or self._build(signature)
        with self._lock:
            self._by_fields[key] = grammar
            self._by_fields.move_to_end(key)
            if len(self._by_fields) > self._size:
                self._by_fields.popitem(last=False)
        return grammar


def compile_chat(signature: Signature) -> AnswerGrammar:
    """The grammar of `dspy.ChatAdapter`'s answers. Raises GrammarError, which names the field."""
    return _chat.get(signature)


def compile_json(signature: Signature) -> AnswerGrammar:
    """The grammar of `dspy.JSONAdapter`'s answers. Raises GrammarError, which names the field."""
    return _json.get(signature)


def compile_arguments(schema: Mapping[str, Any]) -> AnswerGrammar:
    """The grammar of a tool call's arguments, a JSON object that fits the tool's JSON schema."""
    rules = Rules(indent=None)
    piece = arguments(rules, schema)
    return AnswerGrammar(f"start: {piece.lark}\n{rules.text()}", piece.minimal, rules.markers, quoted=True)


def problems(signature: Signature) -> dict[str, str]:
    """Why the grammars cannot be compiled, by output field; "" is for what concerns several. Empty if they can."""
    reasons: dict[str, str] = {}
    for name, info in signature.output_fields.items():
        alone: dict[str, Any] = {name: (info.annotation, copy.copy(info))}
        reasons |= _problem(dspy.make_signature(alone, "", signature.__name__), name)
    return reasons or _problem(signature, "")


def _problem(signature: Signature, name: str) -> dict[str, str]:
    try:
        compile_chat(signature)
        compile_json(signature)
    except GrammarError as error:
        return {name: str(error).removesuffix(_REMEDY)}
    return {}


def _build_chat(signature: Signature) -> AnswerGrammar:
    rules = Rules(indent=None, line_breaks=LINE_BREAKS)
    lark, minimal, open_text, lead = [], "", "", MARKER.lstrip()
    for name, info in signature.output_fields.items():
        value = _named(signature, name, lambda info=info: chat_value(rules, info))
        open_text += f"{lead}{name} ## ]]\n"
        lark += [literal(open_text).lark, value.lark]
        minimal += open_text + value.minimal + (MARKER if value.closed else "")
        open_text, lead = "", "" if value.closed else MARKER
    end = literal(f"{lead}completed ## ]]")
    names = list(signature.output_fields)
    fields = tuple(
        AnswerField(name, f"{MARKER if name != names[0] else MARKER.lstrip()}{name} ## ]]\n") for name in names
    )
    grammar = AnswerGrammar(
        lark=f"start: {' '.join([*lark, end.lark])}\n{rules.text()}",
        minimal=minimal + end.minimal,
        markers=rules.markers,
        fields=fields,
    )
    return _checked(signature, grammar, dspy.ChatAdapter())


def _build_json(signature: Signature) -> AnswerGrammar:
    rules = Rules(indent=2)
    pairs = [
        rules.pair(name, _named(signature, name, lambda info=info: json_value(rules, info)))
        for name, info in signature.output_fields.items()
    ]
    whole = rules.bracketed("{}", pairs, depth=0) or literal("{}")
    # Two blanks after a line's end: inside a string there is no line's end, and deeper keys have more blanks.
    grammar = AnswerGrammar(
        lark=f"start: {whole.lark}\n{rules.text()}",
        minimal=whole.minimal,
        markers=rules.markers,
        quoted=True,
        fields=tuple(
            AnswerField(name, f"\n  {json.dumps(name, ensure_ascii=False)}: ") for name in signature.output_fields
        ),
    )
    return _checked(signature, grammar, dspy.JSONAdapter())


def _named(signature: Signature, name: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except UnsupportedTypeError as error:
        annotation = signature.output_fields[name].annotation
        raise GrammarError(
            f"The field {name!r} of {signature.__name__} has the type {annotation!r}, which cannot be compiled to a "
            f"grammar: {error}.{_REMEDY}"
        ) from error


def _checked(signature: Signature, grammar: AnswerGrammar, adapter: dspy.Adapter) -> AnswerGrammar:
    """Ask DSPy to read the shortest text, so that a type it cannot parse is found before any token is generated."""
    try:
        values = adapter.parse(signature, grammar.minimal or "")
    except dspy.AdapterParseError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, pydantic.ValidationError) and _is_opinion(cause):
            return grammar
        raise GrammarError(
            f"{signature.__name__} has a field that DSPy cannot read from text: "
            f"{' '.join(str(error).partition(' from the LM response')[0].split())[:300]}.{_REMEDY}"
        ) from error
    for name, info in signature.output_fields.items():
        try:
            pydantic.TypeAdapter(info.rebuild_annotation()).validate_python(values[name])
        except pydantic.ValidationError as error:
            if not _is_opinion(error):
                reason = error.errors()[0]["msg"]
                raise GrammarError(
                    f"The field {name!r} of {signature.__name__} has constraints that a grammar cannot keep: {reason}. "
                    "Relax them, or check them in the program."
                ) from error
    return grammar


def _is_opinion(error: pydantic.ValidationError) -> bool:
    """Whether all that is wrong was said by validators written in Python, which may like another value better."""
    return all(problem["type"] in ("value_error", "assertion_error") for problem in error.errors())


_chat = _Cache(_build_chat)
_json = _Cache(_build_json)
