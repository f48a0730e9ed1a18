"""DSPy's BootstrapFewShotWithRandomSearch."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dspy
from pydantic import Field

from dspy_toolkit.builtin.demos import (
    MaxBootstrapped,
    MaxLabeled,
    MaxRounds,
    Threshold,
    check_demos_fit,
    demo_limits,
    has_labels,
)
from dspy_toolkit.builtin.knn import nearest_rows
from dspy_toolkit.builtin.search import Search
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work, bootstrapping, until_score
from dspy_toolkit.optimize.teleprompter import NO_LIMIT, stripped, uncompiled
from dspy_toolkit.stats.shrinkage import expected_best

__all__ = ["RandomSearch"]

_NEAREST = 3
_PLAIN, _LABELLED = -3, -2
"""DSPy's numbers of the candidates without demonstrations, and with rows as they are."""


class RandomSearch(Optimizer):
    """DSPy's BootstrapFewShotWithRandomSearch: several sets of demonstrations, the best on validation rows wins.

    Compared are the program without demonstrations, with training rows as they are, with one bootstrapped set, and
    `num_candidate_programs` sets more on shuffled rows with 1 to `max_bootstrapped_demos` demonstrations the program
    made itself. DSPy compares on the training rows unless told otherwise and has no seed: here validation rows decide
    and the seed shuffles the training rows.

    With `nearest` the winner is chosen between the program without demonstrations, the best set and the nearest rows
    by what their scores let one expect (`dspy_toolkit.stats.shrinkage`): the best of many sets is partly the luckiest.
    Where chance explains all the differences the program without demonstrations wins, whose prompts are the shortest.
    Validation rows have served their purpose then, so the nearest rows, if they win, are taken from those as well.
    """

    class Params(OptimizerParams):
        num_candidate_programs: int = Field(8, ge=0, description="How many sets on shuffled rows are compared.")
        max_bootstrapped_demos: MaxBootstrapped = 4
        max_labeled_demos: MaxLabeled = 4
        max_rounds: MaxRounds = 1
        metric_threshold: Threshold = 0.5
        stop_at_score: float | None = Field(
            100.0, ge=0, le=100, description="A score on validation rows (0 to 100) that ends the search; null: none."
        )
        nearest: bool = Field(
            False,
            description="Also compare, last and without bootstrapping, a program that shows each call the rows most "
            "like it (see `knn`), if they have labels.",
        )

    def check(self, job: OptimizerJob, params: Params) -> None:
        check_demos_fit(job)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        limits, rows, validation = demo_limits(job, params), len(job.train), len(job.validation)
        target, labelled = limits["max_bootstrapped_demos"], min(limits["max_labeled_demos"], rows)
        labels = has_labels(job.program, job.train)
        plain = 1 + labels  # the candidates for which nothing is bootstrapped
        threshold = 1.0 if params.stop_at_score == 100 else params.metric_threshold
        passing = scores.rate(threshold, with_demos=True)
        rates = [scores.rate(threshold), *[passing] * (params.num_candidate_programs + plain)]
        scored = until_score(rates, validation, params.stop_at_score)
        sizes = [target, *[random.Random(n).randint(1, target) for n in range(params.num_candidate_programs)]]
        making, _ = bootstrapping(
            rows,
            sizes,
            scores.rate(params.metric_threshold, with_demos=labelled > 0),
            labelled=labelled,
            rounds=params.max_rounds,
            share=max(0.0, scored.expected - plain) / len(sizes),
            ends_early=params.stop_at_score is not None,
        )
        stop = "" if params.stop_at_score is None else f", fewer if one scores {params.stop_at_score:g}"
        demos = max(sum(sizes) / len(sizes), labelled)
        comparing = Work(
            what="candidates",
            rollouts=scored * validation,
            demos=(demos * len(sizes) + labelled * labels) / len(rates),
            why=f"{len(rates)} programs on {validation} validation rows each{stop}",
        )
        last = validation if params.nearest and labels else 0
        nearest = Work(
            what="nearest demonstrations",
            rollouts=Amount(0 if params.stop_at_score is not None else last, last, last),
            demos=_NEAREST,
            why=f"1 program on {last} validation rows{stop}",
        )
        return Forecast(work=(replace(making, why=making.why + stop), comparing, nearest), final=Final(demos=demos))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        rows = list(job.train)
        random.Random(job.seed).shuffle(rows)
        validation = list(job.validation)
        labels = has_labels(job.program, rows)
        nearest = params.nearest and labels
        search = Search(
            job,
            total=(params.num_candidate_programs + 2 + labels + nearest) * len(validation),
            rows=len(validation),
            metric=job.metric.with_threshold(params.metric_threshold),
        )
        with search.following():
            optimizer = dspy.BootstrapFewShotWithRandomSearch(
                metric=search.metric,
                max_rounds=params.max_rounds,
                num_candidate_programs=params.num_candidate_programs,
                num_threads=job.num_threads,
                max_errors=NO_LIMIT,
                stop_at_score=params.stop_at_score,
                **demo_limits(job, params),
            )
            # Where rows have no labels, rows as they are would be demonstrations without answers.
            numbers = [n for n in range(_PLAIN, params.num_candidate_programs) if labels or n != _LABELLED]
            program = optimizer.compile(uncompiled(job.program), trainset=rows, valset=validation, restrict=numbers)
            if not nearest or (params.stop_at_score is not None and (search.best or 0.0) >= params.stop_at_score):
                return stripped(program)
            result = search.evaluate(nearest_rows(job, rows, k=_NEAREST))
        return _expected_best(job, program.candidate_programs, result)


def _expected_best(job: OptimizerJob, candidates: Sequence[Mapping[str, Any]], nearest: Any) -> dspy.Module:
    """The program to expect most of; `candidates` are as DSPy leaves them on a program, the best first."""
    sets = [candidate for candidate in candidates if candidate["seed"] != _PLAIN]
    (plain,) = (candidate for candidate in candidates if candidate["seed"] == _PLAIN)
    scores = [_floats(candidate["subscores"]) for candidate in sets]
    with_validation = replace(job, train=(*job.train, *job.validation))
    choices: list[tuple[float, str, Callable[[], dspy.Module]]] = [
        (expected_best([_floats(plain["subscores"])], scores), "no demonstrations", lambda: stripped(plain["program"])),
        (expected_best(scores, scores), f"the best of {len(sets)} sets", lambda: stripped(sets[0]["program"])),
        (
            expected_best([_floats(score for _, _, score in nearest.results)], scores),
            "for each call the rows most like it",
            lambda: nearest_rows(with_validation, with_validation.train, k=_NEAREST),
        ),
    ]
    _, name, program = max(choices, key=lambda choice: choice[0])  # the first of equals
    job.note(f"Shown will be: {name}, by what {len(job.validation)} validation rows tell beyond chance.")
    return program()


def _floats(scores: Iterable[Any]) -> list[float]:
    return [float(score) for score in scores]
