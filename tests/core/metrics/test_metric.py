"""Metrics: whatever a user writes becomes a score from 0 to 1 with feedback, or an error that names the row."""

import datetime
import math
from decimal import Decimal
from fractions import Fraction

import dspy
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics import Accuracy, ExactMatch, Metric, Score, TokenF1, combine
from dspy_toolkit.metrics.fields import exact_match, f1, normalized
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import MetricEntry, resolve

GOLD = dspy.Example(question="2+2?", answer="four").with_inputs("question")
PRED = dspy.Prediction(answer="four")


@pytest.mark.parametrize(
    ("returned", "score", "feedback"),
    [
        (True, 1.0, ""),
        (False, 0.0, ""),
        (1, 1.0, ""),
        (0.25, 0.25, ""),
        ({"score": 0.5, "feedback": "half"}, 0.5, "half"),
        ({"score": True}, 1.0, ""),
        (Score(score=0.1, feedback="low"), 0.1, "low"),
        (dspy.Prediction(score=0.75, feedback="most"), 0.75, "most"),
        (1 + 1e-12, 1.0, ""),
    ],
)
def test_every_way_to_give_a_score(returned, score, feedback):
    assert Metric(lambda gold, pred: returned).score(GOLD, PRED) == Score(score=score, feedback=feedback)


def two(gold, pred):
    return gold.answer == pred.answer


def three(gold, pred, trace=None):
    return gold.answer == pred.answer and trace != "no"


def four(gold, pred, trace, pred_name):
    return gold.answer == pred.answer


def five(gold, pred, trace=None, pred_name=None, pred_trace=None):
    return dspy.Prediction(score=float(gold.answer == pred.answer), feedback=f"for {pred_name}")


class AsObject:
    def __call__(self, gold, pred, *rest):
        return gold.answer == pred.answer and len(rest) == 3


@pytest.mark.parametrize("function", [two, three, four, five, AsObject()])
def test_two_to_five_arguments(function):
    assert Metric(function).score(GOLD, PRED, None, "self", None).score == 1


def test_the_number_of_arguments_is_checked_when_it_is_made():
    with pytest.raises(MetricError, match=r"'narrow' takes 1 arguments; expected two to five"):
        Metric(lambda gold: 1, name="narrow")
    with pytest.raises(MetricError, match="something to call"):
        Metric("accuracy")


@pytest.mark.parametrize("bad", [math.nan, None, "0.9", 1.5, -0.1, math.inf, [1], {}, dspy.Prediction(answer=1)])
def test_what_is_no_score_is_an_error_with_metric_row_and_value(bad):
    with pytest.raises(MetricError) as caught:
        Metric(lambda gold, pred: bad, name="mine").score(GOLD, PRED)
    message = str(caught.value)
    assert "'mine'" in message
    assert "2+2?" in message
    assert " ".join(repr(bad).split())[:20] in message
    assert "from 0 to 1" in message


def test_a_metric_that_raises_is_named_with_the_row():
    with pytest.raises(MetricError, match=r"'mine' raised ZeroDivisionError: .*2\+2\?") as caught:
        Metric(lambda gold, pred: 1 / 0, name="mine").score(GOLD, PRED)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_wrong_demonstration_is_not_accepted():
    """`bool(Prediction(score=0.0))` is True, so the raw metric accepts everything that DSPy bootstraps."""
    assert bool(five(GOLD, dspy.Prediction(answer="five")))
    metric = Metric(five)
    assert metric(GOLD, dspy.Prediction(answer="five"), []) is False
    assert metric(GOLD, PRED, []) is True


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_the_threshold_decides_what_is_accepted(score, threshold):
    metric = Metric(lambda gold, pred: score).with_threshold(threshold)
    assert metric(GOLD, PRED, []) is (score >= threshold)
    assert metric(GOLD, PRED).score == score


def test_bootstrapping_with_the_wrapper_keeps_wrong_demonstrations_out(scripted_rows):
    rows, lm = scripted_rows
    for metric, accepted in ((five, len(rows)), (Metric(five), len(rows) // 2)):
        optimizer = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=len(rows), max_labeled_demos=0)
        with dspy.context(lm=lm):
            program = optimizer.compile(dspy.Predict("question -> answer"), trainset=rows)
        assert len(program.demos) == accepted


@pytest.fixture
def scripted_rows():
    """Six rows, of which the LM answers every second one right."""
    rows = [dspy.Example(question=f"q{n}", answer="yes").with_inputs("question") for n in range(6)]

    def reply(request):
        asked = request.messages[-1].text.split("Respond with")[0]
        return {"answer": "yes" if any(f"q{n}" in asked for n in (1, 3, 5)) else "no"}

    return rows, ScriptedLM(reply)


def test_gepa_takes_it_and_gets_feedback():
    dspy.GEPA(metric=Metric(five), auto="light", reflection_lm=dspy.LM("none/none"))
    assert Metric(five)(GOLD, PRED, [], "predict", []).feedback == "for predict"


def test_the_mean_of_metrics_names_its_parts():
    mean = combine.mean([Metric(two, name="right"), lambda gold, pred: 0.5])
    scored = mean.score(GOLD, PRED)
    assert scored.score == 0.75
    assert "right 1.00" in scored.feedback
    assert combine.mean([two]).score(GOLD, PRED).score == 1
    with pytest.raises(MetricError, match="at least one"):
        combine.mean([])


# --- fields compared with fields


def test_a_right_answer_scores_one_although_the_objects_differ():
    for metric in (ExactMatch(), Accuracy(), TokenF1()):
        assert Metric(metric).score(GOLD, PRED).score == 1
    assert Metric(exact_match).score(GOLD, dspy.Prediction(answer="four", reasoning="because")).score == 1


def test_feedback_says_what_was_expected():
    scored = Metric(ExactMatch()).score(GOLD, dspy.Prediction(answer="five"))
    assert scored.score == 0
    assert "'five'" in scored.feedback
    assert "'four'" in scored.feedback
    assert "no 'answer'" in Metric(ExactMatch()).score(GOLD, dspy.Prediction()).feedback


def test_chosen_fields_only():
    gold = dspy.Example(q="?", a=1, b=2).with_inputs("q")
    pred = dspy.Prediction(a=1, b=3)
    assert Metric(Accuracy("a")).score(gold, pred).score == 1
    assert Metric(Accuracy()).score(gold, pred).score == 0.5
    assert Metric(ExactMatch("a", "b")).score(gold, pred).score == 0
    with pytest.raises(MetricError, match="no field 'c'"):
        Metric(Accuracy("c")).score(gold, pred)
    with pytest.raises(MetricError, match="no labelled field"):
        Metric(Accuracy()).score(dspy.Example(q="?").with_inputs("q"), pred)


class Point(pydantic.BaseModel):
    x: int
    when: datetime.date


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ({"x": 1, "when": "2024-05-01"}, Point(x=1, when=datetime.date(2024, 5, 1)), True),
        (Point(x=1, when=datetime.date(2024, 5, 1)), Point(x=2, when=datetime.date(2024, 5, 1)), False),
        (0.3, 0.1 + 0.2, True),
        (1, 1.0, True),
        (True, 1, False),
        (["a", "b"], ["b", "a"], False),
        (None, None, True),
        ("x", 1, False),
    ],
)
def test_values_are_compared_as_plain_data(expected, got, same):
    gold = dspy.Example(q="?", a=expected).with_inputs("q")
    assert Metric(Accuracy()).score(gold, dspy.Prediction(a=got)).score == float(same)


def test_squad_normalisation_and_several_right_answers():
    gold = dspy.Example(q="?", a=["The Beatles", "Beatles, The"]).with_inputs("q")
    assert Metric(ExactMatch()).score(gold, dspy.Prediction(a=" the  beatles!")).score == 1
    assert normalized("An apple, a  day.") == "apple day"


@pytest.mark.parametrize(
    ("expected", "got", "score"),
    [
        ("the cat sat", "cat sat", 1.0),
        ("cat", "dog", 0.0),
        ("red red car", "red car", 0.8),  # 2 shared, 2*2/(3+2)
        ("", "", 1.0),
        ("word", "", 0.0),
    ],
)
def test_token_f1_is_squads(expected, got, score):
    assert f1(expected, got) == pytest.approx(score)


words = st.lists(st.sampled_from(["the", "red", "blue", "car,", "dog", "a."]), max_size=6).map(" ".join)


@given(words, words)
def test_token_f1_is_symmetric_and_one_only_for_equal_words(one, other):
    assert f1(one, other) == f1(other, one)
    assert 0 <= f1(one, other) <= 1
    assert (f1(one, other) == 1) == (sorted(normalized(one).split()) == sorted(normalized(other).split()))


def test_the_built_in_metrics_come_through_the_hooks(plugin_manager):
    entries = plugin_manager.entries(MetricEntry)
    assert {"core/exact-match", "core/token-f1", "core/accuracy"} <= set(entries)
    for found in entries.values():
        gold, pred = (
            (GOLD, PRED) if found.entry.name != "numeric" else (dspy.Example(answer=4), dspy.Prediction(answer=4))
        )
        assert Metric(resolve(found.entry.metric)).score(gold.with_inputs("question"), pred).score == 1


def test_a_metric_of_this_package_can_be_given_to_dspy_as_it_is():
    rows = [dspy.Example(question=f"q{n}", answer=f"a{n % 2}").with_inputs("question") for n in range(4)]
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=ScriptedLM(lambda request: {"answer": "a1"})):
        found = dspy.Evaluate(devset=rows, metric=ExactMatch(), display_progress=False)(program)
        demos = dspy.BootstrapFewShot(metric=ExactMatch(), max_labeled_demos=0).compile(program, trainset=rows).demos
    assert found.score == 50
    assert {demo.answer for demo in demos} == {"a1"}
    assert len(demos) == 2


# --- metrics of others

CITY = dspy.Example(question="q", answer="Paris", response="Paris is it").with_inputs("question")
CAPITAL = dspy.Prediction(answer="Paris", response="Paris is it", context=["Paris is a city"])
JUDGED = {
    **dict.fromkeys(("recall", "precision", "completeness", "groundedness"), 1.0),
    **dict.fromkeys(("reasoning", "ground_truth_key_ideas", "system_response_key_ideas"), "x"),
    **dict.fromkeys(("discussion", "system_response_claims"), "x"),
}


@pytest.mark.parametrize(
    "metric",
    [
        dspy.evaluate.SemanticF1(),  # noqa: TID251  # as users import it
        dspy.evaluate.CompleteAndGrounded(),  # noqa: TID251  # as users import it
        dspy.evaluate.answer_exact_match,  # noqa: TID251  # as users import it
        dspy.evaluate.answer_passage_match,  # noqa: TID251  # as users import it
    ],
)
@pytest.mark.parametrize("trace", [None, []])
def test_metrics_of_dspy_score_as_dspy_calls_them(metric, trace):
    with dspy.context(lm=ScriptedLM(lambda request: JUDGED)):
        assert Metric(metric).score(CITY, CAPITAL, trace).score == float(metric(CITY, CAPITAL, trace))


arguments = st.tuples(
    st.sampled_from(["(gold, pred", "(example, prediction"]),
    st.lists(st.sampled_from(["trace=None", "pred_name=None", "pred_trace=None"]), unique=True, max_size=3).map(
        lambda names: sorted(names, key=["trace=None", "pred_name=None", "pred_trace=None"].index)
    ),
    st.lists(st.sampled_from(["frac=1.0", "ignore_case=True", "weights=()"]), unique=True, max_size=2),
    st.booleans(),
)


@given(arguments)
def test_a_function_gets_what_it_names_and_keeps_its_other_defaults(parts):
    """Whatever of DSPy's three arguments it takes, by position or keyword, whatever comes beside or between them."""
    head, names, others, keyword_only = parts
    parameters = [head, *(["*"] if keyword_only and names + others else []), *others, *names]
    seen: dict[str, object] = {}
    scope = {"seen": seen}
    exec(f"def metric{', '.join(parameters)}):\n    seen.update(locals())\n    return 1.0", scope)
    Metric(scope["metric"]).score(CITY, CAPITAL, ["a trace"], "answer", ["its trace"])
    # GEPA's call: a function that does not take the predictor's name would read its trace as a bootstrap's.
    trace = ["a trace"] if "pred_name=None" in names else None
    sent = {"trace": trace, "pred_name": "answer", "pred_trace": ["its trace"]}
    defaults = {"frac": 1.0, "ignore_case": True, "weights": ()}
    assert list(seen.values())[:2] == [CITY, CAPITAL]
    for each in [*names, *others]:
        name = each.partition("=")[0]
        assert seen[name] == (sent | defaults)[name]


@pytest.mark.parametrize("metric", [
    lambda g, p, t: t, lambda g, p, t=None: t, lambda g, p, t, n, pt: t, lambda g, p, t=None, n=None, pt=None: t,
])  # fmt: skip
def test_the_third_argument_is_the_trace_whatever_its_name(metric):
    assert Metric(metric).score(CITY, CAPITAL, 0.25).score == 0.25


@given(st.floats(0, 1))
def test_numbers_of_other_libraries_are_scores(value):
    for number in (np.float64(value), np.asarray(value), np.array([value]), Decimal(value), Fraction(value)):
        assert Metric(lambda gold, pred, number=number: number).score(CITY, CAPITAL).score == pytest.approx(value)
    assert Metric(lambda gold, pred: (value, "why")).score(CITY, CAPITAL).feedback == "why"
    assert Metric(lambda gold, pred: np.bool_(value > 0.5)).score(CITY, CAPITAL).score == float(value > 0.5)


@pytest.mark.parametrize("value", [None, "1", np.array([0.5, 0.5]), Decimal("NaN"), np.float32("inf"), (1.0, 2.0), []])
def test_what_is_no_score_is_refused(value):
    with pytest.raises(MetricError, match="expected a score from 0 to 1"):
        Metric(lambda gold, pred: value).score(CITY, CAPITAL)
