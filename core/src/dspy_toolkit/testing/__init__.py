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

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from dspy_toolkit.testing.fixtures import lm_cache, plugin_distribution, plugin_manager
except ModuleNotFoundError as error:
    if error.name != "pytest":  # the scripted LM and the checks are of use without it
        raise

if TYPE_CHECKING:
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
