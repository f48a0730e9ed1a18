"""What scores on a few rows let one expect of the candidates on other rows.

The best of ten candidates on sixteen rows is mostly the luckiest, so a single program of another kind that scores a
little less is often the better one. Here a difference counts by the share of it that chance does not explain, which
analysis of variance estimates (rows are blocks: a hard row is hard for all): 1 - 1/F, none where F is below 1. This is
the estimator of James and Stein, with the noise taken from the rows.
"""

from collections.abc import Sequence
from statistics import fmean

__all__ = ["expected_best", "lasting"]

Scores = Sequence[float]
"""One candidate's, row by row; of all candidates on the same rows, in the same order."""


def lasting(candidates: Sequence[Scores]) -> float:
    """The share, 0 to 1, of the differences between the candidates' means that should show on other rows too."""
    count, rows = len(candidates), len(candidates[0])
    if count < 2 or rows < 2:
        return 0.0
    means = [fmean(each) for each in candidates]
    blocks = [fmean(column) for column in zip(*candidates, strict=True)]
    mean = fmean(means)
    between = rows * sum((each - mean) ** 2 for each in means) / (count - 1)
    left = sum(
        (score - own - block + mean) ** 2
        for scores, own in zip(candidates, means, strict=True)
        for score, block in zip(scores, blocks, strict=True)
    )
    noise = left / ((count - 1) * (rows - 1))
    return max(0.0, 1 - noise / between) if between > 0 else 0.0


def expected_best(kind: Sequence[Scores], beside: Sequence[Scores]) -> float:
    """What the best of `kind` should score on other rows, above what an average one of `beside` would.

    The best differs from its kind, and the kind from `beside`; each difference counts as far as it lasts.
    """
    average, other = ([fmean(column) for column in zip(*each, strict=True)] for each in (kind, beside))
    above = max(map(fmean, kind)) - fmean(average)
    return lasting(kind) * above + lasting([average, other]) * (fmean(average) - fmean(other))
