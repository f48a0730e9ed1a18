"""Metrics made of metrics, and metrics that are async."""

import asyncio
import math

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import DataError, MetricError
from dspy_toolkit.metrics import F1, ExactMatch, Metric, lexicographic, product, threshold, weighted
from dspy_toolkit.metrics.combine import mean

GOLD = dspy.Example(q="?", a="x", b="y").with_inputs("q")
PRED = dspy.Prediction(a="x", b="z")
unit = st.floats(0, 1)


def part(name, score):
    return Metric(lambda gold, pred: {"score": score, "feedback": f"because of {name}"}, name=name)


def of(combined):
    return combined.score(GOLD, PRED)


@given(st.lists(st.tuples(unit, st.floats(0.01, 100)), min_size=1, max_size=5))
def test_the_weighted_mean(pairs):
    combined = weighted(*((part(f"m{n}", score), weight) for n, (score, weight) in enumerate(pairs)))
    expected = sum(score * weight for score, weight in pairs) / sum(weight for _, weight in pairs)
    assert of(combined).score == pytest.approx(expected)
    assert of(combined).parts == {f"m{n}": score for n, (score, _) in enumerate(pairs)}


@given(st.lists(unit, min_size=1, max_size=5), st.floats(0.01, 1))
def test_product_and_threshold(scores, bar):
    parts = [part(f"m{n}", score) for n, score in enumerate(scores)]
    assert of(product(*parts)).score == pytest.approx(math.prod(scores))
    assert of(threshold(parts[0], bar)).score == (scores[0] >= bar)


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 3), min_size=2, max_size=6))
def test_lexicographic_scores_are_ordered_as_the_tuples_of_their_parts(rows):
    def score(row):
        return of(lexicographic(*(part(str(n), each / 20) for n, each in enumerate(row)), levels=20)).score

    assert sorted(rows) == sorted(rows, key=score)
    for row in rows:
        assert 0 <= score(row) <= 1
        assert [other for other in rows if score(other) == score(row)] == [other for other in rows if other == row]
    assert score((20, 20, 20)) == 1
    assert score((0, 0, 0)) == 0


def test_feedback_names_each_part_with_its_score():
    said = of(weighted((ExactMatch("a"), 3), (ExactMatch("b"), 1)))
    assert said.score == 0.75
    assert "ExactMatch(a) 1.00: 'a' is right." in said.feedback
    assert "ExactMatch(b) 0.00: 'b' is 'z'; expected 'y'." in said.feedback
    assert "Missed the bar of 0.8" in of(threshold(part("m", 0.7), 0.8)).feedback
    assert weighted((ExactMatch("a"), 3), (ExactMatch("b"), 1)).name == "weighted(ExactMatch(a) x 3, ExactMatch(b) x 1)"


def test_parts_of_parts_and_parts_of_one_name_are_kept_apart():
    inner = product(part("m", 0.5), part("m", 1.0), name="inner")
    assert of(weighted((inner, 1), (part("m", 0.0), 1))).parts == {
        "inner": 0.5,
        "m": 0.0,
        "inner/m": 0.5,
        "inner/m #2": 1.0,
    }


def test_gepa_finds_the_parts_where_it_looks_for_them():
    from dspy.teleprompt.gepa.gepa_utils import _extract_score_and_objective_scores as extract

    score, objectives = extract(product(part("x", 0.5), part("y", 1.0))(GOLD, PRED, [], "predict", []))
    assert score == 0.5
    assert objectives == {"x": 0.5, "y": 1.0}


def test_demonstrations_are_accepted_by_the_combined_score():
    assert weighted((part("x", 0.4), 1), (part("y", 0.7), 1))(GOLD, PRED, []) is True
    assert product(part("x", 0.4), part("y", 0.7))(GOLD, PRED, []) is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weighted(), "nothing to make"),
        (lambda: product(), "nothing to make"),
        (lambda: weighted((ExactMatch(), 0)), "numbers above 0"),
        (lambda: weighted((ExactMatch(), math.nan)), "numbers above 0"),
        (lambda: threshold(ExactMatch(), 0), "above 0"),
        (lambda: lexicographic(*[ExactMatch()] * 9), "cannot be told apart"),
        (lambda: product(ExactMatch(), F1("a")), r"F1\(a, macro\) scores a whole set"),
        (lambda: mean([ExactMatch(), F1("a")]), "measure"),
    ],
)
def test_what_cannot_be_combined(make, message):
    with pytest.raises(MetricError, match=message):
        make()


def test_a_part_that_fails_is_named_and_labels_are_checked_in_parts():
    with pytest.raises(MetricError, match=r"'broken' raised ZeroDivisionError"):
        of(product(part("x", 1.0), Metric(lambda gold, pred: 1 / 0, name="broken")))
    with pytest.raises(DataError, match="cannot score row 1"):
        product(part("x", 1.0), weighted((ExactMatch("c"), 1))).check([GOLD])


# --- async


async def slow(gold, pred, trace=None):
    await asyncio.sleep(0)
    return dspy.Prediction(score=float(gold.a == pred.a), feedback="awaited")


async def failing(gold, pred):
    raise RuntimeError("no answer")


def test_an_async_metric_works_in_sync_code_and_inside_a_loop():
    metric = Metric(slow)
    assert metric.score(GOLD, PRED).feedback == "awaited"
    assert metric(GOLD, PRED, []) is True

    async def inside():
        return (
            metric.score(GOLD, PRED),
            await metric.ascore(GOLD, PRED),
            await Metric(ExactMatch("b")).ascore(GOLD, PRED),
        )

    sync, awaited, plain = asyncio.run(inside())
    assert sync == awaited == metric.score(GOLD, PRED)
    assert plain.score == 0


def test_an_async_metric_that_raises_is_named_everywhere():
    metric = Metric(failing)

    async def inside():
        with pytest.raises(MetricError, match="'failing' raised RuntimeError: no answer"):
            metric.score(GOLD, PRED)
        with pytest.raises(MetricError, match="'failing' raised RuntimeError: no answer"):
            await metric.ascore(GOLD, PRED)

    asyncio.run(inside())
    with pytest.raises(MetricError, match="'failing' raised RuntimeError: no answer"):
        metric.score(GOLD, PRED)
