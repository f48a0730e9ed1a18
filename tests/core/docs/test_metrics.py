"""The code of docs/metrics.md runs, and the table of names is the one of the plugin."""

import re
from pathlib import Path

from dspy_toolkit.types import MetricEntry

TEXT = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/metrics.md", "exec"), names)
    assert sum(names["splits"].sizes.values()) == 50
    assert names["good_enough"].score(names["row"], names["prediction"]).score == 1


def test_every_built_in_metric_is_in_the_table(plugin_manager):
    rows = [line for line in TEXT.partition("In Python")[0].splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(core/[a-z0-9-]+)`", "".join(rows))) == set(plugin_manager.entries(MetricEntry))
