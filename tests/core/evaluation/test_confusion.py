"""Tables of labels and answers, against scikit-learn."""

import enum
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from dspy_toolkit.evaluation.confusion import NO_ANSWER, OTHER, Confusion

NAMES = ["rain", "dry", "snow", "fog"]
PAIRS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([*NAMES, "hail", None])), min_size=1, max_size=60)


@given(PAIRS)
def test_counts_and_scores_are_scikit_learns(pairs):
    confusion = Confusion.of("weather", pairs)
    labels = sorted({gold for gold, _ in pairs})
    assert list(confusion.labels) == labels
    # scikit-learn wants an answer for each row; these two are none of the labels.
    golds, answers = [gold for gold, _ in pairs], [got or "no answer" for _, got in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn speaks up about labels that never occur
        known = confusion_matrix(golds, answers, labels=labels)
        precision, recall, f1, support = precision_recall_fscore_support(golds, answers, labels=labels, zero_division=0)
    assert [row[: len(labels)] for row in confusion.matrix] == known.tolist()
    own = [confusion.by_label[label] for label in labels]
    assert [each.precision for each in own] == pytest.approx(list(precision))
    assert [each.recall for each in own] == pytest.approx(list(recall))
    assert [each.f1 for each in own] == pytest.approx(list(f1))
    assert [each.labelled for each in own] == support.tolist()
    assert confusion.macro_f1 == pytest.approx(f1.mean())
    assert confusion.accuracy == pytest.approx(sum(a == b for a, b in zip(golds, answers, strict=True)) / len(pairs))


@given(PAIRS, st.permutations(NAMES))
def test_every_row_is_in_one_cell_whatever_the_order(pairs, options):
    confusion = Confusion.of("weather", pairs, options=options)
    assert list(confusion.labels) == options
    assert sum(map(sum, confusion.matrix)) == confusion.total == len(pairs)
    sums = [sum(row) for row in confusion.matrix]
    assert sums == [confusion.by_label[label].labelled for label in confusion.labels]
    column = dict(zip(confusion.answers, zip(*confusion.matrix, strict=True), strict=True))
    assert sum(column.get(NO_ANSWER, [0])) == sum(got is None for _, got in pairs)
    assert sum(column.get(OTHER, [0])) == sum(got == "hail" and "hail" not in options for _, got in pairs)
    again = Confusion.of("weather", list(reversed(pairs)), options=options)
    assert again.matrix == confusion.matrix


def test_labels_of_any_type_keep_apart_what_is_different():
    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"

    colours = Confusion.of("colour", [(Colour.RED, Colour.BLUE), (Colour.RED, "red")], options=list(Colour))
    assert colours.labels == ("red", "blue")
    assert colours.matrix == [[1, 1], [0, 0]]

    mixed = Confusion.of("number", [(1, 1), ("1", 1), (10, 2), (2, 2), (True, 1)])
    assert mixed.labels == ("1", "2", "10", "'1'", "true")
    assert mixed.matrix == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_a_label_called_like_the_extra_columns_is_not_taken_for_them():
    confusion = Confusion.of("x", [(OTHER, "else"), (NO_ANSWER, None), (OTHER, OTHER)])
    assert confusion.labels == (repr(NO_ANSWER), repr(OTHER))
    assert confusion.answers == (repr(NO_ANSWER), repr(OTHER), OTHER, NO_ANSWER)
    assert confusion.matrix == [[0, 0, 0, 1], [0, 1, 1, 0]]


def test_an_empty_table_has_no_score():
    nothing = Confusion.of("x", [], options=["a", "b"])
    assert (nothing.total, nothing.accuracy, nothing.macro_f1) == (0, 0.0, 0.0)
    assert nothing.to_dict()["matrix"] == [[0, 0], [0, 0]]
