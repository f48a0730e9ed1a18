"""DSPy's SIMBA."""

import threading
from collections import defaultdict
from typing import Any

import dspy
from pydantic import Field

from dspy_toolkit.builtin.demos import number_that_fits
from dspy_toolkit.builtin.search import PromptModel, Search, second_lm
from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.errors import MetricError
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work
from dspy_toolkit.optimize.teleprompter import stripped, uncompiled

__all__ = ["Simba"]


class Simba(Optimizer):
    """DSPy's SIMBA: tries each row several times; where results differ, adds the good one as a demonstration or a rule.

    DSPy chooses among the steps' winners on the training rows; here validation rows decide.
    """

    class Params(OptimizerParams):
        max_steps: int = Field(4, ge=1, description="Steps, each of which tries and then builds programs.")
        bsize: int = Field(16, ge=1, description="Training rows a step, at most as many as there are.")
        num_candidates: int = Field(4, ge=2, description="Attempts at each row of a step, and new programs a step.")
        max_demos: int = Field(4, ge=0, description="Demonstrations a program holds, at most.")
        temperature_for_sampling: float = Field(
            0.2, gt=0, le=2, description="Which program is tried is drawn by score at this temperature."
        )
        temperature_for_candidates: float = Field(
            0.2, gt=0, le=2, description="Which program is built on is drawn by score at this temperature."
        )
        prompt_model: PromptModel = None

    def check(self, job: OptimizerJob, params: Params) -> None:
        second_lm(job, params.prompt_model)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        steps, number = params.max_steps, params.num_candidates
        train, validation = len(job.train), len(job.validation)
        size = min(params.bsize, train)
        attempts = steps * size * number
        new = min(number + 1, size)
        tried = steps * size * new
        winners = len({round(index * steps / number) for index in range(number + 1)})
        # A rule is written where attempts at a row differ; otherwise the program stays as it is.
        differ = scores.rate(0.5).mean_of(lambda p: 1 - p**number - (1 - p) ** number)
        rules = steps * new * (0.5 if params.max_demos else 1.0) * differ
        later = max(0, attempts - train * number)
        demos = min(number_that_fits(job, max_demos=params.max_demos), steps / 4)
        work = (
            Work(
                what="attempts",
                rollouts=Amount.of(attempts),
                demos=demos,
                repeats=Amount(0, 0.3 * later, later),
                why=f"{steps} steps, each with {number} attempts at {size} rows",
            ),
            Work(
                what="candidates",
                rollouts=Amount(0, tried, tried),
                demos=demos,
                repeats=Amount(0, tried * 0.5 * (1 - differ), tried - size),
                why=f"{new} new programs a step on the same rows",
            ),
            Work(
                what="winners",
                rollouts=Amount.of(winners * (train + validation)),
                demos=demos,
                # Some steps' best is the program they began with, and rows of a step were run in it.
                repeats=Amount(
                    0, (winners - 1) * (size + (train + validation) / 2), (winners - 1) * (train + validation) + train
                ),
                why=f"{winners} programs on {train} training and {validation} validation rows",
            ),
            Work(
                what="rules",
                calls=Amount(0, rules, 2 * steps * size),
                model=params.prompt_model,
                rows=2,
                why="where attempts at a row differ, a rule instead of a demonstration every other time",
            ),
        )
        return Forecast(work=work, final=Final(demos=demos))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        train = list(job.train)
        size = min(params.bsize, len(train))
        trials = params.max_steps * size * (2 * params.num_candidates + 1)
        final = (params.num_candidates + 1) * (len(train) + len(job.validation))
        search = Search(job, total=trials + final, rows=len(job.validation))
        winners = _Winners(search, rows=size)
        with search.following(), dspy.context(callbacks=[*dspy.settings.callbacks, winners]):
            optimizer = dspy.SIMBA(
                metric=winners.metric,
                bsize=size,
                num_candidates=params.num_candidates,
                max_steps=params.max_steps,
                prompt_model=second_lm(job, params.prompt_model),
                num_threads=job.num_threads,
                temperature_for_sampling=params.temperature_for_sampling,
                temperature_for_candidates=params.temperature_for_candidates,
                max_demos=number_that_fits(job, max_demos=params.max_demos),
            )
            compiled: Any = optimizer.compile(uncompiled(job.program), trainset=train, seed=job.seed)
            candidates = [candidate["program"] for candidate in compiled.candidate_programs]
        with search.following():
            search.best = None  # from here on validation rows decide what is kept
            scores = [float(search.evaluate(candidate).score) for candidate in candidates]
        return stripped(candidates[scores.index(max(scores))].deepcopy())  # the first of equals


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
