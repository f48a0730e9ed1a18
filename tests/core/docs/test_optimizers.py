"""The optimizer of docs/optimizers.md runs, from one file of a plugin, and does what it forecast."""

import re
from pathlib import Path

import dspy
import pytest
from learners import ROWS, answered, optimized, plan_of, split, steady

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError, SettingsError
from dspy_toolkit.optimize.optimizer import find_optimizer, load_optimizer
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.testing import ScriptedLM, check_plugin

TEXT = (Path(__file__).parents[3] / "docs" / "optimizers.md").read_text(encoding="utf-8")


@pytest.fixture
def options(plugin_distribution):
    source, hooks = re.findall(r"```python\n(.*?)```", TEXT.partition("## Your own")[2], re.DOTALL)
    folder = plugin_distribution("weather", hooks)
    (folder / "dspy_toolkit_weather" / "lucky_draws.py").write_text(source)
    optimizer = load_optimizer(find_optimizer(PluginManager(), "weather/lucky-draws").entry)
    program = dspy.Predict("question -> answer")
    return {
        "program": program,
        "data": prepare(split(ROWS), program),
        "metric": answered,
        "optimizer": optimizer,
        "lm": ScriptedLM(steady(0.5)),
    }


def test_the_plugin_is_conformant(options):
    check_plugin("weather")


def test_it_does_what_it_forecast(options):
    plan = plan_of(**options, parameters={"draws": "4"}, measure=False)
    result = optimized(**options, parameters={"draws": "4"})
    assert plan.total().calls.expected == result.lm_calls == 20 + 4 * 10 + 20
    assert len(result.program.demos) == 3
    assert result.parameters == {"draws": 4, "k": 3}


def test_what_it_checks_is_refused_before_any_call(options):
    with pytest.raises(OptimizationError, match="k is 30, and there are 20 training rows"):
        optimized(**options, parameters={"k": 30})
    with pytest.raises(SettingsError, match=r"\.draws is 0; input should be greater than or equal to 1"):
        optimized(**options, parameters={"draws": 0})
    assert options["lm"].engine.calls == 0
