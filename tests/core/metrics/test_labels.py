"""Precision, recall and F1 over sets are scikit-learn's; their intervals are scipy's; a run is judged by them."""

import random
from collections import Counter

import dspy
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import optimized
from scipy.stats import bootstrap
from sklearn.metrics import f1_score, precision_score, recall_score

from dspy_toolkit.data.splits import Splits
from dspy_toolkit.errors import DataError, MetricError
from dspy_toolkit.evaluation.comparison import compare_evaluations
from dspy_toolkit.evaluation.evaluate import evaluate
from dspy_toolkit.evaluation.results import measure, observations
from dspy_toolkit.metrics import F1, ExactMatch, Metric, Precision, Recall, SetMetric, by_label
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.stats.intervals import compare, estimate
from dspy_toolkit.stats.set_intervals import compare_sets, estimate_set
from dspy_toolkit.testing import ScriptedLM

ORACLES = {Precision: precision_score, Recall: recall_score, F1: f1_score}
pairs = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=40)


def example(label, **more):
    return dspy.Example(text="?", label=label, **more).with_inputs("text")


def over(metric, found):
    golds = [example(label) for label, _ in found]
    return metric.over(Counter(observations(metric, golds, [dspy.Prediction(label=got) for _, got in found])))


@pytest.mark.parametrize("measure_class", ORACLES)
@pytest.mark.parametrize("average", ["macro", "weighted", "micro"])
@given(found=pairs)
@settings(max_examples=40, deadline=None)
def test_averages_are_scikit_learns(measure_class, average, found):
    oracle = ORACLES[measure_class]
    gold, got = zip(*found, strict=True)
    expected = oracle(gold, got, average=average, zero_division=0)
    assert over(measure_class("label", average=average), found) == pytest.approx(expected)
    chosen = sorted(set(gold))[:2]
    expected = oracle(gold, got, average=average, labels=chosen, zero_division=0)
    assert over(measure_class(average=average, labels=chosen), found) == pytest.approx(expected)


@pytest.mark.parametrize("measure_class", ORACLES)
@given(found=pairs)
@settings(max_examples=40, deadline=None)
def test_one_positive_label_is_scikit_learns_binary(measure_class, found):
    gold, got = ([each == "a" for each in side] for side in zip(*found, strict=True))
    expected = ORACLES[measure_class](gold, got, zero_division=0)
    assert over(measure_class(positive="a"), found) == pytest.approx(expected)


def test_a_constant_answer_does_not_win():
    found = [("common", "common")] * 90 + [("rare", "common")] * 10
    rows = [example(label) for label, _ in found]
    constant = dspy.Prediction(label="common")
    assert sum(Metric(ExactMatch()).score(row, constant).score for row in rows) / 100 == 0.9
    assert over(F1(), found) < 0.5
    assert over(Recall(), found) == 0.5
    assert over(F1(positive="rare"), found) == 0


def test_failed_rows_are_misses_and_no_label_of_their_own():
    metric = F1("label")
    golds = [example("a"), example("a"), example("b")]
    observed = observations(metric, golds, [dspy.Prediction(label="a"), None, dspy.Prediction(other=1)])
    table = by_label(Counter(observed))
    assert set(table) == {"a", "b"}
    assert table["a"].recall == 0.5
    assert table["a"].precision == 1
    assert metric.over(Counter(observed)) == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [(True, True, True), (True, 1, False), (1, "1", False), (1, 1.0, True), (" a", "a ", True), (["x"], ("x",), True)],
)
def test_labels_of_any_type(expected, got, same):
    assert F1().row(example(expected), dspy.Prediction(label=got)).score == same
    assert over(Recall(average="micro"), [(expected, got)]) == same


def test_what_cannot_be_scored_is_said_before_any_call():
    rows = [example("spam"), example("ham")]
    with pytest.raises(DataError, match=r"asks for the label 'Spam', which no row has; the rows have: 'ham', 'spam'"):
        F1("label", positive="Spam").check(rows)
    with pytest.raises(DataError, match=r"several labelled fields \(label, other\); name the one"):
        F1().check([example("a", other=1)])
    with pytest.raises(DataError, match="cannot score row 1"):
        F1("kind").check(rows)
    with pytest.raises(MetricError, match="'mean'"):
        F1(average="mean")
    with pytest.raises(MetricError, match="either"):
        F1(positive="a", labels=["a"])


# --- intervals


class MeanOfRows(SetMetric):
    """Accuracy, as a set metric: there the two kinds of score must agree."""

    __name__ = "mean"

    def row(self, gold, pred):
        return Score(score=float(gold.label == pred.label))

    def observe(self, gold, pred):
        return bool(pred is not None and gold.label == pred.label)

    def over(self, counts):
        return counts.get(True, 0) / sum(counts.values())


@pytest.mark.parametrize(("seed", "n"), [(1, 3), (2, 8), (3, 25), (4, 30)])
def test_a_mean_has_the_interval_of_the_mean(seed, n):
    chance = random.Random(seed)
    right = [chance.random() < 0.6 for _ in range(n)]
    ours = estimate_set(MeanOfRows().score_of, right, seed=3)
    rows = estimate([100.0 * each for each in right], seed=3)
    assert (ours.score, ours.n) == (pytest.approx(rows.score), rows.n)
    assert (ours.low, ours.high) == pytest.approx((rows.low, rows.high), abs=101 / n)  # one row: the draws differ
    other = [chance.random() < 0.5 for _ in right]
    first, second = [100.0 * each for each in right], [100.0 * each for each in other]
    of_set, of_rows = (
        compare_sets(MeanOfRows().score_of, (right, other), (first, second), seed=3),
        compare(first, second),
    )
    assert of_set.difference == pytest.approx(of_rows.difference)
    assert (of_set.wins, of_set.losses, of_set.ties) == (of_rows.wins, of_rows.losses, of_rows.ties)
    assert of_set.p_value == of_rows.p_value
    assert of_set.clears == of_rows.clears


@pytest.mark.parametrize("wins", range(1, 10))
def test_a_set_clears_the_gate_only_where_a_permutation_test_confirms_it(wins):
    answers = [False] * wins + [True, False] * 5, [True] * wins + [True, False] * 5
    scores = tuple([100.0 * right for right in side] for side in answers)
    comparison = compare_sets(MeanOfRows().score_of, answers, scores)
    assert comparison.clears == (wins >= 6)
    assert compare_sets(MeanOfRows().score_of, answers[::-1], scores[::-1]).high == pytest.approx(0) or wins >= 6


def test_the_interval_of_macro_f1_is_scipys():
    chance = random.Random(5)
    gold = chance.choices("aaab", k=70)
    got = [each if chance.random() < 0.7 else chance.choice("ab") for each in gold]
    ours = estimate_set(F1("label").score_of, list(zip(gold, got, strict=True)), seed=1)
    oracle = bootstrap(
        (numpy.arange(70),),
        lambda index: f1_score([gold[i] for i in index], [got[i] for i in index], average="macro", zero_division=0),
        vectorized=False,
        n_resamples=1000,
        method="BCa",
        rng=1,
    ).confidence_interval
    assert ours.score == pytest.approx(100 * f1_score(gold, got, average="macro"))
    assert ours.low == pytest.approx(100 * oracle.low, abs=2.0)
    assert ours.high == pytest.approx(100 * oracle.high, abs=2.0)


def test_all_right_is_not_certainty():
    found = estimate_set(F1().score_of, [("a", "a"), ("b", "b")] * 10)
    assert found.score == found.high == 100
    assert found.low < 90


# --- runs

PROGRAM = dspy.Predict("text -> label")


def rows(first, last):
    return tuple(
        dspy.Example(text=f"{label}{n}", label=label).with_inputs("text")
        for n in range(first, last)
        for label in (["common"] * 4 if n % 4 else ["rare"])
    )


def answering(constant_until_shown):
    """Says "common" whatever is asked, unless the prompt shows demonstrations."""

    def reply(request):
        text = request.messages[-1].text.partition("[[ ## text ## ]]\n")[2].partition("\n")[0]
        if text == "common3":
            return RuntimeError("lost")
        learned = len(request.messages) > 1 or not constant_until_shown
        return {"label": text.rstrip("0123456789") if learned else "common"}

    return ScriptedLM(reply)


def test_an_evaluation_has_the_score_of_the_set_and_the_mean_beside_it():
    data = rows(0, 32)
    found = evaluate(PROGRAM, data, F1("label"), lm=answering(True))
    gold = [row.label for row in data]
    assert found.row_score.score == pytest.approx(100 * 92 / 104)
    assert found.score.score == pytest.approx(100 * (2 * 92 / (96 + 100) + 0) / 2)
    assert found.score.low < found.score.score < found.score.high or found.score.score == found.score.low
    assert found.to_dict()["row_score"]["score"] == found.row_score.score
    assert found.results[0].feedback == "'label' is 'common'; expected 'rare'."
    later = measure(evaluate(PROGRAM, data, ExactMatch(), lm=answering(True)), data, F1("label"))
    assert later == found.score
    better = evaluate(PROGRAM, data, F1("label"), lm=answering(False))
    difference = compare_evaluations(found, better)
    assert difference.difference == pytest.approx(better.score.score - found.score.score)
    assert difference.wins == gold.count("rare")
    assert difference.clears


def test_a_run_is_decided_by_the_set():
    data = Splits(train=rows(100, 104), validation=rows(200, 204), test=rows(0, 32))

    def shown(job):
        program = job.program.deepcopy()
        program.demos = [job.train[0]]
        return program

    result = optimized(PROGRAM, data=data, metric=F1("label"), optimizer=shown, lm=answering(True))
    assert result.metric == "F1(label, macro)"
    assert result.baseline.score < 50
    assert result.optimized.score > 90
    assert result.comparison.difference == pytest.approx(result.optimized.score - result.baseline.score)
    assert result.promoted


def test_a_set_metric_that_fails_is_named():
    class Broken(MeanOfRows):
        __name__ = "broken"

        def over(self, counts):
            return float("nan")

    with pytest.raises(MetricError, match="'broken' returned nan for a set"):
        estimate_set(Broken().score_of, [True, False])

    class Blind(MeanOfRows):
        __name__ = "blind"

        def observe(self, gold, pred):
            raise KeyError("eyes")

    with pytest.raises(MetricError, match="Row 1: the metric 'blind' cannot observe it"):
        observations(Blind(), [example("a")], [None])
