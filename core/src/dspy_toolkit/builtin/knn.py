"""DSPy's KNNFewShot, with the demonstrations made once and kept in the program."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import dspy

from dspy_toolkit.builtin.bootstrap import Bootstrapping, Positive, Threshold
from dspy_toolkit.builtin.search import NO_LIMIT, check_labelled, demos_must_fit, fresh, labelled
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known, Rate, Work, bootstrapped
from dspy_toolkit.programs.nearest import Entry, Nearest, text_of

__all__ = ["knn", "shown_as_they_are"]


def _check(job: OptimizerJob, *, bootstrap: bool, **_: object) -> None:
    demos_must_fit(job)
    if not bootstrap:
        check_labelled(job, "knn")


def _forecast(
    job: OptimizerJob, known: Known, *, k: int, bootstrap: bool, max_rounds: int, metric_threshold: float
) -> Forecast:
    count, rows = limit_demos(job, k=k)["k"], len(job.train)
    if not bootstrap:
        return Forecast(final=Final(labelled=min(count, rows)))
    shown = min(count, rows) if labelled(job.program, job.train) else 0
    rate: Rate = known.rate(metric_threshold, shown=shown > 0)
    rollouts, made = bootstrapped(rows, rows, rate, rounds=max_rounds)
    why = f"every one of {rows} rows, {max_rounds} times at most"
    work = Work(what="bootstrapping", rollouts=rollouts, labelled=shown, in_turn=True, why=why)
    share = made / rows if shown else 1.0
    return Forecast(work=(work,), final=Final(made=count * share, labelled=count * (1 - share)))


@planned(_forecast)
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
    and accepted from the score `metric_threshold`; rows where none was accepted, and all rows without `bootstrap`, are
    shown as they are, if they have labels.
    DSPy bootstraps again in every call (several LM calls instead of one) and saves none of it. Here the demonstrations
    are made once and are part of the program; likeness is that of character trigrams, so no embedding model is needed.
    """
    rows = list(job.train)
    count = limit_demos(job, k=k)["k"]
    has_labels = labelled(job.program, rows)
    entries: list[Entry]
    if bootstrap:
        pool = _Pool(
            job,
            k=count,
            metric=job.metric.with_threshold(metric_threshold),
            max_bootstrapped_demos=len(rows),
            max_labeled_demos=count if has_labels else 0,  # shown to the program while it makes its own
            max_rounds=max_rounds,
            max_errors=NO_LIMIT,
        )
        job.report(0, len(rows))
        pool.compile(fresh(job.program), trainset=rows)
        entries = pool.entries + (_as_they_are(job.program, pool.left) if has_labels else [])
    else:
        entries = _as_they_are(job.program, rows)
    if not entries:
        raise OptimizationError(
            f"The program's answer was accepted on none of {len(rows)} training rows, so there is nothing to show. "
            "Label the rows, so that they can be shown as they are, lower metric_threshold, or raise max_rounds."
        )
    return Nearest(fresh(job.program), entries, k=count)


def shown_as_they_are(job: OptimizerJob, rows: Sequence[dspy.Example], *, k: int) -> Nearest:
    """A program that shows each call the `k` rows most like it, as they are; fewer if so many do not fit."""
    return Nearest(fresh(job.program), _as_they_are(job.program, rows), k=limit_demos(job, k=k)["k"])


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
    def left(self) -> list[dspy.Example]:
        """Rows on which nothing was accepted."""
        return [row for row in self.trainset if not any(row is each for each in self._accepted_rows)]

    def _keep(self, example: dspy.Example) -> None:
        shown: Counter[str] = Counter()
        for _, demos in self.entries:
            shown.update(dict.fromkeys(demos, 1))
        new = {name: demos[-1] for name, demos in self.name2traces.items() if len(demos) > shown[name]}
        self._accepted_rows.append(example)
        self.entries.append((text_of(dict(example.inputs().items())), new))
        program = Nearest(fresh(self._job.program), self.entries, k=self._k)
        self._job.keep(program, message=f"{self._accepted} demonstrations accepted")
