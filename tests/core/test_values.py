"""Values as plain JSON data, and values on one short line."""

import datetime
import json

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import DataError
from dspy_toolkit.values import canonical_json, describe, plain, shortened, type_name


class Point(pydantic.BaseModel):
    x: int


def test_plain_data():
    assert plain(datetime.date(2024, 5, 1)) == "2024-05-01"
    assert plain([Point(x=1)]) == [{"x": 1}]
    assert plain({"b", "a"}) == ["a", "b"]
    with pytest.raises(DataError, match="object"):
        plain(object())


def test_a_fallback_writes_what_json_cannot_hold():
    assert plain([object], fallback=type_name) == ["<builtins.type>"]
    assert "object object at" in plain({object()}, fallback=repr)[0]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@given(values)
def test_canonical_json_says_the_same_whatever_the_order(value):
    data = json.loads(canonical_json(value))
    assert canonical_json(data) == canonical_json(value)
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@given(st.text(), st.integers(min_value=4, max_value=80))
def test_a_shortened_text_is_one_line_of_at_most_the_width(text, width):
    line = shortened(text, width)
    whole = " ".join(text.split())
    assert len(line) <= width
    assert line == whole if len(whole) <= width else line.endswith("...") and whole.startswith(line[:-3])


def test_errors_and_objects_on_one_line():
    assert describe(ValueError("one\ntwo")) == "ValueError: one two"
    assert shortened(["a", "b"]) == "['a', 'b']"
