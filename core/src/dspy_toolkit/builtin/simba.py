"""DSPy's SIMBA."""

import threading
from collections import defaultdict
from typing import Annotated, Any

import dspy
from dspy.teleprompt.simba import SIMBA
from dspy.teleprompt.simba_utils import OfferFeedback
from dspy.utils.callback import BaseCallback
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Count, Positive
from dspy_toolkit.builtin.search import NO_LIMIT, Search, fresh, most_written, second_lm, stripped
from dspy_toolkit.errors import MetricError
from dspy_toolkit.lm.context_window import limit_demos
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known, Work

__all__ = ["simba"]

Temperature = Annotated[float, Field(gt=0, le=2)]


def _check(job: OptimizerJob, *, prompt_model: str | None, **_: object) -> None:
    second_lm(job, prompt_model)


def _forecast(
    job: OptimizerJob,
    known: Known,
    *,
    max_steps: int,
    bsize: int,
    num_candidates: int,
    max_demos: int,
    prompt_model: str | None,
    **_: object,
) -> Forecast:
    train, validation = len(job.train), len(job.validation)
    size = min(bsize, train)
    attempts = max_steps * size * num_candidates
    tried = max_steps * size * min(num_candidates + 1, size)
    winners = len({round(number * max_steps / num_candidates) for number in range(num_candidates + 1)})
    # A rule is written where attempts at a row differ; otherwise the program stays as it is.
    rate = known.rate(0.5)
    differ = sum(weight * (1 - p**num_candidates - (1 - p) ** num_candidates) for p, weight in rate.likely())
    rules = max_steps * min(num_candidates + 1, size) * (0.5 if max_demos else 1.0) * differ
    later = max(0, attempts - train * num_candidates)
    demos = min(limit_demos(job, max_demos=max_demos)["max_demos"], max_steps / 4)
    return Forecast(
        work=(
            Work(
                what="attempts",
                rollouts=Amount.of(attempts),
                made=demos,
                repeats=Amount(0, 0.3 * later, later),
                why=f"{max_steps} steps, each with {num_candidates} attempts at {size} rows",
            ),
            Work(
                what="candidates",
                instructed=True,
                rollouts=Amount(0, tried, tried),
                made=demos,
                repeats=Amount(0, tried * 0.5 * (1 - differ), tried - size),
                why=f"{min(num_candidates + 1, size)} new programs a step on the same rows",
            ),
            Work(
                what="winners",
                rollouts=Amount.of(winners * (train + validation)),
                made=demos,
                # Some steps' best is the program they began with, and rows of a step were asked in it.
                repeats=Amount(
                    0, (winners - 1) * (size + (train + validation) / 2), (winners - 1) * (train + validation) + train
                ),
                why=f"{winners} programs on {train} training and {validation} validation rows",
            ),
            Work(
                what="rules",
                calls=Amount(0, rules, 2 * max_steps * size),
                model=prompt_model,
                most_written=most_written(job, prompt_model),
                prompt=(OfferFeedback, {"module_names": []}),
                why="where attempts at a row differ, a rule instead of a demonstration every other time",
            ),
        ),
        final=Final(made=demos),
    )


@planned(_forecast)
@preflight(_check)
def simba(
    job: OptimizerJob,
    *,
    max_steps: Positive = 4,
    bsize: Positive = 16,
    num_candidates: Annotated[int, Field(ge=2)] = 4,
    max_demos: Count = 4,
    temperature_for_sampling: Temperature = 0.2,
    temperature_for_candidates: Temperature = 0.2,
    prompt_model: str | None = None,
) -> dspy.Module:
    """DSPy's SIMBA: tries each row several times; where results differ, adds the good one as a demonstration or a rule.

    `max_steps` steps, each on `bsize` training rows (bounded by how many there are) with `num_candidates` attempts at
    each row and as many new programs; programs hold up to `max_demos` demonstrations. Which program is tried and which
    is built on is drawn by score with `temperature_for_sampling` and `temperature_for_candidates`. Rules are written by
    `prompt_model`, a model string (null: the program's own). DSPy chooses among the steps' winners on the training
    rows; here validation rows decide.
    """
    train, validation = list(job.train), list(job.validation)
    size = min(bsize, len(train))
    final = (num_candidates + 1) * (len(train) + len(validation))
    search = Search(job, total=max_steps * size * (2 * num_candidates + 1) + final, rows=len(validation))
    winners = _Winners(search, rows=size)
    with search.following(), dspy.context(callbacks=[*dspy.settings.callbacks, winners]):
        optimizer = SIMBA(
            metric=winners.metric,
            bsize=size,
            num_candidates=num_candidates,
            max_steps=max_steps,
            prompt_model=second_lm(job, prompt_model),
            num_threads=job.num_threads,
            temperature_for_sampling=temperature_for_sampling,
            temperature_for_candidates=temperature_for_candidates,
            **limit_demos(job, max_demos=max_demos),
        )
        found: Any = optimizer.compile(fresh(job.program), trainset=train, seed=job.seed)
        candidates = [each["program"] for each in found.candidate_programs]
    return _best(job, candidates, search)


def _best(job: OptimizerJob, candidates: list[dspy.Module], search: Search) -> dspy.Module:
    """The program with the best score on validation rows, the first of equals."""
    with search.following():
        evaluate = dspy.Evaluate(
            devset=list(job.validation), metric=search.metric, num_threads=job.num_threads, max_errors=NO_LIMIT
        )
        search.best = None  # from here on validation rows decide what is kept
        scores = [float(evaluate(program).score) for program in candidates]
    return stripped(candidates[scores.index(max(scores))].deepcopy())


class _Winners(BaseCallback):
    """Finds the best program while SIMBA runs, which tells nobody: by whose rollout it is when the metric is called.

    SIMBA calls a program and then the metric in one thread. Attempts are made with copies that have an LM of their own;
    new programs, which have none, are scored on `rows` rows each.
    """

    def __init__(self, search: Search, *, rows: int):
        self._search = search
        self._rows = rows
        self._running = threading.local()
        self._lock = threading.Lock()
        self._scores: dict[int, list[float]] = defaultdict(list)
        self._programs: dict[int, dspy.Module] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if "simba_idx" in instance.__dict__:
            self._running.program = instance

    def metric(self, gold: Any, pred: Any) -> Any:
        """SIMBA calls the metric even when the program failed, with None."""
        if pred is None:
            self._scored(0.0)
            return dspy.Prediction(score=0.0, feedback="the program failed on this row")
        try:
            score = self._search.metric(gold, pred)
        except MetricError:
            self._scored(0.0)
            raise
        self._scored(float(score.score))
        return score

    def _scored(self, score: float) -> None:
        program = getattr(self._running, "program", None)
        if program is None or any(predictor.lm is not None for predictor in program.predictors()):
            return
        with self._lock:
            scores = self._scores[id(program)]
            scores.append(score)
            self._programs[id(program)] = program  # or another program could get its id
            complete = len(scores) == self._rows
        if complete:
            self._search.candidate(program, 100 * sum(scores) / len(scores), what="score on a minibatch")
