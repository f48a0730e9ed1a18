"""Tool arguments: what the grammar accepts fits the schema, and what fits the schema as DSPy means it is accepted."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from dspy_toolkit.grammar.arguments import arguments
from dspy_toolkit.grammar.rules import Rules

PLACE = {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}
PLAIN = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
        "place": {"$ref": "#/$defs/Place"},
        "enum": {"type": "array", "items": {"type": "boolean"}},
    },
    "required": ["city", "days"],
    "$defs": {"Place": PLACE},
}
TREE = {
    "type": "object",
    "properties": {"tree": {"$ref": "#/$defs/Tree"}},
    "required": ["tree"],
    "$defs": {"Tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}},
}


@pytest.fixture(scope="module")
def accepts():
    low = LLTokenizer("byte")

    def check(schema, text):
        rules = Rules(indent=None)
        piece = arguments(rules, schema)
        matcher = LLMatcher(low, LLMatcher.grammar_from_lark(f"start: {piece.lark}\n{rules.text()}"))
        assert not matcher.is_error(), matcher.get_error()
        return matcher.try_consume_tokens(low.tokenize_str(text)) == len(text.encode()) and matcher.is_accepting()

    return check


@given(
    st.fixed_dictionaries(
        {"city": st.text(min_size=2, max_size=5), "days": st.integers(1, 9)},
        optional={
            "unit": st.sampled_from("CF"),
            "place": st.fixed_dictionaries({"lat": st.integers(-90, 90)}),
            "enum": st.lists(st.booleans(), max_size=3),
        },
    )
)
def test_what_fits_is_accepted_with_or_without_what_is_optional(accepts, given):
    ordered = {name: given[name] for name in PLAIN["properties"] if name in given}
    jsonschema.validate(ordered, PLAIN)
    assert accepts(PLAIN, json.dumps(ordered))


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Lima"}',
        '{"city": "L", "days": 1}',
        '{"city": "Lima", "days": 10}',
        '{"city": "Lima", "days": 1, "unit": "K"}',
        '{"city": "Lima", "days": 1, "place": {}}',
        '{"city": "Lima", "days": 1, "invented": 1}',
        '{"city": "Lima", "days": 1',
    ],
)
def test_what_does_not_fit_is_not_accepted(accepts, text):
    assert not accepts(PLAIN, text)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, "{}", '{"a": 1}'),
        ({"type": "object", "properties": {"a": {"type": ["integer", "null"]}}}, '{"a": null}', '{"b": 1}'),
        (TREE, '{"tree": {"kids": [{"kids": []}]}}', '{"tree": {"kids": [1]}}'),
        ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, '{"a": "<b>"}', "{}"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "{}", '{"x": "y"}'),
    ],
)
def test_schemas_of_other_kinds(accepts, schema, good, bad):
    assert accepts(schema, good)
    assert not accepts(schema, bad)
