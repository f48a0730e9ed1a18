"""Typed values survive JSON, whatever their floats are."""

import json
import math
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from dspy_toolkit.trials.encoding import decode, encode


class Curve(BaseModel):
    losses: tuple[float, ...] = ()
    best: float | None = None
    anything: Any = None
    by_step: dict[int, float] = {}


@dataclass(frozen=True)
class Outcome:
    loss: float
    curve: Curve = field(default_factory=Curve)
    folder: Path = Path("x")
    day: date = date(2026, 1, 2)


def round_trip(adapter, value):
    return decode(adapter, json.loads(json.dumps(encode(adapter, value), allow_nan=False)))


floats = st.floats(allow_nan=False)


@given(
    st.builds(
        Outcome,
        floats,
        st.builds(
            Curve,
            losses=st.lists(floats, max_size=3).map(tuple),
            best=st.none() | floats,
            anything=floats | st.lists(floats, max_size=2),
            by_step=st.dictionaries(st.integers(0, 9), floats, max_size=2),
        ),
    )
)
def test_what_goes_in_comes_out(outcome):
    assert round_trip(TypeAdapter(Outcome), outcome) == outcome


def test_nan_stays_nan_wherever_it_is():
    curve = round_trip(TypeAdapter(Curve), Curve(losses=(math.nan,), best=math.nan, anything={"deep": [math.nan]}))
    assert all(math.isnan(value) for value in (*curve.losses, curve.best, *curve.anything["deep"]))


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="of type object cannot be written"):
        encode(TypeAdapter(Any), {"x": object()})
