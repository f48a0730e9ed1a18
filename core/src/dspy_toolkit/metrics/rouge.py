"""ROUGE-L: how much of a text's order of words is that of a reference."""

import re
from collections.abc import Sequence
from typing import Any

from dspy_toolkit.metrics.fields import FieldMetric

__all__ = ["RougeL", "lcs_length", "rouge_l"]

_WORD = re.compile(r"[^\W_]+")


class RougeL(FieldMetric):
    """ROUGE-L's F measure of text fields (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", 3.1).

    2PR/(P+R), where P and R are the longest common subsequence of words over the length of the prediction and of the
    label; averaged over the fields, against the best label where there is a list. Words are runs of letters and digits
    in lower case, without stemming: on English text that is what the package `rouge-score` counts, which drops
    every letter that is not ASCII.
    """

    def compare(self, expected: Any, got: Any) -> float:
        if isinstance(expected, list | tuple) and expected:
            return max(self.compare(each, got) for each in expected)
        wanted, found = _words(expected), _words(got)
        if not wanted or not found:
            return float(wanted == found)
        return 2 * lcs_length(wanted, found) / (len(wanted) + len(found))

    def describe(self, field: str, expected: Any, got: Any, score: float) -> str:
        if 0 < score < 1:
            return (
                f"{field!r} is {got!r}; the expected {expected!r} says it partly in these words (ROUGE-L {score:.2f})."
            )
        return super().describe(field, expected, got, score)


rouge_l = RougeL()


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits: one row of the table is one integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    everything = (1 << len(one)) - 1
    row = everything  # a 0 at bit i: the longest common subsequence grows at word i
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(one) - row.bit_count()


def _words(text: Any) -> list[str]:
    return _WORD.findall(str(text).lower())
