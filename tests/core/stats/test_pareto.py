"""The Pareto front: nobody on it is beaten in everything, everybody off it is."""

import math

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.evaluation.evaluate import evaluate
from dspy_toolkit.evaluation.objectives import by_parts, mean_score
from dspy_toolkit.metrics import ExactMatch, SchemaValidity, weighted
from dspy_toolkit.stats.pareto import pareto_front
from dspy_toolkit.testing import ScriptedLM

OBJECTIVES = {"x": lambda point: point[0], "y": lambda point: point[1]}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_front_is_what_no_other_dominates(points):
    candidates = {f"p{n}": point for n, point in enumerate(points)}
    front = pareto_front(candidates, OBJECTIVES)
    assert list(front) == [name for name in candidates if name in front]
    for name, (x, y) in candidates.items():
        beaten = any((a >= x and b >= y) and (a, b) != (x, y) for a, b in points)
        assert (name in front) != beaten
        if name in front:
            assert front[name] == {"x": x, "y": y}


def test_what_cannot_be_compared():
    with pytest.raises(OptimizationError, match="at least one"):
        pareto_front({"a": (1, 2)}, {})
    with pytest.raises(OptimizationError, match="'x' of 'b' is no number"):
        pareto_front({"a": (1, 2), "b": (math.nan, 2)}, OBJECTIVES)


def test_evaluations_by_the_parts_of_their_metric():
    program = dspy.Predict("question -> answer")
    row = dspy.Example(question="?", answer="12345").with_inputs("question")
    metric = weighted((ExactMatch(), 1), (SchemaValidity({"answer": int}), 1))
    answers = {"right": "12345", "number": "1", "neither": "one"}
    found = {
        name: evaluate(program, [row], metric, lm=ScriptedLM([{"answer": each}])) for name, each in answers.items()
    }
    assert found["number"].parts == {"ExactMatch": 0, "SchemaValidity(answer)": 100}
    assert found["number"].to_dict()["rows"][0]["parts"] == found["number"].parts
    assert list(pareto_front(found, by_parts(found["right"]))) == ["right"]
    assert list(
        pareto_front(found, {"score": mean_score, "short": lambda each: -len(each.results[0].prediction.answer)})
    )
