"""DSPy's KNNFewShot, with the demonstrations made once and kept in the program."""

from collections import Counter
from typing import Any

import dspy

from dspy_toolkit.builtin.bootstrap import Bootstrapping, Positive, Threshold
from dspy_toolkit.builtin.search import NO_LIMIT, check_labelled, demos_must_fit, fresh
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.optimize.context import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, preflight
from dspy_toolkit.programs.nearest import Entry, Nearest, text_of

__all__ = ["knn"]


def _check(job: OptimizerJob, *, bootstrap: bool, **_: object) -> None:
    demos_must_fit(job)
    if not bootstrap:
        check_labelled(job, "knn")


@preflight(_check)
def knn(
    job: OptimizerJob,
    *,
    k: Positive = 3,
    bootstrap: bool = True,
    max_rounds: Positive = 1,
    metric_threshold: Threshold = 0.5,
) -> dspy.Module:
    """DSPy's KNNFewShot: each call is shown the `k` demonstrations whose inputs are most like its own.

    With `bootstrap` demonstrations are made by the program itself on every training row, `max_rounds` times at most,
    and accepted from the score `metric_threshold`; without it they are the training rows as they are.
    DSPy bootstraps again in every call (several LM calls instead of one) and saves none of it. Here the demonstrations
    are made once and are part of the program; likeness is that of character trigrams, so no embedding model is needed.
    """
    rows = list(job.train)
    count = limit_demos(job, k=k)["k"]
    entries: list[Entry]
    if bootstrap:
        pool = _Pool(
            job,
            k=count,
            metric=job.metric.with_threshold(metric_threshold),
            max_bootstrapped_demos=len(rows),
            max_labeled_demos=0,
            max_rounds=max_rounds,
            max_errors=NO_LIMIT,
        )
        job.report(0, len(rows))
        pool.compile(fresh(job.program), trainset=rows)
        entries = pool.entries
    else:
        names = [name for name, _ in job.program.named_predictors()]
        entries = [(text_of(row.inputs()), dict.fromkeys(names, row)) for row in rows]
    if not entries:
        raise OptimizationError(
            f"The program's answer was accepted on none of {len(rows)} training rows, so there is nothing to show. "
            "Set bootstrap=false to show the rows as they are, lower metric_threshold, or raise max_rounds."
        )
    return Nearest(fresh(job.program), entries, k=count)


class _Pool(Bootstrapping):
    """Bootstraps every row and remembers which row each demonstration is from."""

    def __init__(self, job: OptimizerJob, *, k: int, **options: Any):
        super().__init__(job, **options)
        self._k = k
        self.entries: list[Entry] = []

    def _keep(self, example: dspy.Example) -> None:
        shown: Counter[str] = Counter()
        for _, demos in self.entries:
            shown.update(dict.fromkeys(demos, 1))
        new = {name: demos[-1] for name, demos in self.name2traces.items() if len(demos) > shown[name]}
        self.entries.append((text_of(example.inputs()), new))
        program = Nearest(fresh(self._job.program), self.entries, k=self._k)
        self._job.keep(program, message=f"{self._accepted} demonstrations accepted")
