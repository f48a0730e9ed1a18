"""The contract page: every hook's example runs as written and gives valid entries."""

import subprocess
import sys
import textwrap
import types

import pytest

from dspy_toolkit import hookspecs
from dspy_toolkit import types as entry_types
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.types import Entry

HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("toolkit_")}

RETURNS = {
    "toolkit_signatures": entry_types.SignatureEntry,
    "toolkit_tasks": entry_types.TaskEntry,
    "toolkit_metrics": entry_types.MetricEntry,
    "toolkit_optimizers": entry_types.OptimizerEntry,
    "toolkit_providers": entry_types.ProviderEntry,
    "toolkit_migrations": entry_types.MigrationEntry,
}


def example_of(hook):
    _, marker, example = hook.__doc__.partition("Example:\n")
    assert marker, f"{hook.__name__} has no example"
    return textwrap.dedent(example)


def test_every_hook_is_known_here():
    assert set(HOOKS) == set(RETURNS)


@pytest.mark.parametrize("name", sorted(RETURNS))
def test_the_example_runs_and_yields_a_valid_entry(name, plugin_manager):
    module = types.ModuleType("dspy_toolkit_weather.hooks")
    exec(example_of(HOOKS[name]), vars(module))
    plugin_manager.register(module, project="weather", distribution="dspy-toolkit-weather")
    entries = plugin_manager.entries(RETURNS[name])
    mine = [names for names in entries.values() if names.project == "weather"]
    assert mine, "the example contributes nothing"
    (record,) = [record for record in plugin_manager.check() if record.name == "weather"]
    assert record.error is None
    assert record.hooks == (name,)
    for names in mine:
        assert isinstance(names.entry, Entry)
        assert names.entry.summary


@pytest.mark.parametrize("name", sorted(RETURNS))
def test_a_hook_says_when_it_is_called_and_what_it_returns(name):
    assert "Called when" in HOOKS[name].__doc__
    assert "Returns" in HOOKS[name].__doc__


def test_everything_exported_exists_and_is_sorted():
    for module in (entry_types, sys.modules["dspy_toolkit.errors"], sys.modules["dspy_toolkit.plugins"]):
        assert all(hasattr(module, name) for name in module.__all__)
        assert list(module.__all__) == sorted(module.__all__)


def test_listing_plugins_imports_neither_dspy_nor_a_model_library():
    source = (
        "import sys\n"
        "from dspy_toolkit.plugins import PluginManager\n"
        "records = PluginManager(select='').check()\n"
        "assert len(records) >= 3, records\n"
        "heavy = {'dspy', 'mlx', 'mlx_lm', 'litellm', 'mlflow', 'torch', 'numpy', 'fastapi', 'openai'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_the_managers_own_hook_table_is_the_specification():
    assert {record.name for record in PluginManager(entry_points=False, select="").records} == {"core"}
