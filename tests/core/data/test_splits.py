"""Data: inputs inferred, bad rows named, sets that never overlap, draws and digests that depend on content alone."""

import random
import subprocess
import sys

import dspy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.data.splits import Splits, digest, prepare, row_digest, to_examples
from dspy_toolkit.errors import DataError
from dspy_toolkit.programs.inspect import input_fields
from dspy_toolkit.types import TaskData

QA = dspy.Predict("question -> answer")


def rows_of(*questions):
    return [{"question": question, "answer": question.upper()} for question in questions]


class Chain(dspy.Module):
    def __init__(self):
        super().__init__()
        self.find = dspy.Predict("question -> facts")
        self.answer = dspy.ChainOfThought("question, facts, style -> answer")

    def forward(self, **inputs):
        facts = self.find(question=inputs["question"]).facts
        return self.answer(facts=facts, **inputs)


class Named(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("question, today -> answer")

    def forward(self, question, style="plain"):
        return self.answer(question=question, today="Monday")


class Optional(dspy.Signature):
    question: str = dspy.InputField()
    hint: str | None = dspy.InputField()
    answer: str = dspy.OutputField()


@pytest.mark.parametrize(
    ("program", "fields"),
    [
        (QA, {"question": True}),
        (dspy.ChainOfThought("a, b -> c"), {"a": True, "b": True}),
        (Chain(), {"question": True, "style": True}),
        (Named(), {"question": True, "style": False}),
        (dspy.Predict(Optional), {"question": True, "hint": False}),
        (dspy.ReAct("question -> answer", tools=[]), {"question": True}),
    ],
)
def test_the_inputs_are_what_a_caller_gives(program, fields):
    assert input_fields(program) == fields


def test_rows_become_examples_with_inputs_and_labels():
    for row in ({"question": "a", "answer": "A"}, dspy.Example(question="a", answer="A")):
        (example,) = to_examples([row], QA)
        assert dict(example.inputs().items()) == {"question": "a"}
        assert dict(example.labels().items()) == {"answer": "A"}


@pytest.mark.parametrize("bad", [{"answer": "x"}, {"question": None, "answer": "x"}])
def test_a_missing_input_is_named_with_its_row(bad):
    with pytest.raises(DataError, match=r"Row 3 of the train set has no 'question'.*the row has: answer"):
        to_examples([*rows_of("a", "b"), bad], QA, name="train set")


def test_a_row_that_is_no_row():
    with pytest.raises(DataError, match="Row 1 of the dataset is a str"):
        to_examples(["question"], QA)


questions = st.lists(st.text(min_size=1, max_size=8), min_size=3, max_size=40, unique=True)


@given(questions, st.randoms())
def test_one_dataset_is_split_by_content_whatever_its_order(requested, chance):
    rows = rows_of(*requested)
    shuffled = list(rows)
    chance.shuffle(shuffled)
    first, second = prepare(rows, QA), prepare(shuffled, QA)
    assert first.sizes == second.sizes
    assert sum(first.sizes.values()) == len(rows)
    assert min(first.sizes.values()) >= 1
    assert digest(first) == digest(second)
    seen = [row_digest(row) for part in (first.train, first.validation, first.test) for row in part]
    assert len(set(seen)) == len(rows), "no row is in two sets"


def test_rows_with_equal_inputs_stay_together():
    rows = [{"question": f"q{n % 10}", "answer": str(n)} for n in range(50)]
    splits = prepare(rows, QA)
    parts = [{row.question for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


@pytest.mark.parametrize("where", ["train", "validation"])
def test_a_test_row_in_another_set_is_refused(where):
    sets = {"train": rows_of("a"), "validation": rows_of("b"), "test": rows_of("c", "d")}
    # another label does not make it another question
    sets[where] = [*sets[where], {"question": "d", "answer": "something else"}]
    with pytest.raises(DataError, match=rf"Row 2 of the test set has the same inputs as row 2 of the {where} set"):
        prepare(TaskData(**sets), QA)


def test_too_little_data_is_said():
    with pytest.raises(DataError, match="is empty"):
        prepare(rows_of("a", "b"), QA)
    with pytest.raises(DataError, match="validation set is empty"):
        prepare(TaskData(train=rows_of("a"), validation=[], test=rows_of("b")), QA)


def test_draws_depend_on_the_seed_and_are_nested():
    rows = rows_of(*(f"q{n}" for n in range(60)))

    def drawn(count, seed):
        return [row.question for row in prepare(rows, QA, rows={"test": count}, seed=seed).test]

    assert drawn(10, 1) == drawn(10, 1)
    assert drawn(10, 1) != drawn(10, 2)
    assert drawn(5, 1) == drawn(10, 1)[:5]
    everything = prepare(rows, QA).sizes
    assert len(drawn(1000, 1)) == everything["test"], "asking for more than there are gives all"
    assert prepare(rows, QA, rows={"test": 4}).sizes == {**everything, "test": 4}


@pytest.mark.parametrize(("rows", "message"), [({"test": 0}, "at least 1"), ({"tests": 4}, "No set named 'tests'")])
def test_bad_draws_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        prepare(rows_of("a", "b", "c"), QA, rows=rows)


class Point(pydantic.BaseModel):
    x: int


def test_the_digest_is_of_the_content_and_the_same_in_any_process():
    def splits(value):
        (row,) = to_examples([{"question": value, "answer": 1}], QA)
        return Splits(train=(row,), validation=(row,), test=(row,))

    assert digest(splits("a")) != digest(splits("b"))
    assert digest(splits({"b": 1, "a": 2})) == digest(splits({"a": 2, "b": 1}))
    assert digest(splits(Point(x=1))) == digest(splits({"x": 1}))
    assert digest(splits({"z", "y", "x"})) == digest(splits({"x", "y", "z"}))
    source = (
        "import dspy; from dspy_toolkit.data.splits import *\n"
        "(row,) = to_examples([{'question': {'z', 'y', 'x'}, 'answer': 1}], dspy.Predict('question -> answer'))\n"
        "print(digest(Splits(train=(row,), validation=(row,), test=(row,))))"
    )
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == digest(splits({"x", "y", "z"}))


def test_many_rows_are_no_trouble():
    rows = rows_of(*(f"q{n}" for n in range(5000)))
    random.Random(1).shuffle(rows)
    assert sum(prepare(rows, QA).sizes.values()) == 5000
