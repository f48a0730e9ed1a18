"""Finding an optimizer by name and checking its parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from dspy_toolkit.plugins import Found, PluginManager
from dspy_toolkit.types import OptimizerEntry

__all__ = ["check_parameters", "find_optimizer"]


def find_optimizer(plugins: PluginManager, name: str) -> Found[OptimizerEntry]:
    """The optimizer called `name`: `bootstrap`, `core/bootstrap`, or DSPy's own name `BootstrapFewShot`, in any case.

    Raises UnknownNameError, closest first.
    """
    raise NotImplementedError


def check_parameters(optimizer: Callable[..., Any], name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of an optimizer, defaults filled in, values converted to the annotated types.

    Strings are accepted for any type (they come from the command line). Raises UnknownNameError for a parameter that
    does not exist, SettingsError for a value of the wrong type.
    """
    raise NotImplementedError
