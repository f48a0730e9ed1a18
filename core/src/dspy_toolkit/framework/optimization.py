"""Optimizing a module, or what a name stands for: from the options of a call to a recorded, stored run.

options ──▶ settings where they say nothing ──▶ rows, metric, LM and optimizer ──▶ RunSpec ──▶ a plan, or a run
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import dspy

from dspy_toolkit.data.dataset import read_dataset
from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.framework.options import RunOptions
from dspy_toolkit.framework.resources import Resources
from dspy_toolkit.framework.resume import resume_error, resumed_options
from dspy_toolkit.framework.targets import find_target
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.optimize.budget import calls_for_search
from dspy_toolkit.optimize.optimization import optimize
from dspy_toolkit.optimize.optimizer import named_optimizer, parse_params
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.planning.planner import plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.selection import OptimizerType, Situation, choose
from dspy_toolkit.optimize.spec import RunControls, RunSpec, Saved
from dspy_toolkit.programs.inspect import input_fields
from dspy_toolkit.programs.own_lms import model_names, without_own_lms
from dspy_toolkit.programs.target import Target
from dspy_toolkit.runs.identity import differences
from dspy_toolkit.runs.runs import identity_key
from dspy_toolkit.store.store import Version
from dspy_toolkit.types import TaskData

__all__ = ["PreparedRun", "StoredResult"]


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run before it begins: every name is resolved, and `auto` has chosen.

    `options` are complete. `named` is what else would request the run again, for its record. `stored` saves the result
    under a name, where there is one.

    Preparing one raises DataError, MetricError, ModelError, OptimizationError, SettingsError, UnknownNameError; a
    mistake in a name or a row is reported before a model is loaded.
    """

    resources: Resources
    spec: RunSpec
    options: RunOptions
    named: Mapping[str, Any] = field(default_factory=dict)
    stored: "StoredResult | None" = None

    @classmethod
    def of_module(cls, resources: Resources, module: dspy.Module | str, options: RunOptions, *, task: str) -> Self:
        """`module` may be a name in the registered modules; `task` names the run."""
        if isinstance(module, str):
            options = options.for_module(resources.modules.config(module))
            module = resources.modules.get(module)
        return cls._of(resources, *_with_model(module, options), task)

    @classmethod
    def of_name(cls, resources: Resources, name: str, options: RunOptions) -> Self:
        """What a name stands for, with the options of a call, over its project's settings, over the task's own; with
        `options.resume`, those the run was begun with.
        """
        target = find_target(resources, name, plain=True)
        if options.resume is False:
            module, options = _with_model(target.module, options)
            options = options.for_target(target, resources.config)
        else:
            run = resources.runs.find(target.name, None if options.resume is True else options.resume)
            options = resumed_options(run, resources.plugins, options)
            module = target.module if "predictor_models" in run.identity else without_own_lms(target.module)
        named = {"name": name, **options.named_data()}
        rows, example_inputs = _rows(target, options.dataset)
        stored = StoredResult(resources, example_inputs)
        options = replace(
            options, dataset=rows, metrics=target.metrics(resources.plugins, options.metrics), save=stored.save
        )
        return replace(cls._of(resources, module, options, target.name), named=named, stored=stored)

    @classmethod
    def _of(cls, resources: Resources, module: dspy.Module, options: RunOptions, task: str) -> Self:
        options = options.for_config(resources.config)
        rows: Any = options.dataset
        if isinstance(rows, str | os.PathLike):
            rows = read_dataset(rows, module)
        chosen, parameters, reason = options.optimizer, options.parameters, ""
        auto = isinstance(chosen, str) and chosen.lower() == OptimizerType.AUTO
        if not auto:
            name, optimizer = named_optimizer(resources.plugins, chosen)
            parse_params(optimizer, parameters, name=name)
        data = prepare(rows, module, rows=options.rows, seed=options.seed or 0)
        metric, lm = resources.metric(options.metrics or ()), resources.lm(options.model)
        if auto:
            most = calls_for_search(options.limits, module, data)
            choice = choose(Situation.of(module, data, metric, lm, task_type=task, max_calls=most))
            chosen, parameters, reason = choice.optimizer, {**choice.parameters, **parameters}, choice.reason
        name, optimizer = named_optimizer(resources.plugins, chosen)
        spec = RunSpec(
            program=module,
            data=data,
            metric=metric,
            optimizer=optimizer,
            optimizer_name=name,
            params=parameters,
            lm=lm,
            adapter=resources.adapter(),
            seed=options.seed or 0,
            task=task,
            reason=reason,
        )
        return cls(resources=resources, spec=spec, options=options)

    def plan(self, *, measure: bool) -> Plan:
        """See `dspy_toolkit.optimize.planning.planner`."""
        return plan(self.spec, self._controls(), measure=measure)

    def run(self) -> OptimizationResult:
        """Optimize, recorded. Raises what `optimize` raises, with the command that resumes the run of a name."""
        options = self.options
        run = self._unfinished() if options.resume is True else options.resume or None
        try:
            with self.resources.recorded(options.on_event, run) as journal:
                return optimize(self.spec, replace(self._controls(), journal=journal))
        except OptimizationError as error:
            if self.stored is None:
                raise
            explained = resume_error(self.named["name"], error, self.stored.newest)
            raise explained from (None if explained is error else error)

    def _controls(self) -> RunControls:
        options = self.options
        return RunControls(
            num_threads=options.num_threads or 1,
            limits=options.limits or Limits(),
            max_errors=options.max_errors,
            on_event=options.on_event,
            stop=options.stop or threading.Event(),
            save=options.save,
            connect=self.resources.lm,
            options={**options.to_record(), **self.named},
            notes=options.notes,
            plan=options.planned,
        )

    def _unfinished(self) -> str:
        """The newest unfinished run of the same spec."""
        identity = self.spec.identity()
        run = self.resources.runs.unfinished(identity_key(identity))
        if run is not None:
            return run.id
        newest = self.resources.runs.find(self.spec.task)
        raise OptimizationError(
            f"No unfinished run has the same settings. The newest, {newest.id}, has others: "
            f"{'; '.join(differences(newest.identity, identity))}."
        )


class StoredResult:
    """Saves a run's result as the next version of its task."""

    def __init__(self, resources: Resources, example_inputs: Mapping[str, Any]):
        self._resources = resources
        self._example_inputs = example_inputs
        self.version: Version | None = None

    def save(self, result: OptimizationResult) -> Saved:
        self.version = self._resources.store.save(
            result, example_inputs=self._example_inputs, adapter=self._resources.adapter()
        )
        return self.newest, str(self.version.bundle.path)

    @property
    def newest(self) -> str:
        """`task@v3`, or empty while nothing is stored."""
        return "" if self.version is None else f"{self.version.task}@{self.version.name}"


def _with_model(module: dspy.Module, options: RunOptions) -> tuple[dspy.Module, RunOptions]:
    """The model of the call wins over the LMs that predictors bring; a note says so."""
    models = model_names(module)
    if options.model is None or not models:
        return module, options
    replaced = ", ".join(f"{name} ({model})" for name, model in models.items())
    note = f"`model` replaces the LMs of the program's predictors: {replaced}. Leave it out to keep them."
    return without_own_lms(module), replace(options, notes=(*options.notes, note))


def _rows(target: Target, dataset: Any) -> tuple[Any, Mapping[str, Any]]:
    """The rows of the call, or the task's; and the inputs that show what the program is about."""
    if dataset is None:
        rows = target.data()
        return rows, target.task.example_inputs() if target.task else {}
    program = target.plain()
    if isinstance(dataset, str | os.PathLike):
        dataset = read_dataset(dataset, program)
    first = dict((dataset.test if isinstance(dataset, TaskData) else dataset)[0].items())
    return dataset, {name: first[name] for name in input_fields(program) if name in first}
