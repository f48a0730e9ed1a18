"""Metrics that compare fields: numbers, sets, ROUGE-L, types. ROUGE-L against the package of that name."""

import math
from typing import Literal

import dspy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from dspy_toolkit.errors import DataError, MetricError
from dspy_toolkit.metrics import ExactMatch, Metric, NumericTolerance, RougeL, SchemaValidity, SetOverlap
from dspy_toolkit.metrics.numeric import as_number
from dspy_toolkit.metrics.rouge import lcs_length


def scored(metric, expected, got):
    gold = dspy.Example(question="?", answer=expected).with_inputs("question")
    return Metric(metric).score(gold, dspy.Prediction(answer=got))


# --- numbers


@pytest.mark.parametrize(
    ("expected", "got", "score"),
    [
        (100, 101, 1),
        (100, 101.5, 0),
        (-100, -99, 1),
        (-100, 100, 0),
        (1000, "1,000", 1),
        ("1,234.5", 1234.5, 1),
        (100, " 1e2 ", 1),
        (100, "about 100", 0),
        (100, None, 0),
        (100, math.nan, 0),
        (100, math.inf, 0),
        (1, True, 0),
        (0, 0.001, 0),
    ],
)
def test_numbers_within_one_percent(expected, got, score):
    assert scored(NumericTolerance(), expected, got).score == score


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 10), st.floats(0, 100))
def test_the_tolerance_is_the_larger_of_the_two(expected, got, relative, absolute):
    right = abs(got - expected) <= absolute or abs(got - expected) <= relative * abs(expected)
    assert scored(NumericTolerance(relative=relative, absolute=absolute), expected, got).score == right


def test_feedback_says_how_far_off():
    assert "off by +5" in scored(NumericTolerance(), 10, 15).feedback
    assert "no number" in scored(NumericTolerance(), 10, "ten").feedback


def test_a_label_that_is_no_number_and_a_bad_tolerance():
    with pytest.raises(MetricError, match="'ten' is no finite number"):
        scored(NumericTolerance(), "ten", 10)
    for bad in ({"relative": -1}, {"absolute": math.nan}, {"relative": math.inf}):
        with pytest.raises(MetricError, match="tolerances of 0 or more"):
            NumericTolerance(**bad)


@given(st.integers(-(10**12), 10**12))
def test_thousands_are_read_as_they_are_written(number):
    assert as_number(f"{number:,}") == as_number(str(number)) == number


# --- sets

things = st.sets(st.sampled_from(["red", "green", "blue", "a car", "10", "Ünï"]))


@given(things, things)
def test_overlap_is_what_its_formula_says(labelled, predicted):
    shared = len(labelled & predicted)
    expected = {
        "precision": shared / len(predicted) if predicted else 0.0,
        "recall": shared / len(labelled) if labelled else 0.0,
        "jaccard": shared / len(labelled | predicted) if labelled | predicted else 1.0,
        "f1": 2 * shared / (len(labelled) + len(predicted)) if labelled | predicted else 1.0,
    }
    if not labelled and not predicted:
        expected = dict.fromkeys(expected, 1.0)
    for measure, value in expected.items():
        assert scored(SetOverlap(measure=measure), sorted(labelled), predicted).score == pytest.approx(value)


class Tag(pydantic.BaseModel):
    name: str


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (["a b", "c"], ["C!", "A b", "c"]),
        ("red", ["red"]),
        ([{"name": "x"}], [Tag(name="x")]),
        ([1, 2.0], {2, 1}),
        (None, []),
        ([], ()),
        (["!!"], ["!! "]),
    ],
)
def test_equal_sets_however_they_are_given(expected, got):
    assert scored(SetOverlap(), expected, got).score == 1


@pytest.mark.parametrize(("expected", "got"), [(["!!"], ["??"]), (["1"], [1]), ([True], [1]), ([], ["a"]), (["a"], [])])
def test_different_things_stay_different(expected, got):
    assert scored(SetOverlap(), expected, got).score == 0


def test_listing_everything_or_one_sure_thing_does_not_pay():
    labelled, everything = ["a", "b"], [chr(97 + n) for n in range(26)]
    assert scored(SetOverlap(measure="recall"), labelled, everything).score == 1
    assert scored(SetOverlap(), labelled, everything).score < 0.2
    assert scored(SetOverlap(measure="precision"), everything, ["a"]).score == 1
    assert scored(SetOverlap(), everything, ["a"]).score < 0.1


def test_feedback_names_what_is_missing_and_what_is_too_much():
    feedback = scored(SetOverlap(), ["red", "green"], ["green", "blue"]).feedback
    assert "lacks 'red'" in feedback
    assert "'blue' too much" in feedback
    with pytest.raises(MetricError, match="'dice'"):
        SetOverlap(measure="dice")


# --- ROUGE-L

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
texts = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "a_mat,", "don't", "A1", "co-op", "1,000", ".", "Cat"]), max_size=14
).map(" ".join)


@given(texts, texts)
def test_rouge_l_is_that_of_the_package(expected, got):
    oracle = SCORER.score(expected, got)["rougeL"].fmeasure
    ours = scored(RougeL(), expected, got).score
    if any(each.isalnum() for each in expected + got):
        assert ours == pytest.approx(oracle)
    else:
        assert ours == 1, "two texts without words are equal"


@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_the_longest_common_subsequence_is_that_of_the_textbook(one, other):
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert lcs_length(one, other) == lcs_length(other, one) == table[-1][-1]


def test_rouge_l_counts_letters_of_every_script_and_takes_the_best_label():
    assert scored(RougeL(), "Прага на Влтаве", "прага на влтаве!").score == 1
    assert scored(RougeL(), ["no", "a red car"], "the red car").score == pytest.approx(2 / 3)


# --- types


class Weather(dspy.Signature):
    reading: float = dspy.InputField()
    forecast: Literal["rain", "dry"] = dspy.OutputField()
    chance: float = dspy.OutputField(ge=0, le=1)


def test_schema_checks_constraints_that_dspy_only_writes_into_the_prompt():
    metric = Metric(SchemaValidity(Weather))
    row = dspy.Example(reading=1.0).with_inputs("reading")
    assert metric.score(row, dspy.Prediction(forecast="rain", chance=0.5)).score == 1
    half = metric.score(row, dspy.Prediction(forecast="rain", chance=1.5))
    assert half.score == 0.5
    assert "'chance'" in half.feedback
    assert "less than or equal to 1" in half.feedback
    nothing = metric.score(row, dspy.Prediction(forecast="snow"))
    assert nothing.score == 0
    assert "'chance': missing" in nothing.feedback


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ('{"name": "x"}', True),
        ('{"name": 1}', False),
        ("name: x", False),
        ("", False),
        ({"name": "x"}, True),
        (Tag(name="x"), True),
        ({"name": []}, False),
    ],
)
def test_text_that_should_hold_json_of_a_shape(value, valid):
    scored_row = Metric(SchemaValidity({"answer": Tag})).score(dspy.Example(), dspy.Prediction(answer=value))
    assert scored_row.score == valid


def test_a_schema_of_nothing_is_refused():
    with pytest.raises(MetricError, match="no field to check"):
        SchemaValidity({})


# --- labels


def test_rows_without_labels_are_found_before_anything_is_asked():
    rows = [dspy.Example(q=1, a=1).with_inputs("q"), dspy.Example(q=2).with_inputs("q")]
    for metric in (ExactMatch(), NumericTolerance("a"), SetOverlap(), RougeL("a")):
        Metric(metric).check(rows[:1])
        with pytest.raises(DataError, match=r"cannot score row 2.*Label the rows"):
            Metric(metric).check(rows)
    Metric(lambda gold, pred: 1.0).check(rows)
    Metric(SchemaValidity(Weather)).check(rows)
