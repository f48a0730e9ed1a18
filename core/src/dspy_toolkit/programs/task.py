"""A task, ready to use: the program factory, data, metric and defaults that a TaskEntry refers to."""

import re
from collections.abc import Mapping
from typing import Any

import dspy

from dspy_toolkit.errors import PluginError
from dspy_toolkit.metrics import Metric
from dspy_toolkit.plugins import Found, PluginManager
from dspy_toolkit.types import MetricEntry, TaskData, TaskEntry, resolve

__all__ = ["Task"]

_FILE_NAME = re.compile(r"\w[\w.-]*")


class Task:
    """What the command line and the server address as `project/name`. References are resolved when first needed."""

    def __init__(self, registered: Found[TaskEntry], plugins: PluginManager):
        self.registered = registered
        self.entry = registered.entry
        self.name = registered.qualified_name
        self.project = registered.project
        self._plugins = plugins
        self._data: TaskData | None = None

    def program(self) -> dspy.Module:
        """A fresh program, not optimized."""
        module = resolve(self.entry.program)()
        if not isinstance(module, dspy.Module) or not module.predictors():
            raise PluginError(
                f"The program of task {self.name} ({self.registered.distribution}) is {module!r}; "
                "expected a dspy.Module with at least one predictor."
            )
        return module

    def data(self) -> TaskData:
        """The task's rows; made once."""
        if self._data is None:
            data = resolve(self.entry.data)()
            if not isinstance(data, TaskData):
                raise PluginError(f"The data of task {self.name} is {type(data).__name__}; expected TaskData.")
            self._data = data
        return self._data

    @property
    def metric_name(self) -> str:
        """The qualified name of the task's metric."""
        return self._plugins.get(MetricEntry, self.entry.metric, project=self.project).qualified_name

    def metric(self) -> Metric:
        found = self._plugins.get(MetricEntry, self.entry.metric, project=self.project)
        return Metric(resolve(found.entry.metric), name=found.qualified_name)

    def example_inputs(self) -> Mapping[str, Any]:
        """Input values that show what the task is about."""
        from dspy_toolkit.programs.inspect import input_fields

        if self.entry.example_inputs is not None:
            return self.entry.example_inputs
        row = self.data().test[0]
        return {name: row[name] for name in input_fields(self.program())}

    def files(self, inputs: Mapping[str, Any], prediction: dspy.Prediction) -> Mapping[str, str]:
        """The files made from a prediction, from name to text; empty if the task makes none.

        Raises PluginError for a name that is more than a file's name: it could lead out of the folder it is written to.
        """
        if self.entry.files is None:
            return {}
        files: Mapping[str, str] = resolve(self.entry.files)(inputs, prediction)
        for name in files:
            if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
                raise PluginError(
                    f"The task {self.name} makes a file called {name!r}; expected a name of letters, digits, '_', '-' "
                    "and '.', without a folder and without a dot in front."
                )
        return files
