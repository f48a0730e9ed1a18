"""Bundles by task and version, with movable names for versions.

<root>/<project>/<task>/v1/            a bundle
<root>/<project>/<task>/aliases/production   a file with a version's name in it
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.store.bundle import Bundle

__all__ = ["Store", "Version"]


@dataclass(frozen=True, kw_only=True)
class Version:
    """A stored version: `lora/hyperparameters`, `v3`, its bundle, the aliases that point to it."""

    task: str
    name: str
    bundle: Bundle
    aliases: tuple[str, ...]


class Store:
    """The programs under `root`. Several processes may use one root at once. Creating it touches nothing."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def save(
        self,
        result: OptimizationResult,
        *,
        example_inputs: Mapping[str, Any],
        adapter: dspy.Adapter | None = None,
        parent: str | None = None,
    ) -> Version:
        """Store a finished run as the task's next version. Marked not promoted if its interval does not clear the baseline."""
        raise NotImplementedError

    def tasks(self) -> tuple[str, ...]:
        """Tasks with at least one version, sorted."""
        raise NotImplementedError

    def versions(self, task: str) -> tuple[Version, ...]:
        """Oldest first. Raises UnknownNameError for a task without versions."""
        raise NotImplementedError

    def get(self, task: str, version: str | None = None) -> Version:
        """A version by name (`v2`), alias (`production`) or `latest`.

        None is what a run should use: the alias `production` if there is one, else the newest promoted version, else
        `latest`. Raises UnknownNameError.
        """
        raise NotImplementedError

    def load(self, task: str, factory: Callable[[], dspy.Module], version: str | None = None) -> dspy.Module:
        """The program of a version, ready to run with whatever LM is in the context."""
        raise NotImplementedError

    def promote(self, task: str, version: str, alias: str = "production") -> None:
        """Point an alias at a version. Raises UnknownNameError, BundleError for a bad alias name."""
        raise NotImplementedError

    def aliases(self, task: str) -> dict[str, str]:
        """Alias to version name. `latest` is not among them: it is always the newest."""
        raise NotImplementedError
