"""The code of docs/evaluate.md runs, and the options it names are there."""

import re
from pathlib import Path

import dspy

from dspy_toolkit import DSPyConfig, DSPyFramework, PluginManager, hookimpl
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import ProviderEntry

TEXT = (Path(__file__).parents[3] / "docs" / "evaluate.md").read_text(encoding="utf-8")


class Provider:
    @hookimpl
    def toolkit_providers(self):
        yield ProviderEntry(name="scripted", summary="Always 1.", connect=self.connect)

    def connect(self, model, **options):
        return ScriptedLM(lambda request: {"reasoning": "", "answer": "1"}, model=model, **options)


def test_the_python_code_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path))
    plugins = PluginManager(select="core")
    plugins.register(Provider(), project="scripted", distribution="dspy-toolkit-scripted")
    config = DSPyConfig(model="scripted/one", cache=tmp_path, store=tmp_path / "programs")
    rows = [{"question": f"{n} mod 2?", "answer": str(n % 2)} for n in range(8)]
    names = {"framework": DSPyFramework(config, plugins=plugins), "dspy": dspy, "rows": rows}
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(block, "docs/evaluate.md", "exec"), names)
    assert names["measured"].evaluation.score.score == 50
    assert names["found"].comparison.difference == 0


def test_every_option_named_is_one_of_the_verbs(command_line):
    helps = command_line("evaluate", "--help").stdout + command_line("compare", "--help").stdout
    for option in set(re.findall(r"`(--[a-z-]+)", TEXT)):
        assert option in helps, option
