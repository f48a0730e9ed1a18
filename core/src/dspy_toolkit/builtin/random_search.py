"""DSPy's BootstrapFewShotWithRandomSearch."""

import random
from typing import Annotated

import dspy
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Count, Positive, Threshold
from dspy_toolkit.builtin.search import NO_LIMIT, Search, demos_must_fit, fresh, labelled, stripped
from dspy_toolkit.optimize.context import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, preflight

__all__ = ["random_search"]


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
) -> dspy.Module:
    """DSPy's BootstrapFewShotWithRandomSearch: several sets of demonstrations, the best on validation rows wins.

    Compared are the program as it is, with training rows as they are, with one bootstrapped set, and
    `num_candidate_programs` more on shuffled rows with 1 to `max_bootstrapped_demos` demonstrations the program made
    itself, filled up to `max_labeled_demos` with rows as they are. `max_rounds` and `metric_threshold` are those of
    `bootstrap`. `stop_at_score` (0 to 100, null for never) ends the search early. DSPy compares on the training rows
    unless told otherwise and has no seed: here validation rows decide and the seed shuffles the training rows.
    """
    rows = list(job.train)
    random.Random(job.seed).shuffle(rows)
    validation = list(job.validation)
    has_labels = labelled(job.program, rows)
    search = Search(
        job,
        total=(num_candidate_programs + 2 + has_labels) * len(validation),
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
        return stripped(optimizer.compile(fresh(job.program), trainset=rows, valset=validation, restrict=wanted))
