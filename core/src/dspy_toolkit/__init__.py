"""Program, optimize and ship DSPy programs on models you run yourself.

Importing this package imports neither dspy nor a model library; the names below are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dspy_toolkit.hookspecs import hookimpl
from dspy_toolkit.version import __version__

if TYPE_CHECKING:
    from dspy_toolkit.errors import ToolkitError
    from dspy_toolkit.framework.framework import DSPyFramework
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.settings import DSPyConfig

__all__ = ["DSPyConfig", "DSPyFramework", "PluginManager", "ToolkitError", "__version__", "hookimpl"]

_LAZY = {
    "DSPyConfig": "dspy_toolkit.settings",
    "DSPyFramework": "dspy_toolkit.framework.framework",
    "PluginManager": "dspy_toolkit.plugins",
    "ToolkitError": "dspy_toolkit.errors",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
