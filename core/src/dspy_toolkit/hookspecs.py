"""The contract: everything a plugin can add, on one screen.

A plugin is a distribution with an entry point in the group `dspy_toolkit`. The entry point's name is the project's
name, and it leads to a module (by convention `hooks.py`) that implements some of the hooks below:

    [project.entry-points.dspy_toolkit]
    weather = "dspy_toolkit_weather.hooks"

Every hook takes nothing and returns an iterable of entries (`dspy_toolkit.types`). Hooks are called once per plugin
manager, when the first name of their kind is looked up; `dspy-toolkit plugins` lists which hooks a plugin has without
calling them. So `hooks.py` imports nothing heavy: entries hold dotted names. A hook that raises, or returns something
else, is recorded as that plugin's error and the other plugins go on. The same project from two distributions is an
error that names both; so is the same name twice in one project, or a provider name twice at all.
"""

from collections.abc import Iterable

import pluggy

from dspy_toolkit.types import (
    MetricEntry,
    MigrationEntry,
    OptimizerEntry,
    ProviderEntry,
    SignatureEntry,
    TaskEntry,
)

PROJECT = "dspy_toolkit"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def toolkit_signatures() -> Iterable[SignatureEntry]:  # type: ignore[return]
    """Add signatures. Called when a signature is looked up or listed. Returns the signatures of this project.

    Example:
        from dspy_toolkit import hookimpl
        from dspy_toolkit.types import SignatureEntry

        @hookimpl
        def toolkit_signatures():
            yield SignatureEntry(
                name="ForecastSignature",
                summary="Tomorrow's weather from today's readings.",
                signature="dspy_toolkit_weather.signatures:ForecastSignature",
            )
    """


@hookspec
def toolkit_tasks() -> Iterable[TaskEntry]:  # type: ignore[return]
    """Add tasks. Called when a task is looked up or listed. Returns the tasks of this project.

    Example:
        from dspy_toolkit import hookimpl
        from dspy_toolkit.types import TaskEntry

        @hookimpl
        def toolkit_tasks():
            yield TaskEntry(
                name="forecast",
                summary="Forecast tomorrow's weather.",
                program="dspy_toolkit_weather.tasks:forecaster",
                data="dspy_toolkit_weather.tasks:readings",
                metric="rain",
            )
    """


@hookspec
def toolkit_metrics() -> Iterable[MetricEntry]:  # type: ignore[return]
    """Add metrics. Called when a metric is looked up or listed. Returns the metrics of this project.

    Example:
        from dspy_toolkit import hookimpl
        from dspy_toolkit.types import MetricEntry

        @hookimpl
        def toolkit_metrics():
            yield MetricEntry(
                name="rain",
                summary="Was rain forecast on the days it rained?",
                metric="dspy_toolkit_weather.metrics:rain",
            )
    """


@hookspec
def toolkit_optimizers() -> Iterable[OptimizerEntry]:  # type: ignore[return]
    """Add optimizers. Called when an optimizer is looked up or listed. Returns the optimizers of this project.

    Example:
        from dspy_toolkit import hookimpl
        from dspy_toolkit.types import OptimizerEntry

        @hookimpl
        def toolkit_optimizers():
            yield OptimizerEntry(
                name="first-rows",
                summary="Takes the first rows of the training set as demonstrations.",
                optimizer="dspy_toolkit_weather.optimizers:FirstRows",
            )
    """


@hookspec
def toolkit_providers() -> Iterable[ProviderEntry]:  # type: ignore[return]
    """Add providers. Called when a model string is connected. Returns the providers of this project.

    Example:
        from dspy_toolkit import hookimpl
        from dspy_toolkit.types import ProviderEntry

        @hookimpl
        def toolkit_providers():
            yield ProviderEntry(
                name="barometer",
                summary="Models that run on a barometer.",
                connect="dspy_toolkit_weather.provider:connect",
            )
    """


@hookspec
def toolkit_migrations() -> Iterable[MigrationEntry]:  # type: ignore[return]
    """Add migrations of stored programs. Called when a bundle's fingerprint is not its task's. Returns the known steps.

    Example:
        from dspy_toolkit import hookimpl
        from dspy_toolkit.types import MigrationEntry

        @hookimpl
        def toolkit_migrations():
            yield MigrationEntry(
                name="forecast-humidity",
                summary="The field `damp` is now called `humidity`.",
                task="forecast",
                source="5f0c1d2e",
                target="9a7b3c4d",
                migrate="dspy_toolkit_weather.migrations:damp_to_humidity",
            )
    """
