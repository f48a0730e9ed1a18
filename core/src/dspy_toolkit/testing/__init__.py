"""Testing programs and plugins, as a pytest plugin: a scripted LM, plugins on disk, a conformance check.

    def test_my_plugin():
        check_plugin("weather")

    def test_my_program():
        lm = ScriptedLM([{"forecast": "rain"}])
        with dspy.context(lm=lm):
            assert program(readings="...").forecast == "rain"
        assert lm.engine.calls == 1

Installed with the core, so the fixtures exist in every project that has it. pytest imports this module in all of them:
it loads neither dspy nor a plugin until a name or a fixture is used.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.testing.conformance import check_plugin, problems_of
    from dspy_toolkit.testing.distributions import write_distribution
    from dspy_toolkit.testing.scripted import ScriptedEngine, ScriptedLM

__all__ = [
    "ScriptedEngine",
    "ScriptedLM",
    "check_plugin",
    "lm_cache",
    "plugin_distribution",
    "plugin_manager",
    "problems_of",
    "write_distribution",
]

_LAZY = {
    "ScriptedEngine": "dspy_toolkit.testing.scripted",
    "ScriptedLM": "dspy_toolkit.testing.scripted",
    "check_plugin": "dspy_toolkit.testing.conformance",
    "problems_of": "dspy_toolkit.testing.conformance",
    "write_distribution": "dspy_toolkit.testing.distributions",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@pytest.fixture
def plugin_manager() -> "PluginManager":
    """A manager with what ships in the box and nothing that happens to be installed; `register` adds to it."""
    from dspy_toolkit.plugins import PluginManager

    return PluginManager(entry_points=False, select="")


@pytest.fixture
def lm_cache(tmp_path: Path) -> Iterator[Path]:
    """An empty DSPy cache of this test's own, as a run would have it; DSPy's own cache is back afterwards."""
    import dspy

    from dspy_toolkit.lm.cache import configure_cache

    before = dspy.__dict__.get("cache")  # looking it up as dspy.cache would make one in the home directory
    configure_cache(tmp_path / "lm-cache")
    yield tmp_path / "lm-cache"
    dspy.__dict__.pop("cache").disk_cache.close()
    if before is not None:
        dspy.__dict__["cache"] = before


@pytest.fixture
def plugin_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """`plugin_distribution(name, hooks, **options)`: `write_distribution` under tmp_path, importable until the test
    ends.
    """
    import sys

    from dspy_toolkit.testing.distributions import write_distribution

    before = set(sys.modules)

    def make(name: str, hooks: str, **options: Any) -> Path:
        directory = write_distribution(tmp_path / f"site{len(list(tmp_path.iterdir()))}", name, hooks, **options)
        monkeypatch.syspath_prepend(directory)
        return directory

    yield make
    for module in set(sys.modules) - before:
        if Path(getattr(sys.modules[module], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[module]
