"""The pytest fixtures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dspy_toolkit.plugins import PluginManager

__all__ = ["lm_cache", "plugin_distribution", "plugin_manager"]


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

    outer = dspy.__dict__.get("cache")  # looking it up as dspy.cache would make one in the home directory
    configure_cache(tmp_path / "lm-cache")
    yield tmp_path / "lm-cache"
    dspy.__dict__.pop("cache").disk_cache.close()
    if outer is not None:
        dspy.__dict__["cache"] = outer


@pytest.fixture
def plugin_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """`plugin_distribution(name, hooks, **options)`: `write_distribution` under tmp_path, importable until the test
    ends.
    """
    import sys

    from dspy_toolkit.testing.distributions import write_distribution

    loaded = set(sys.modules)

    def make(name: str, hooks: str, **options: Any) -> Path:
        directory = write_distribution(tmp_path / f"site{len(list(tmp_path.iterdir()))}", name, hooks, **options)
        monkeypatch.syspath_prepend(directory)
        return directory

    yield make
    for module in set(sys.modules) - loaded:
        if Path(getattr(sys.modules[module], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[module]
