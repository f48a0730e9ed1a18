"""Metrics as people give them: by name, as a function, as code, or several of these."""

from collections.abc import Callable, Sequence
from typing import Any

from dspy_toolkit.errors import MetricError, PluginError, UnknownNameError
from dspy_toolkit.metrics.combine import mean
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.types import MetricEntry, resolve

__all__ = ["AnyMetrics", "find_metric", "find_metrics"]

_AnyMetric = str | Metric | Callable[..., Any]
AnyMetrics = _AnyMetric | Sequence[_AnyMetric]


def find_metric(plugins: PluginManager, metrics: AnyMetrics, *, project: str | None = None) -> Metric:
    """One Metric: that of a name, or the mean of several.

    A name is a plugin's (`core/exact-match`, `exact_match`; `project` is asked first), or that of code:
    `my_package.metrics:strict`. Raises UnknownNameError, closest first, and MetricError for code that cannot be used.
    """
    return mean(find_metrics(plugins, metrics, project=project))


def find_metrics(plugins: PluginManager, metrics: AnyMetrics, *, project: str | None = None) -> list[Metric]:
    """Each as a Metric; see `find_metric`."""
    several = [metrics] if isinstance(metrics, str | Metric) or callable(metrics) else metrics
    return [_as_metric(plugins, one, project) for one in several]


def _as_metric(plugins: PluginManager, metric: _AnyMetric, project: str | None) -> Metric:
    if isinstance(metric, str):
        return _named(plugins, metric, project)
    return metric if isinstance(metric, Metric) else Metric(metric)


def _named(plugins: PluginManager, name: str, project: str | None) -> Metric:
    if ":" in name:
        try:
            code = resolve(name)
        except PluginError as error:
            raise MetricError(
                f"The metric {name!r} cannot be imported: {error.__cause__}. Expected package.module:attribute."
            ) from error
        return Metric(code() if isinstance(code, type) else code, name=name)
    try:
        entry = plugins.get(MetricEntry, name, project=project)
    except UnknownNameError:
        # Python's spelling of a name, as people know it from functions.
        spelled = name.replace("_", "-")
        if spelled == name:
            raise
        entry = plugins.get(MetricEntry, spelled, project=project)
    return Metric(resolve(entry.entry.metric), name=entry.qualified_name)
