"""The grammar of one answer as a typed value: what an adapter hands to an engine, and how it travels in a request.

A request carries it as plain data, `request.config.extensions["metadata"]["grammar"]`, because DSPy's cache and its
history want JSON:

    {"lark": "start: ...", "minimal": "[[ ## answer ## ]]\\na...", "markers": ["\\n\\n[[ ## "], "quoted": false,
     "fields": [{"name": "answer", "opening": "[[ ## answer ## ]]\\n", "tokens": 40}]}

Only `lark` is required, so that a grammar written by hand is short.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dspy_toolkit.errors import GrammarError

__all__ = ["AnswerField", "AnswerGrammar"]


@dataclass(frozen=True, slots=True)
class AnswerField:
    """One output field: `opening` is the text right before its value, `tokens` the most its value may take.

    `tokens` of None is no limit. No value can hold text that looks like the opening of the next field.
    """

    name: str
    opening: str
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """What a model may write.

    `lark`: Lark text in llguidance's dialect, for `llguidance.LLMatcher.grammar_from_lark`.
    `minimal`: a shortest text that it accepts, None if unknown. It says how many tokens closing can take.
    `markers`: texts that end a free text where one may end; the grammar goes on behind them.
    `quoted`: free texts are JSON strings, so a quote ends them.
    `fields`: the output fields in the order of the answer, empty where the answer is not made of fields.
    """

    lark: str
    minimal: str | None = None
    markers: tuple[str, ...] = ()
    quoted: bool = False
    fields: tuple[AnswerField, ...] = ()

    def with_budgets(self, budgets: Mapping[str, int]) -> "AnswerGrammar":
        """The same grammar, each field with its budget in tokens, by name."""
        return replace(self, fields=tuple(replace(field, tokens=budgets.get(field.name)) for field in self.fields))

    def to_metadata(self) -> dict[str, Any]:
        """The plain data that a request carries."""
        return {
            "lark": self.lark,
            "minimal": self.minimal,
            "markers": list(self.markers),
            "quoted": self.quoted,
            "fields": [{"name": field.name, "opening": field.opening, "tokens": field.tokens} for field in self.fields],
        }

    @classmethod
    def from_metadata(cls, value: Any) -> "AnswerGrammar":
        """Read what a request carries. Raises GrammarError, which names the part that is wrong."""
        if not isinstance(value, Mapping) or not isinstance(value.get("lark"), str):
            raise GrammarError("A grammar must be {'lark': <grammar>, 'minimal': <shortest answer>, ...}.")
        minimal, markers, quoted = value.get("minimal"), value.get("markers") or (), value.get("quoted", False)
        if minimal is not None and not isinstance(minimal, str):
            raise GrammarError(f"The grammar's 'minimal' is {minimal!r}; expected a text.")
        if isinstance(markers, str) or not all(isinstance(marker, str) and marker for marker in markers):
            raise GrammarError(f"The grammar's 'markers' are {markers!r}; expected a list of texts.")
        if not isinstance(quoted, bool):
            raise GrammarError(f"The grammar's 'quoted' is {quoted!r}; expected true or false.")
        return cls(value["lark"], minimal, tuple(markers), quoted, _fields(value.get("fields") or ()))


def _fields(value: Any) -> tuple[AnswerField, ...]:
    try:
        fields = tuple(AnswerField(field.get("name", ""), field["opening"], field.get("tokens")) for field in value)
        valid = all(
            isinstance(field.name, str)
            and isinstance(field.opening, str)
            and field.opening
            and (field.tokens is None or (type(field.tokens) is int and field.tokens > 0))
            for field in fields
        )
    except (TypeError, KeyError, AttributeError):
        valid, fields = False, ()
    if not valid:
        raise GrammarError("The grammar's 'fields' must be [{'opening': <text>, 'tokens': <number above 0, or None>}].")
    return fields
