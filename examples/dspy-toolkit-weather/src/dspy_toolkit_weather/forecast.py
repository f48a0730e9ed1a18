"""The signature, program, data and metric of `weather/forecast`."""

import random
from typing import Literal

import dspy

from dspy_toolkit.types import TaskData


class ForecastSignature(dspy.Signature):
    """Say whether it will rain tomorrow."""

    pressure: int = dspy.InputField(desc="air pressure in hPa")
    falling: bool = dspy.InputField(desc="whether the pressure fell over the last three hours")
    forecast: Literal["rain", "dry"] = dspy.OutputField(desc="tomorrow's weather")


def forecaster() -> dspy.Module:
    return dspy.Predict(ForecastSignature)


def readings() -> TaskData:
    """Generated readings: low and falling pressure brings rain. No two rows are equal."""
    rows = [
        {"pressure": pressure, "falling": falling, "forecast": "rain" if pressure < 1010 and falling else "dry"}
        for pressure in range(985, 1036)
        for falling in (True, False)
    ]
    random.Random(7).shuffle(rows)
    return TaskData(train=rows[:30], validation=rows[30:60], test=rows[60:])


def rain(gold, pred, trace=None, pred_name=None, pred_trace=None) -> dspy.Prediction:
    said = getattr(pred, "forecast", None)
    right = said == gold.forecast
    feedback = f"It was {gold.forecast}." if right else f"It was {gold.forecast}; the forecast said {said}."
    return dspy.Prediction(score=float(right), feedback=feedback)
