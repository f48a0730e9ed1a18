"""Modules by name: factories that a framework can optimize without a task."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dspy

from dspy_toolkit.errors import PluginError, UnknownNameError

__all__ = ["ModuleRegistry", "ProjectSignatureConfig"]


@dataclass(frozen=True, kw_only=True)
class ProjectSignatureConfig:
    """A project's signatures, with the optimizer its modules are to be optimized with unless a call names another.

    `module` makes a module from a signature; `dspy.Predict` or `dspy.ChainOfThought`, for example.
    """

    project: str
    signatures: Mapping[str, type[dspy.Signature]]
    optimizer: str | None = None
    optimizer_params: Mapping[str, Any] = field(default_factory=dict)
    module: Callable[[type[dspy.Signature]], dspy.Module] = dspy.Predict


class ModuleRegistry:
    """Factories by name. Safe to use from several threads."""

    def __init__(self) -> None:
        self._factories: dict[str, Callable[[], dspy.Module]] = {}
        self._configs: dict[str, ProjectSignatureConfig] = {}
        self._lock = threading.Lock()

    def register(self, name: str, factory: Callable[[], dspy.Module]) -> None:
        """Have `factory()` make the module called `name`. Again: replaces it."""
        with self._lock:
            self._factories[name] = factory
            self._configs.pop(name, None)

    def register_project(self, config: ProjectSignatureConfig) -> None:
        """A module for each of the project's signatures, as `project/name`."""
        with self._lock:
            for name, signature in config.signatures.items():
                qualified = f"{config.project}/{name}"
                self._factories[qualified] = partial(config.module, signature)
                self._configs[qualified] = config

    def get(self, name: str) -> dspy.Module:
        """A fresh module. Raises UnknownNameError, closest first; PluginError if the factory makes something else."""
        with self._lock:
            factory = self._factories.get(name)
            known = list(self._factories)
        if factory is None:
            raise UnknownNameError("module", name, known)
        module = factory()
        if not isinstance(module, dspy.Module):
            raise PluginError(f"The factory of the module {name!r} made {module!r}; expected a dspy.Module.")
        return module

    def config(self, name: str) -> ProjectSignatureConfig | None:
        """The project's settings a module was registered with, if any."""
        with self._lock:
            return self._configs.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(self._factories))
