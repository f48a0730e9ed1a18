"""DSPy's BootstrapFewShotWithRandomSearch."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import dspy
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Count, Positive, Threshold, shown_at_once
from dspy_toolkit.builtin.knn import shown_as_they_are
from dspy_toolkit.builtin.search import NO_LIMIT, Search, demos_must_fit, fresh, labelled, stripped
from dspy_toolkit.lm.context_window import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.amount import NOTHING, Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known, Work, bootstrapped, distinct, until_score
from dspy_toolkit.stats.shrinkage import expected_best

__all__ = ["random_search"]

_NEAREST = 3
_AS_IT_IS = -3
"""What DSPy calls the candidate without demonstrations."""


def _forecast(
    job: OptimizerJob,
    known: Known,
    *,
    num_candidate_programs: int,
    max_bootstrapped_demos: int,
    max_labeled_demos: int,
    max_rounds: int,
    metric_threshold: float,
    stop_at_score: float | None,
    nearest: bool,
) -> Forecast:
    wanted, shown = shown_at_once(
        job, max_bootstrapped_demos=max_bootstrapped_demos, max_labeled_demos=max_labeled_demos
    )
    rows, validation = len(job.train), len(job.validation)
    has_labels = labelled(job.program, job.train)
    plain = 1 + has_labels  # the program as it is, and with rows as they are: nothing is made for those two
    right = 1.0 if stop_at_score == 100 else metric_threshold
    with_demos = known.rate(right, shown=True)
    rates = [known.rate(right), *[with_demos] * (num_candidate_programs + plain)]
    scored = until_score(rates, validation, stop_at_score)
    sizes = [wanted, *[random.Random(seed).randint(1, wanted) for seed in range(num_candidate_programs)]]
    rate = known.rate(metric_threshold, shown=shown > 0)
    tried = [bootstrapped(rows, size, rate, rounds=max_rounds)[0] for size in sizes]
    made = max(0.0, scored.expected - plain) / len(sizes)  # the share of the sets that will be made
    tries = sum(tried, NOTHING)
    tries = Amount(0 if stop_at_score is not None else tries.low, made * tries.expected, tries.high)
    # Without rows as they are every set is made by the same prompts.
    once = distinct(rows, [each.expected / max_rounds for each in tried]) * max_rounds if not shown else tries.expected
    repeats = NOTHING if shown else Amount(0, max(0.0, tries.expected - once), max(0.0, tries.high - rows * max_rounds))
    demos = sum(sizes) / len(sizes)
    stop = "" if stop_at_score is None else f", fewer if one scores {stop_at_score:g}"
    last = validation if nearest and has_labels else 0
    return Forecast(
        work=(
            Work(
                what="bootstrapping",
                rollouts=tries,
                labelled=shown,
                repeats=repeats,
                in_turn=True,
                why=f"{len(sizes)} sets of 1 to {wanted} accepted of {rows} rows{stop}",
            ),
            Work(
                what="candidates",
                rollouts=scored * validation,
                made=demos * (len(rates) - plain) / len(rates),
                labelled=(max(0.0, shown - demos) * (len(rates) - plain) + shown * has_labels) / len(rates),
                why=f"{len(rates)} programs on {validation} validation rows each{stop}",
            ),
            Work(
                what="nearest demonstrations",
                rollouts=Amount(0 if stop_at_score is not None else last, last, last),
                labelled=_NEAREST,
                why=f"1 program on {last} validation rows{stop}",
            ),
        ),
        final=Final(made=demos, labelled=max(0.0, shown - demos)),
    )


@planned(_forecast)
@preflight(demos_must_fit)
def random_search(
    job: OptimizerJob,
    *,
    num_candidate_programs: Count = 8,
    max_bootstrapped_demos: Positive = 4,
    max_labeled_demos: Count = 4,
    max_rounds: Positive = 1,
    metric_threshold: Threshold = 0.5,
    stop_at_score: Annotated[float, Field(ge=0, le=100)] | None = 100.0,
    nearest: bool = False,
) -> dspy.Module:
    """DSPy's BootstrapFewShotWithRandomSearch: several sets of demonstrations, the best on validation rows wins.

    Compared are the program as it is, with training rows as they are, with one bootstrapped set, and
    `num_candidate_programs` more on shuffled rows with 1 to `max_bootstrapped_demos` demonstrations the program made
    itself, filled up to `max_labeled_demos` with rows as they are. `max_rounds` and `metric_threshold` are those of
    `bootstrap`. `stop_at_score` (0 to 100, null for never) ends the search early. DSPy compares on the training rows
    unless told otherwise and has no seed: here validation rows decide and the seed shuffles the training rows.
    `nearest` also compares, last and without bootstrapping, a program that shows each call the rows most like it (see
    `knn`), if they have labels, and chooses between the program as it is, the best set and the nearest rows by what
    their scores let one expect (`optimize/chance.py`): the best of many sets is partly the luckiest. Where chance
    explains all the differences the program as it is wins, whose prompts are the shortest. What validation rows were
    needed for is done then, so if the nearest rows win, validation rows are among those they are taken from.
    """
    rows = list(job.train)
    random.Random(job.seed).shuffle(rows)
    validation = list(job.validation)
    has_labels = labelled(job.program, rows)
    search = Search(
        job,
        total=(num_candidate_programs + 2 + has_labels + (nearest and has_labels)) * len(validation),
        rows=len(validation),
        metric=job.metric.with_threshold(metric_threshold),
    )
    with search.following():
        optimizer = dspy.BootstrapFewShotWithRandomSearch(
            metric=search.metric,
            max_rounds=max_rounds,
            num_candidate_programs=num_candidate_programs,
            num_threads=job.num_threads,
            max_errors=NO_LIMIT,
            stop_at_score=stop_at_score,
            **limit_demos(
                job,
                max_bootstrapped_demos=max_bootstrapped_demos,
                max_labeled_demos=max_labeled_demos if has_labels else 0,
            ),
        )
        # Candidate -2 is "rows as they are"; where they have no labels it would show demonstrations without answers.
        wanted = [each for each in range(-3, num_candidate_programs) if has_labels or each != -2]
        compiled = optimizer.compile(fresh(job.program), trainset=rows, valset=validation, restrict=wanted)
        best = search.best or 0.0
        if not nearest or not has_labels or (stop_at_score is not None and best >= stop_at_score):
            return stripped(compiled)
        evaluate = dspy.Evaluate(
            devset=validation, metric=search.metric, num_threads=job.num_threads, max_errors=NO_LIMIT
        )
        result = evaluate(shown_as_they_are(job, rows, k=_NEAREST))
    return _chosen(job, compiled.candidate_programs, result)


def _chosen(job: OptimizerJob, compared: Sequence[Mapping[str, Any]], nearest: Any) -> dspy.Module:
    """The program to expect most of; `compared` is as DSPy leaves it on a program, the best first."""
    sets = [each for each in compared if each["seed"] != _AS_IT_IS]
    (bare,) = (each for each in compared if each["seed"] == _AS_IT_IS)
    shown = [_floats(each["subscores"]) for each in sets]
    everything = replace(job, train=(*job.train, *job.validation))
    choices: list[tuple[float, str, Callable[[], dspy.Module]]] = [
        (expected_best([_floats(bare["subscores"])], shown), "no demonstrations", lambda: stripped(bare["program"])),
        (expected_best(shown, shown), f"the best of {len(sets)} sets", lambda: stripped(sets[0]["program"])),
        (
            expected_best([_floats(score for _, _, score in nearest.results)], shown),
            "for each call the rows most like it",
            lambda: shown_as_they_are(everything, everything.train, k=_NEAREST),
        ),
    ]
    _, name, made = max(choices, key=lambda each: each[0])  # the first of equals
    job.note(f"Shown will be: {name}, by what {len(job.validation)} validation rows tell beyond chance.")
    return made()


def _floats(scores: Iterable[Any]) -> list[float]:
    return [float(each) for each in scores]
