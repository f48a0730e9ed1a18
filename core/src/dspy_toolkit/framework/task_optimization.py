"""An optimization of what a name stands for, whose result is stored under that name."""

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dspy_toolkit.data.dataset import read_dataset
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.framework.module_optimization import ModuleOptimization
from dspy_toolkit.framework.request import OptimizationRequest
from dspy_toolkit.framework.resume import asked_again, going_on
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.spec import Saved
from dspy_toolkit.programs.inspect import input_fields
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.types import TaskData

if TYPE_CHECKING:
    from dspy_toolkit.framework.framework import DSPyFramework
    from dspy_toolkit.programs.target import Target
    from dspy_toolkit.store.store import Version

__all__ = ["TaskOptimization"]


class TaskOptimization:
    """A name, with the rows, metrics and options it is optimized with: those of `request`, over the project's settings,
    over the task's own; with `resume`, those the run was begun with.

    Raises UnknownNameError, OptimizationError for a run that cannot be gone on with, and as `ModuleOptimization.of`.
    """

    def __init__(
        self, framework: "DSPyFramework", name: str, request: OptimizationRequest, *, resume: str | bool = False
    ):
        self._framework = framework
        self._name = name
        self._target = target = framework.target(name, plain=True)
        run = None if resume is False else framework.runs.find(target.name, None if resume is True else resume)
        self._resume = run.id if run else False
        if run is None:
            request = request.for_target(target, framework.config)
        else:
            request = asked_again(run, framework.plugins, request)
        self._asked = {"name": name, **request.named()}
        rows, self._example_inputs = _rows(target, request.dataset)
        metrics = target.metrics(framework.plugins, request.metrics)
        request = replace(request, dataset=rows, metrics=metrics)
        self._optimization = ModuleOptimization.of(framework, target.module, request, task=target.name)
        self._stored: list[Version] = []

    def plan(self, *, measure: bool) -> Plan:
        return self._optimization.plan(measure=measure)

    def run(
        self, *, on_event: EventSink | None, stop: threading.Event | None, planned: Plan | None
    ) -> "tuple[OptimizationResult, Version]":
        """Recorded and stored; see `DSPyFramework.optimize_task`."""
        try:
            result = self._optimization.run(
                on_event=on_event,
                stop=stop,
                resume=self._resume,
                save=self._save,
                asked=self._asked,
                planned=planned,
            )
        except OptimizationError as error:
            told = going_on(self._name, error, [version.name for version in self._stored], self._target.name)
            raise told from (None if told is error else error)
        return result, self._stored[-1]

    def _save(self, result: OptimizationResult) -> Saved:
        version = self._framework.store.save(
            result, example_inputs=self._example_inputs, adapter=self._framework.adapter()
        )
        self._stored.append(version)
        return f"{version.task}@{version.name}", str(version.bundle.path)


def _rows(target: "Target", given: Any) -> tuple[Any, Mapping[str, Any]]:
    """The rows that are given, or the task's; and the inputs that show what the program is about."""
    if given is None:
        rows = target.data()
        return rows, target.task.example_inputs() if target.task else {}
    program = target.plain()
    if isinstance(given, str | os.PathLike):
        given = read_dataset(given, program)
    first = dict((given.test if isinstance(given, TaskData) else given)[0].items())
    return given, {name: first[name] for name in input_fields(program) if name in first}
