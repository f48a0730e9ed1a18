"""The table of contents of the project `weather`. Imports nothing heavy: entries hold dotted names."""

from dspy_toolkit import hookimpl
from dspy_toolkit.types import MetricEntry, SignatureEntry, TaskEntry


@hookimpl
def toolkit_signatures():
    yield SignatureEntry(
        name="ForecastSignature",
        summary="Rain or not tomorrow, from today's readings.",
        signature="dspy_toolkit_weather.forecast:ForecastSignature",
    )


@hookimpl
def toolkit_metrics():
    yield MetricEntry(
        name="rain",
        summary="Was rain forecast on the days it rained, and only then?",
        metric="dspy_toolkit_weather.forecast:rain",
    )


@hookimpl
def toolkit_tasks():
    yield TaskEntry(
        name="forecast",
        summary="Forecast tomorrow's rain.",
        program="dspy_toolkit_weather.forecast:forecaster",
        data="dspy_toolkit_weather.forecast:readings",
        metric="rain",
        optimizer_params={"max_bootstrapped_demos": 2, "max_labeled_demos": 2},
    )
