"""DSPy's KNNFewShot, with the demonstrations made once and kept in the program."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import dspy
from pydantic import Field

from dspy_toolkit.builtin.demos import (
    Bootstrapping,
    MaxRounds,
    Threshold,
    check_demos_fit,
    check_labelled,
    has_labels,
    number_that_fits,
)
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work, bootstrapped
from dspy_toolkit.optimize.teleprompter import NO_LIMIT, uncompiled
from dspy_toolkit.programs.nearest import Entry, Nearest, text_of

__all__ = ["Knn", "nearest_rows"]


class Knn(Optimizer):
    """DSPy's KNNFewShot: each call is shown the demonstrations whose inputs are most like its own.

    DSPy bootstraps again in every call (several LM calls instead of one) and saves none of it. Here the demonstrations
    are made once and are part of the program; likeness is that of character trigrams, so no embedding model is needed.
    """

    class Params(OptimizerParams):
        k: int = Field(3, ge=1, description="How many demonstrations a call is shown.")
        bootstrap: bool = Field(
            True,
            description="Demonstrations are made by the program itself on every training row; rows where none was "
            "accepted are shown as they are, if they have labels. False: all rows are shown as they are.",
        )
        max_rounds: MaxRounds = 1
        metric_threshold: Threshold = 0.5

    def check(self, job: OptimizerJob, params: Params) -> None:
        check_demos_fit(job)
        if not params.bootstrap:
            check_labelled(job, "knn")

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        k, rows = number_that_fits(job, k=params.k), len(job.train)
        if not params.bootstrap:
            return Forecast(final=Final(demos=min(k, rows)))
        labelled = min(k, rows) if has_labels(job.program, job.train) else 0
        rate = scores.rate(params.metric_threshold, with_demos=labelled > 0)
        rollouts, _ = bootstrapped(rows, rows, rate, rounds=params.max_rounds)
        why = f"every one of {rows} rows, {params.max_rounds} times at most"
        work = Work(what="bootstrapping", rollouts=rollouts, demos=labelled, in_turn=True, why=why)
        return Forecast(work=(work,), final=Final(demos=k))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        rows, k = list(job.train), number_that_fits(job, k=params.k)
        labelled = has_labels(job.program, rows)
        if not params.bootstrap:
            return Nearest(uncompiled(job.program), _as_they_are(job.program, rows), k=k)
        pool = _Pool(
            job,
            k=k,
            metric=job.metric.with_threshold(params.metric_threshold),
            max_bootstrapped_demos=len(rows),
            max_labeled_demos=k if labelled else 0,  # shown to the program while it makes its own
            max_rounds=params.max_rounds,
            max_errors=NO_LIMIT,
        )
        job.report(0, len(rows))
        pool.compile(uncompiled(job.program), trainset=rows)
        entries = pool.entries + (_as_they_are(job.program, pool.rejected) if labelled else [])
        if not entries:
            raise OptimizationError(
                f"The program's answer was accepted on none of {len(rows)} training rows, so there is nothing to show. "
                "Label the rows, so that they can be shown as they are, lower metric_threshold, or raise max_rounds."
            )
        return Nearest(uncompiled(job.program), entries, k=k)


def nearest_rows(job: OptimizerJob, rows: Sequence[dspy.Example], *, k: int) -> Nearest:
    """A program that shows each call the `k` rows most like it, as they are; fewer if so many do not fit."""
    return Nearest(uncompiled(job.program), _as_they_are(job.program, rows), k=number_that_fits(job, k=k))


def _as_they_are(program: dspy.Module, rows: Sequence[dspy.Example]) -> list[Entry]:
    names = [name for name, _ in program.named_predictors()]
    return [(text_of(dict(row.inputs().items())), dict.fromkeys(names, row)) for row in rows]


class _Pool(Bootstrapping):
    """Bootstraps every row and remembers which row each demonstration is from."""

    def __init__(self, job: OptimizerJob, *, k: int, **options: Any):
        super().__init__(job, **options)
        self._k = k
        self.entries: list[Entry] = []
        self._accepted_rows: list[dspy.Example] = []

    @property
    def rejected(self) -> list[dspy.Example]:
        """Rows on which nothing was accepted."""
        return [row for row in self.trainset if not any(row is accepted for accepted in self._accepted_rows)]

    def _keep(self, example: dspy.Example) -> None:
        counts: Counter[str] = Counter()
        for _, demos in self.entries:
            counts.update(dict.fromkeys(demos, 1))
        new = {name: demos[-1] for name, demos in self.name2traces.items() if len(demos) > counts[name]}
        self._accepted_rows.append(example)
        self.entries.append((text_of(dict(example.inputs().items())), new))
        program = Nearest(uncompiled(self._job.program), self.entries, k=self._k)
        self._job.keep(program, message=f"{self._accepted} demonstrations accepted")
