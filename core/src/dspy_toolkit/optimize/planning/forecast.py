"""What an optimizer says beforehand it will ask for, and the arithmetic of stopping early that several of them need."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspy_toolkit.optimize.planning.amount import NOTHING, Amount

__all__ = ["Final", "Forecast", "Known", "Rate", "Work", "bootstrapped", "distinct", "until_score"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One kind of thing a search does, in rollouts (the program on a row, scored once) or in single calls of an LM.

    `made` and `labelled` are how many demonstrations each of the program's prompts holds on average: those it made
    itself, and rows as they are. `repeats` are rollouts that are asked for again as they were: an LM with a cache
    answers them for nothing. `scorings` are calls of the metric beyond one a rollout. Rollouts `in_turn` are made one
    after the other whatever the number of threads; `instructed` ones have instructions that a model wrote. Single
    `calls` go to `model`, a model string (None: the program's own), with prompts like `prompt`, a signature and its
    inputs, and answers of `most_written` tokens at most. `why` is one sentence.
    """

    what: str
    rollouts: Amount = NOTHING
    made: float = 0.0
    labelled: float = 0.0
    repeats: Amount = NOTHING
    scorings: Amount = NOTHING
    in_turn: bool = False
    instructed: bool = False
    calls: Amount = NOTHING
    model: str | None = None
    most_written: int | None = None
    prompt: tuple[type[dspy.Signature], Mapping[str, Any]] | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Final:
    """The program that will be measured at the end: its demonstrations, and how many programs answer each row.

    `unchanged` is how likely it is that the search finds nothing, so that the measurement repeats the baseline.
    """

    made: float = 0.0
    labelled: float = 0.0
    programs: int = 1
    unchanged: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a search will ask for, and what it will end with."""

    work: tuple[Work, ...] = ()
    final: Final = field(default_factory=Final)


@dataclass(frozen=True)
class Rate:
    """How often something succeeds, as far as `passed` of `tried` tell."""

    passed: float
    tried: float

    @property
    def mean(self) -> float:
        return (self.passed + 0.5) / (self.tried + 1)

    def likely(self) -> Iterator[tuple[float, float]]:
        """Possible rates with their weights, which add up to 1: the posterior from Jeffreys' prior."""
        points = [(number + 0.5) / 40 for number in range(40)]
        passed, failed = self.passed - 0.5, self.tried - self.passed - 0.5
        logs = [passed * math.log(p) + failed * math.log(1 - p) for p in points]
        weights = [math.exp(each - max(logs)) for each in logs]
        total = sum(weights)
        yield from ((p, weight / total) for p, weight in zip(points, weights, strict=True))


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was measured before the plan is made: scores (0 to 1) on training rows, of the program as it is (`bare`) and
    with rows as they are for demonstrations (`shown`). Both are empty if nothing was measured.
    """

    bare: Sequence[float] = ()
    shown: Sequence[float] = ()

    def rate(self, threshold: float, *, shown: bool = False) -> Rate:
        """How often a score reaches `threshold`."""
        scores = (self.shown or self.bare) if shown else self.bare
        return Rate(sum(score >= threshold for score in scores), len(scores))


def bootstrapped(rows: int, wanted: int, rate: Rate, *, rounds: int = 1) -> tuple[Amount, float]:
    """Rollouts of trying rows in turn, each `rounds` times at most, until `wanted` pass; and how many will."""
    if wanted <= 0 or rows <= 0:
        return NOTHING, 0.0
    tries = accepted = 0.0
    for p, weight in rate.likely():
        chance = 1 - (1 - p) ** rounds
        looked = _looked_at(rows, wanted, chance)
        tries += weight * looked * chance / p
        accepted += weight * min(wanted, looked * chance)
    return Amount(min(wanted, rows), tries, rows * rounds), accepted


def _looked_at(rows: int, wanted: int, chance: float) -> float:
    """The expected number of rows until `wanted` successes or the end."""
    if wanted >= rows:
        return rows
    having = [1.0] + [0.0] * (wanted - 1)  # how likely it is to have 0, 1, ... successes so far
    looked = 0.0
    for _ in range(rows):
        still = sum(having)
        looked += still
        if still < 1e-9:
            break
        having = [
            each * (1 - chance) + (having[number - 1] * chance if number else 0.0) for number, each in enumerate(having)
        ]
    return looked


def distinct(rows: int, draws: Sequence[float]) -> float:
    """How many different ones of `rows` are expected in several draws of so many, each without repeats."""
    left = 1.0
    for count in draws:
        left *= max(0.0, 1 - count / rows)
    return rows * (1 - left)


def until_score(candidates: Sequence[Rate], rows: int, target: float | None) -> Amount:
    """How many candidates are scored on `rows` rows until one reaches `target` (0 to 100, None for never).

    Candidates with the same rate are as good as each other: if one reaches it, so would the next.
    """
    if target is None:
        return Amount.of(len(candidates))
    needed = -int(-rows * target // 100)
    expected, going = 0.0, 1.0
    for rate in dict.fromkeys(candidates):
        same = sum(each == rate for each in candidates)
        left = 0.0
        for p, weight in rate.likely():
            reached = _at_least(needed, rows, p)
            expected += going * weight * sum((1 - reached) ** number for number in range(same))
            left += weight * (1 - reached) ** same
        going *= left
    return Amount(1, expected, len(candidates))


def _at_least(needed: int, rows: int, p: float) -> float:
    """How likely at least `needed` of `rows` are, each with chance `p`; exact for all, else by the normal curve."""
    if needed >= rows:
        return p**rows
    from statistics import NormalDist

    spread = max(1e-9, (rows * p * (1 - p)) ** 0.5)
    return 1 - NormalDist(rows * p, spread).cdf(needed - 0.5)
