"""`Example.with_inputs` decides what a program is called with, as in DSPy."""

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.data.splits import prepare, to_examples
from dspy_toolkit.errors import DataError
from dspy_toolkit.evaluation.evaluate import evaluate
from dspy_toolkit.metrics import Metric
from dspy_toolkit.testing import ScriptedLM


class Cached(dspy.Module):
    """Answers from what the caller knows, if anything."""

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question, answer=None):
        return dspy.Prediction(answer=answer) if answer else self.ask(question=question)


class Keywords(dspy.Module):
    """Retrieves its context itself."""

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("context: list[str], question -> answer")

    def forward(self, **inputs):
        return self.ask(context=["c"], **inputs)


def rows(count=10):
    return [dspy.Example(question=f"q{n}", answer="gold", note="n").with_inputs("question") for n in range(count)]


def test_a_label_does_not_reach_the_program():
    lm = ScriptedLM(lambda request: {"answer": "wrong"})
    examples = to_examples(rows(), Cached())
    assert {tuple(example.inputs().keys()) for example in examples} == {("question",)}
    assert evaluate(Cached(), examples, Metric(lambda gold, pred: gold.answer == pred.answer), lm=lm).score.score == 0
    assert lm.engine.calls == 10


def test_a_program_with_any_keywords_takes_the_inputs_that_are_named():
    assert sum(prepare(rows(), Keywords()).sizes.values()) == 10


@given(st.sets(st.sampled_from(["question", "note", "answer"])))
def test_named_inputs_are_kept_or_refused_with_row_and_field(names):
    row = dspy.Example(question="q", answer="a", note="n").with_inputs(*names)
    if "question" in names and "note" not in names:
        (example,) = to_examples([row], Cached())
        assert set(example.inputs().keys()) == names
        assert set(example.labels().keys()) == {"question", "answer", "note"} - names
    else:
        with pytest.raises(DataError, match=r"Row 1 of the dataset has (no input 'question'|the input 'note')"):
            to_examples([row], Cached())
    (example,) = to_examples([row], Keywords())
    assert set(example.inputs().keys()) == names


def test_dictionaries_and_examples_without_inputs_take_what_the_program_takes():
    for row in ({"question": "q", "answer": "a"}, dspy.Example(question="q", answer="a")):
        (example,) = to_examples([row], dspy.Predict("question -> answer"))
        assert set(example.inputs().keys()) == {"question"}
