"""Whether what the settings name exists; asked by `doctor` and `validate`. Loads no model."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dspy_toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from dspy_toolkit.plugins import PluginManager
    from dspy_toolkit.settings import DSPyConfig
    from dspy_toolkit.types import Check

__all__ = ["setup_checks"]


def setup_checks(config: "DSPyConfig", plugins: "PluginManager") -> "Iterator[Check]":
    """A check for each model, project and optimizer that the settings name."""
    from dspy_toolkit.types import Check, OptimizerEntry

    yield _check("model", config.model, lambda: plugins.provider(config.profile(config.model).model))
    for name, profile in config.models.items():
        yield _check(f"models.{name}", profile.model, lambda model=profile.model: plugins.provider(model))
    projects = {record.name for record in plugins.records}
    for name, project in config.projects.items():
        if name not in projects:
            remedy = f"install its plugin, or remove it; projects there are: {', '.join(sorted(projects))}"
            yield Check(name=f"projects.{name}", ok=False, detail="no such project", remedy=remedy)
        if (model := project.model) is not None:
            yield _check(
                f"projects.{name}.model", model, lambda model=model: plugins.provider(config.profile(model).model)
            )
        if (optimizer := project.optimizer) not in (None, "auto"):
            yield _check(
                f"projects.{name}.optimizer",
                optimizer,
                lambda optimizer=optimizer, name=name: plugins.get(OptimizerEntry, optimizer, project=name),
            )


def _check(setting: str, value: str, look_up: Callable[[], Any]) -> "Check":
    from dspy_toolkit.types import Check

    try:
        look_up()
    except ToolkitError as error:
        return Check(name=setting, ok=False, detail=str(error), remedy=f"change {setting} in the settings")
    return Check(name=setting, ok=True, detail=value)
