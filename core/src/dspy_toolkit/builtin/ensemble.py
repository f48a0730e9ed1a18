"""DSPy's Ensemble: several programs that vote."""

import random
from typing import Annotated

import dspy
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Count, Positive, Threshold, shown_at_once
from dspy_toolkit.builtin.search import NO_LIMIT, Search, demos_must_fit, fresh, labelled, stripped
from dspy_toolkit.lm.context_window import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, calls_per_row, planned, preflight
from dspy_toolkit.optimize.planning.amount import NOTHING, Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known, Work, bootstrapped, distinct
from dspy_toolkit.programs.vote import Vote

__all__ = ["ensemble"]


def _forecast(
    job: OptimizerJob,
    known: Known,
    *,
    size: int,
    num_candidate_programs: int,
    max_bootstrapped_demos: int,
    max_labeled_demos: int,
    metric_threshold: float,
) -> Forecast:
    wanted, shown = shown_at_once(
        job, max_bootstrapped_demos=max_bootstrapped_demos, max_labeled_demos=max_labeled_demos
    )
    rows, validation, number = len(job.train), len(job.validation), num_candidate_programs
    tries, made = bootstrapped(rows, wanted, known.rate(metric_threshold, shown=shown > 0))
    once = distinct(rows, [tries.expected] * number)
    repeats = NOTHING if shown else Amount(0, tries.expected * number - once, max(0, tries.high * number - rows))
    filled = max(0.0, shown - made)
    bootstrapping = Work(
        what="bootstrapping",
        rollouts=tries * number,
        labelled=shown,
        repeats=repeats,
        in_turn=True,
        why=f"{number} sets of {wanted} accepted of {rows} rows",
    )
    candidates = Work(
        what="candidates",
        rollouts=Amount.of(number * validation),
        made=made,
        labelled=filled,
        why=f"{number} programs on {validation} validation rows each",
    )
    final = Final(made=made, labelled=filled, programs=min(size, number))
    return Forecast(work=(bootstrapping, candidates), final=final)


def _times(*, size: int, num_candidate_programs: int, **_: object) -> int:
    return min(size, num_candidate_programs)


@planned(_forecast)
@calls_per_row(_times)
@preflight(demos_must_fit)
def ensemble(
    job: OptimizerJob,
    *,
    size: Annotated[int, Field(ge=2)] = 3,
    num_candidate_programs: Positive = 5,
    max_bootstrapped_demos: Positive = 3,
    max_labeled_demos: Count = 3,
    metric_threshold: Threshold = 0.5,
) -> dspy.Module:
    """DSPy's Ensemble with majority vote: the `size` best of several bootstrapped programs answer, and vote.

    `num_candidate_programs` programs are made by BootstrapFewShot on differently shuffled training rows
    (`max_bootstrapped_demos`, `max_labeled_demos` and `metric_threshold` are those of `bootstrap`) and compared on
    validation rows. Every call costs `size` times the LM calls of the program.
    DSPy combines programs it is given and draws `size` of them anew, without a seed, in every call; here all are asked.
    """
    validation = list(job.validation)
    size = min(size, num_candidate_programs)
    search = Search(job, total=num_candidate_programs * len(validation), rows=len(validation))
    demos = limit_demos(
        job,
        max_bootstrapped_demos=max_bootstrapped_demos,
        max_labeled_demos=max_labeled_demos if labelled(job.program, job.train) else 0,
    )
    with search.following():
        programs = []
        for number in range(num_candidate_programs):
            rows = list(job.train)
            random.Random(f"{job.seed}/{number}").shuffle(rows)
            optimizer = dspy.BootstrapFewShot(
                metric=job.metric.with_threshold(metric_threshold), max_errors=NO_LIMIT, **demos
            )
            programs.append(stripped(optimizer.compile(fresh(job.program), trainset=rows)))
        evaluate = dspy.Evaluate(
            devset=validation, metric=search.metric, num_threads=job.num_threads, max_errors=NO_LIMIT
        )
        scores = [float(evaluate(program).score) for program in programs]
    best = sorted(range(len(programs)), key=lambda number: -scores[number])[:size]  # stable: the first of equals
    return Vote([programs[number] for number in best])
