"""DSPy's BetterTogether: optimizers one after the other, the best step wins."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import dspy
from dspy.teleprompt.teleprompt import Teleprompter

from dspy_toolkit.builtin.bootstrap import bootstrap
from dspy_toolkit.builtin.copro import copro
from dspy_toolkit.builtin.gepa import gepa
from dspy_toolkit.builtin.labeled import labeled
from dspy_toolkit.builtin.mipro import mipro
from dspy_toolkit.builtin.random_search import random_search
from dspy_toolkit.builtin.search import Search, fresh, stripped
from dspy_toolkit.builtin.simba import simba
from dspy_toolkit.errors import UnknownNameError
from dspy_toolkit.optimize.job import OptimizerJob, planned, preflight
from dspy_toolkit.optimize.optimizer import as_optimizer, parameter_values, parse_params
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.forecast import Final, Forecast, Known, Work

__all__ = ["better_together"]

_STEPS: Mapping[str, Callable[..., dspy.Module]] = {
    "bootstrap": bootstrap,
    "copro": copro,
    "gepa": gepa,
    "labeled": labeled,
    "mipro": mipro,
    "random-search": random_search,
    "simba": simba,
}


def _steps(strategy: str, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The optimizers of a strategy, in order of first use, with their checked parameters."""
    names = [name.strip() for name in strategy.split("->")]
    for name in [*names, *parameters]:
        if name not in _STEPS:
            raise UnknownNameError("optimizer for better-together", name, _STEPS)
    return {
        name: parameter_values(parse_params(as_optimizer(_STEPS[name]), parameters.get(name, {}), name=name))
        for name in dict.fromkeys(names)
    }


def _check(job: OptimizerJob, *, strategy: str, parameters: Mapping[str, Mapping[str, Any]]) -> None:
    for name, given in _steps(strategy, parameters).items():
        check = getattr(_STEPS[name], "preflight", None)
        if check is not None:
            check(job, **given)


_KEEPING = ("copro", "gepa", "mipro", "simba")
"""Those that ask the program with the demonstrations it comes with; the others begin without."""


def _forecast(
    job: OptimizerJob, known: Known, *, strategy: str, parameters: Mapping[str, Mapping[str, Any]]
) -> Forecast:
    """Each step's own forecast, in turn, with what the one before it leaves in the prompts."""
    steps = _steps(strategy, parameters)
    work: list[Work] = []
    final = Final()
    for name in [each.strip() for each in strategy.split("->")]:
        forecast: Forecast = getattr(_STEPS[name], "forecast")(job, known, **steps[name])  # noqa: B009
        begins = final if name in _KEEPING else Final()
        work += [
            dataclasses.replace(
                each,
                what=f"{name}: {each.what}",
                made=each.made + begins.made,
                labelled=each.labelled + begins.labelled,
            )
            for each in forecast.work
        ]
        final = forecast.final if name not in ("copro", "gepa") else final
    count = len(strategy.split("->")) + 1
    work.append(
        Work(
            what="results",
            rollouts=Amount.of(count * len(job.validation)),
            made=final.made / 2,
            labelled=final.labelled / 2,
            repeats=Amount(0, count * len(job.validation) / 2, count * len(job.validation)),
            why=f"the program as it is and after each step on {len(job.validation)} validation rows",
        )
    )
    return Forecast(work=tuple(work), final=final)


@planned(_forecast)
@preflight(_check)
def better_together(
    job: OptimizerJob,
    *,
    strategy: str = "random-search -> copro",
    parameters: dict[str, dict[str, Any]] = {},  # noqa: B006  # shown as the default, never changed
) -> dspy.Module:
    """DSPy's BetterTogether: the optimizers named in `strategy` in turn, each starting from the last result.

    `strategy` holds names and arrows, `"random-search -> copro"`; a name may come twice. `parameters` are theirs, by
    name: `{"copro": {"depth": 3}}`. Every step is scored on validation rows and the best program wins, which may be the
    one it began with. DSPy needs an LM set on the program and goes on silently when a step fails; here a step's error
    ends the run.
    """
    validation = list(job.validation)
    search = Search(job, total=None, rows=len(validation))
    steps = {name: _Step(job, search, name, given) for name, given in _steps(strategy, parameters).items()}
    student = fresh(job.program)
    student.set_lm(job.lm)
    names = " -> ".join(name.strip() for name in strategy.split("->"))
    keys = {name: f"step{number}" for number, name in enumerate(steps)}
    with search.following():
        optimizer = dspy.BetterTogether(metric=search.metric, **{keys[name]: step for name, step in steps.items()})
        found = optimizer.compile(
            student,
            trainset=list(job.train),
            valset=validation,
            num_threads=job.num_threads,
            seed=job.seed,
            strategy=" -> ".join(keys[name] for name in names.split(" -> ")),
        )
    for step in steps.values():
        if step.failed is not None:
            raise step.failed
    return stripped(found)


class _Step(Teleprompter):
    """One of our optimizers as one of DSPy's."""

    def __init__(self, job: OptimizerJob, search: Search, name: str, parameters: dict[str, Any]):
        super().__init__()
        self._job = job
        self._search = search
        self._name = name
        self._parameters = parameters
        self.failed: Exception | None = None

    def compile(
        self, student: dspy.Module, *, trainset: list[Any], teacher: Any = None, valset: Any = None, **_: Any
    ) -> dspy.Module:
        job = dataclasses.replace(
            self._job,
            program=stripped(student.deepcopy()),
            train=tuple(trainset),
            on_keep=lambda program, score, message: None,  # a step's best is not the run's; that is told by its score
            on_report=lambda done, total, score, message: self._search.inner(done, self._name),
        )
        try:
            found = _STEPS[self._name](job, **self._parameters)
        except Exception as error:
            self.failed = error  # BetterTogether logs it, returns the best so far and looks finished
            raise
        self._search.inner_ended()
        found.set_lm(self._job.lm)
        return found
