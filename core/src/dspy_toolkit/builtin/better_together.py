"""DSPy's BetterTogether: optimizers one after the other, the best step wins."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import Field

from dspy_toolkit.builtin.bootstrap import Bootstrap
from dspy_toolkit.builtin.copro import Copro
from dspy_toolkit.builtin.gepa import Gepa
from dspy_toolkit.builtin.labeled import Labeled
from dspy_toolkit.builtin.mipro import Mipro
from dspy_toolkit.builtin.random_search import RandomSearch
from dspy_toolkit.builtin.search import Search
from dspy_toolkit.builtin.simba import Simba
from dspy_toolkit.compat.optimizers import Teleprompter
from dspy_toolkit.errors import UnknownNameError
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams, parse_params
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, TrainingScores, Work
from dspy_toolkit.optimize.teleprompter import stripped, uncompiled

__all__ = ["BetterTogether"]

_OPTIMIZERS: Mapping[str, Optimizer] = {
    "bootstrap": Bootstrap(),
    "copro": Copro(),
    "gepa": Gepa(),
    "labeled": Labeled(),
    "mipro": Mipro(),
    "random-search": RandomSearch(),
    "simba": Simba(),
}

_KEEPS_DEMOS = ("copro", "gepa", "mipro", "simba")
"""Those that run the program with the demonstrations it comes with; the others begin without."""

_INSTRUCTIONS_ONLY = ("copro", "gepa")


class BetterTogether(Optimizer):
    """DSPy's BetterTogether: several optimizers in turn, each starting from the last result.

    Every step is scored on validation rows and the best program wins, which may be the one it began with. DSPy needs an
    LM set on the program and goes on silently when a step fails; here a step's error ends the run.
    """

    class Params(OptimizerParams):
        strategy: str = Field(
            "random-search -> copro", description="Optimizers and arrows between them; a name may come twice."
        )
        parameters: dict[str, dict[str, Any]] = Field(
            {}, description='Their parameters by their names: `{"copro": {"depth": 3}}`.'
        )

        @property
        def names(self) -> list[str]:
            return [name.strip() for name in self.strategy.split("->")]

    def check(self, job: OptimizerJob, params: Params) -> None:
        for name, step_params in _step_params(params).items():
            _OPTIMIZERS[name].check(job, step_params)

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Params) -> Forecast:
        """Each step's own forecast, in turn, with what the one before it leaves in the prompts."""
        step_params = _step_params(params)
        work: list[Work] = []
        demos = 0.0
        for name in params.names:
            forecast = _OPTIMIZERS[name].forecast(job, scores, step_params[name])
            assert forecast is not None
            inherited = demos if name in _KEEPS_DEMOS else 0.0
            work += [
                dataclasses.replace(step, what=f"{name}: {step.what}", demos=step.demos + inherited)
                for step in forecast.work
            ]
            demos = demos if name in _INSTRUCTIONS_ONLY else forecast.final.demos
        rollouts = (len(params.names) + 1) * len(job.validation)
        results = Work(
            what="results",
            rollouts=Amount.of(rollouts),
            demos=demos / 2,
            repeats=Amount(0, rollouts / 2, rollouts),
            why=f"the program as it is and after each step on {len(job.validation)} validation rows",
        )
        return Forecast(work=(*work, results), final=Final(demos=demos))

    def compile(self, job: OptimizerJob, params: Params) -> dspy.Module:
        validation = list(job.validation)
        search = Search(job, total=None, rows=len(validation))
        steps = {name: _Step(job, search, name, step_params) for name, step_params in _step_params(params).items()}
        student = uncompiled(job.program)
        student.set_lm(job.lm)
        keys = {name: f"step{number}" for number, name in enumerate(steps)}
        with search.following():
            optimizer = dspy.BetterTogether(metric=search.metric, **{keys[name]: step for name, step in steps.items()})
            program = optimizer.compile(
                student,
                trainset=list(job.train),
                valset=validation,
                num_threads=job.num_threads,
                seed=job.seed,
                strategy=" -> ".join(keys[name] for name in params.names),
            )
        for step in steps.values():
            if step.error is not None:
                raise step.error
        return stripped(program)


def _step_params(params: BetterTogether.Params) -> dict[str, Any]:
    """The parameters of a strategy's optimizers, by name, in order of first use."""
    for name in [*params.names, *params.parameters]:
        if name not in _OPTIMIZERS:
            raise UnknownNameError("optimizer for better-together", name, _OPTIMIZERS)
    return {
        name: parse_params(_OPTIMIZERS[name], params.parameters.get(name, {}), name=name)
        for name in dict.fromkeys(params.names)
    }


class _Step(Teleprompter):
    """One of our optimizers as one of DSPy's."""

    def __init__(self, job: OptimizerJob, search: Search, name: str, params: Any):
        super().__init__()
        self._job = job
        self._search = search
        self._name = name
        self._params = params
        self.error: Exception | None = None

    def compile(
        self, student: dspy.Module, *, trainset: list[Any], teacher: Any = None, valset: Any = None, **_: Any
    ) -> dspy.Module:
        job = dataclasses.replace(
            self._job,
            program=stripped(student.deepcopy()),
            train=tuple(trainset),
            on_keep=lambda program, score, message: None,  # a step's best is not the run's, which goes by its score
            on_report=lambda rollouts, total, score, message: self._search.inner(rollouts, self._name),
        )
        try:
            program = _OPTIMIZERS[self._name].compile(job, self._params)
        except Exception as error:
            self.error = error  # BetterTogether logs it, returns the best so far and looks finished
            raise
        self._search.inner_ended()
        program.set_lm(self._job.lm)
        return program
