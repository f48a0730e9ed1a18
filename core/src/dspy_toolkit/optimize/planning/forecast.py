"""What an optimizer says beforehand it will ask for, and the arithmetic of stopping early that several of them need."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dspy_toolkit.optimize.planning.amount import NOTHING, Amount

__all__ = [
    "Final",
    "Forecast",
    "Rate",
    "TrainingScores",
    "Work",
    "bootstrapped",
    "bootstrapping",
    "distinct",
    "until_score",
]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One kind of thing a search does, in rollouts (the program on a row, scored once) or in single calls of an LM.

    `demos` is how many demonstrations each prompt of a rollout holds on average. `repeats` are rollouts whose prompts
    were sent before: an LM with a cache answers them for nothing. Rollouts `in_turn` are made one after the other
    whatever the number of threads. Single `calls` write instructions: they go to `model`, a model string (None: the
    program's own), with prompts that show `rows` training rows. `why` is one sentence.
    """

    what: str
    rollouts: Amount = NOTHING
    demos: float = 0.0
    repeats: Amount = NOTHING
    in_turn: bool = False
    calls: Amount = NOTHING
    model: str | None = None
    rows: int = 0
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Final:
    """The program that will be measured at the end: its demonstrations, and how many programs answer each row.

    `unchanged` is how likely it is that the search finds nothing, so that the measurement repeats the baseline.
    """

    demos: float = 0.0
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
        weights = [math.exp(log - max(logs)) for log in logs]
        total = sum(weights)
        yield from ((p, weight / total) for p, weight in zip(points, weights, strict=True))

    def mean_of(self, function: Callable[[float], float]) -> float:
        """The expected value of a function of the rate."""
        return sum(weight * function(p) for p, weight in self.likely())


@dataclass(frozen=True, kw_only=True)
class TrainingScores:
    """Scores (0 to 1) on training rows, measured before the plan: of the program as it is (`plain`) and with rows as
    they are for demonstrations (`with_demos`). Both are empty if nothing was measured.
    """

    plain: Sequence[float] = ()
    with_demos: Sequence[float] = ()

    def rate(self, threshold: float, *, with_demos: bool = False) -> Rate:
        """How often a score reaches `threshold`."""
        scores = (self.with_demos or self.plain) if with_demos else self.plain
        return Rate(sum(score >= threshold for score in scores), len(scores))


def bootstrapped(rows: int, target: int, rate: Rate, *, rounds: int = 1) -> tuple[Amount, float]:
    """Rollouts of trying rows in turn, each `rounds` times at most, until `target` pass; and how many will."""
    if target <= 0 or rows <= 0:
        return NOTHING, 0.0
    tries = accepted = 0.0
    for p, weight in rate.likely():
        chance = 1 - (1 - p) ** rounds
        visited = _rows_until(rows, target, chance)
        tries += weight * visited * chance / p
        accepted += weight * min(target, visited * chance)
    return Amount(min(target, rows), tries, rows * rounds), accepted


def bootstrapping(
    rows: int,
    targets: Sequence[int],
    rate: Rate,
    *,
    labelled: int,
    rounds: int = 1,
    share: float = 1.0,
    ends_early: bool = False,
) -> tuple[Work, float]:
    """The work of bootstrapping several sets, of which a `share` will be made, and the mean number accepted.

    `labelled` rows are shown meanwhile; without those every set is made by the same prompts.
    """
    sets = [bootstrapped(rows, target, rate, rounds=rounds) for target in targets]
    tries = sum((rollouts for rollouts, _ in sets), NOTHING)
    tries = Amount(0 if ends_early else tries.low, share * tries.expected, tries.high)
    once = distinct(rows, [rollouts.expected / rounds for rollouts, _ in sets]) * rounds
    repeats = Amount(0, max(0.0, tries.expected - once), max(0.0, tries.high - rows * rounds))
    sizes = f"{min(targets)} to {max(targets)}" if min(targets) < max(targets) else f"{max(targets)}"
    work = Work(
        what="bootstrapping",
        rollouts=tries,
        demos=labelled,
        repeats=NOTHING if labelled else repeats,
        in_turn=True,
        why=f"{len(targets)} sets of {sizes} accepted of {rows} rows",
    )
    return work, sum(accepted for _, accepted in sets) / len(sets)


def _rows_until(rows: int, target: int, chance: float) -> float:
    """The expected number of rows until `target` successes or the end."""
    if target >= rows:
        return rows
    chances = [1.0] + [0.0] * (target - 1)  # of 0, 1, ... successes so far
    visited = 0.0
    for _ in range(rows):
        unfinished = sum(chances)
        visited += unfinished
        if unfinished < 1e-9:
            break
        chances = [
            current * (1 - chance) + (chances[number - 1] * chance if number else 0.0)
            for number, current in enumerate(chances)
        ]
    return visited


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
    expected, unfinished = 0.0, 1.0
    for rate in dict.fromkeys(candidates):
        same = sum(candidate == rate for candidate in candidates)
        left = 0.0
        for p, weight in rate.likely():
            reached = _at_least(needed, rows, p)
            expected += unfinished * weight * sum((1 - reached) ** number for number in range(same))
            left += weight * (1 - reached) ** same
        unfinished *= left
    return Amount(1, expected, len(candidates))


def _at_least(needed: int, rows: int, p: float) -> float:
    """How likely at least `needed` of `rows` are, each with chance `p`; exact for all, else by the normal curve."""
    if needed >= rows:
        return p**rows
    from statistics import NormalDist

    spread = max(1e-9, (rows * p * (1 - p)) ** 0.5)
    return 1 - NormalDist(rows * p, spread).cdf(needed - 0.5)
