"""The code of docs/plugins.md on trials runs: the kind from a file of a package, the metric on its result."""

import re
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.trials import shared_runner

TEXT = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text(encoding="utf-8")


@pytest.fixture
def runner(monkeypatch, tmp_path):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path))
    runner = shared_runner("weather")
    yield runner
    runner.close()


def test_the_metric_runs_the_experiment_once(plugin_distribution, runner):
    section = TEXT.partition("## Trials")[2].partition("\n## ")[0]
    kind, metric = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    folder = plugin_distribution("weather", "")
    (folder / "dspy_toolkit_weather" / "trial").mkdir()
    (folder / "dspy_toolkit_weather" / "trial" / "storm_warnings.py").write_text(kind)
    names = {}
    exec(compile(metric, "docs/plugins.md", "exec"), names)
    low, high, again = (
        names["warnings"](dspy.Example(days=365), dspy.Prediction(pressure=pressure)) for pressure in (990, 1003, 1003)
    )
    assert low.score < high.score == again.score
    assert "storms warned of" in high.feedback
    assert runner.executed == 2
