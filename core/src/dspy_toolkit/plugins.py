"""Finding plugins and what they contribute.

entry points ──load one at a time──▶ PluginRecord (listed, even when broken or blocked)
                                         │ hooks, called on first look-up
                                         ▼
                                     Entry, by qualified name
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any, Generic, TypeVar

import pluggy

from dspy_toolkit import hookspecs
from dspy_toolkit.errors import DuplicateNameError, PluginError, UnknownNameError
from dspy_toolkit.types import (
    Entry,
    MetricEntry,
    MigrationEntry,
    OptimizerEntry,
    ProviderEntry,
    SignatureEntry,
    TaskEntry,
)
from dspy_toolkit.version import __version__

__all__ = ["BUILTIN", "Found", "PluginManager", "PluginRecord"]

BUILTIN = "core"
"""The project of what ships in the box."""

_BUILTIN_HOOKS = "dspy_toolkit.builtin.hooks"  # by name, as of any plugin: its room is above this one

E = TypeVar("E", bound=Entry)

_HOOKS: dict[type[Entry], tuple[str, str]] = {
    SignatureEntry: ("toolkit_signatures", "signature"),
    TaskEntry: ("toolkit_tasks", "task"),
    MetricEntry: ("toolkit_metrics", "metric"),
    OptimizerEntry: ("toolkit_optimizers", "optimizer"),
    ProviderEntry: ("toolkit_providers", "provider"),
    MigrationEntry: ("toolkit_migrations", "migration"),
}


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One entry point, as `dspy-toolkit plugins` shows it.

    `name` is the project; `hooks` the names of the hooks it implements; `error` why it (or one of its hooks) cannot be
    used, or None; `blocked` whether DSPY_TOOLKIT_PLUGINS left it out.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    error: str | None = None
    blocked: bool = False


@dataclass(frozen=True, kw_only=True)
class Found(Generic[E]):
    """An entry together with who contributed it."""

    entry: E
    project: str
    distribution: str

    @property
    def qualified_name(self) -> str:
        return f"{self.project}/{self.entry.name}"


class PluginManager:
    """The plugins of this process and their entries.

    `entry_points=False` leaves out what is installed, for tests. `select` overrides DSPY_TOOLKIT_PLUGINS: a
    comma-separated list of projects or distributions; plain names pick (only those load), names with a leading `-`
    block. Built-ins always load. Creating a manager loads each plugin's hooks module and calls no hook.
    """

    def __init__(self, *, entry_points: bool = True, select: str | None = None):
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._records: dict[tuple[str, str], PluginRecord] = {}
        self._modules: dict[tuple[str, str], Any] = {}
        self._entries: dict[type[Entry], dict[str, Found[Any]]] = {}
        self._clashes: dict[str, str] = {}
        self._select = os.environ.get("DSPY_TOOLKIT_PLUGINS", "") if select is None else select
        self.register(import_module(_BUILTIN_HOOKS), project=BUILTIN, distribution="dspy-toolkit", version=__version__)
        if entry_points:
            self._load_entry_points()

    # --- loading

    def register(self, module: ModuleType | object, *, project: str, distribution: str, version: str = "0") -> None:
        """Add a plugin that is already imported.

        Raises PluginError if it implements a hook that does not exist or with arguments, DuplicateNameError if the
        project is taken.
        """
        key = (project, distribution)
        for taken_project, taken_distribution in self._modules:
            if taken_project == project:
                raise DuplicateNameError(_clash(project, taken_distribution, distribution))
        hooks = self._hooks_of(module)
        try:
            self._pluggy.register(module, name=f"{project}:{distribution}")
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"The plugin {project!r} of {distribution} cannot be registered: {error}") from error
        self._modules[key] = module
        self._records[key] = PluginRecord(name=project, distribution=distribution, version=version, hooks=hooks)
        self._entries.clear()

    def unregister(self, project: str) -> None:
        """Remove a plugin added with `register`."""
        for key in [key for key in self._modules if key[0] == project]:
            self._pluggy.unregister(self._modules.pop(key))
            del self._records[key]
        self._entries.clear()

    def _load_entry_points(self) -> None:
        from importlib_metadata import entry_points

        # One distribution can be seen twice when sys.path has two routes to it.
        found = {(point.name, _distribution(point)): point for point in entry_points(group=hookspecs.PROJECT)}
        projects: dict[str, list[str]] = {}
        for project, distribution in found:
            projects.setdefault(project, [])
            if not self._is_blocked(project, distribution):
                projects[project].append(distribution)
        for (project, distribution), point in sorted(found.items(), key=lambda item: item[0]):
            version = point.dist.version if point.dist else "0"
            record = PluginRecord(name=project, distribution=distribution, version=version)
            if self._is_blocked(project, distribution):
                record = replace(record, blocked=True)
            elif project == BUILTIN or len(projects[project]) > 1:
                rivals = ["dspy-toolkit", distribution] if project == BUILTIN else sorted(projects[project])
                self._clashes[project] = _clash(project, *rivals)
                record = replace(record, error=self._clashes[project])
            else:
                record = self._load(point.load, record)
            self._records[project, distribution] = record

    def _load(self, load: Callable[[], Any], record: PluginRecord) -> PluginRecord:
        try:
            module = load()
            self.register(module, project=record.name, distribution=record.distribution, version=record.version)
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises, the others go on
            if os.environ.get("DSPY_TOOLKIT_STRICT"):
                raise
            return replace(record, error=_describe(error))
        return self._records[record.name, record.distribution]

    def _hooks_of(self, module: Any) -> tuple[str, ...]:
        names = [name for name in dir(module) if self._pluggy.parse_hookimpl_opts(module, name) is not None]
        known = [hook for hook, _ in _HOOKS.values()]
        for name in names:
            if name not in known:
                raise PluginError(str(UnknownNameError("hook", name, known)))
        return tuple(names)

    def _is_blocked(self, project: str, distribution: str) -> bool:
        words = [word.strip() for word in self._select.split(",") if word.strip()]
        picked = [word for word in words if not word.startswith("-")]
        blocked = [word[1:] for word in words if word.startswith("-")]
        if project in blocked or distribution in blocked:
            return True
        return bool(picked) and project not in picked and distribution not in picked

    # --- looking up

    @property
    def records(self) -> tuple[PluginRecord, ...]:
        """Every plugin found, sorted by project; errors of hooks appear once the hooks have been called."""
        return tuple(self._records[key] for key in sorted(self._records))

    def check(self) -> tuple[PluginRecord, ...]:
        """Call every hook of every plugin, so that `records` holds all there is to say. Still imports no target."""
        for kind in _HOOKS:
            self.entries(kind)
        return self.records

    def entries(self, kind: type[E]) -> dict[str, Found[E]]:
        """All entries of a kind by qualified name, sorted. A plugin whose hook fails contributes none of the kind."""
        if kind not in self._entries:
            self._entries[kind] = dict(sorted(self._collect(kind).items()))
        return self._entries[kind]

    def get(self, kind: type[E], name: str, *, project: str | None = None) -> Found[E]:
        """The entry called `project/name`; plain `name` works where only one project has it, `project` asked first.

        Raises UnknownNameError, or DuplicateNameError when several projects have the plain name or the project is
        claimed by two distributions.
        """
        entries = self.entries(kind)
        noun = _HOOKS[kind][1]
        if name in entries:
            return entries[name]
        if "/" not in name:
            if f"{project}/{name}" in entries:
                return entries[f"{project}/{name}"]
            same = [found for found in entries.values() if found.entry.name == name]
            if len(same) == 1:
                return same[0]
            if same:
                names = ", ".join(found.qualified_name for found in same)
                raise DuplicateNameError(f"The {noun} {name!r} exists in several projects; name one of: {names}.")
        claimed = name.partition("/")[0]
        if claimed in self._clashes:
            raise DuplicateNameError(self._clashes[claimed])
        for record in self._records.values():
            if record.name == claimed and record.error:
                raise PluginError(f"No {noun} {name!r}: the plugin {record.distribution} is broken: {record.error}")
        raise UnknownNameError(noun, name, entries, remedy=self._remedy(claimed if "/" in name else None))

    def provider(self, model: str) -> Found[ProviderEntry]:
        """The provider of a model string, by the part before the first slash.

        Raises UnknownNameError, or PluginError when the provider's plugin is broken.
        """
        prefix = model.partition("/")[0]
        by_prefix = {found.entry.name: found for found in self.entries(ProviderEntry).values()}
        if prefix in by_prefix:
            return by_prefix[prefix]
        for record in self._records.values():
            if record.name == prefix and record.error:
                raise PluginError(
                    f"No provider for {model!r}: the plugin {record.distribution} is broken: {record.error}"
                )
        raise UnknownNameError(
            "provider",
            prefix,
            by_prefix,
            remedy=f"A model string starts with its provider, as in 'mlx/smollm2-135m'. {self._remedy(prefix)}".strip(),
        )

    def _remedy(self, project: str | None) -> str:
        if project is None or any(record.name == project and not record.blocked for record in self._records.values()):
            return ""
        if any(record.name == project for record in self._records.values()):
            return f"The plugin {project!r} is blocked by DSPY_TOOLKIT_PLUGINS."
        return f"If it is in a plugin that is not installed: pip install dspy-toolkit-{project}"

    def _collect(self, kind: type[E]) -> dict[str, Found[E]]:
        collected: dict[str, Found[E]] = {}
        providers: dict[str, str] = {}
        noun = _HOOKS[kind][1]
        for key, module in sorted(self._modules.items(), key=lambda item: (item[0][0] != BUILTIN, item[0])):
            project, distribution = key
            try:
                entries = self._call(module, kind)
                names = [entry.name for entry in entries]
                for name in names:
                    if names.count(name) > 1:
                        raise DuplicateNameError(f"{distribution} contributes the {noun} {name!r} twice.")  # noqa: TRY301
                    if noun == "provider" and name in providers:
                        raise DuplicateNameError(_clash(name, providers[name], distribution, noun="provider"))  # noqa: TRY301
            except (Exception, SystemExit) as error:  # whatever a stranger's hook raises, the others go on
                if os.environ.get("DSPY_TOOLKIT_STRICT"):
                    raise
                self._records[key] = replace(self._records[key], error=_describe(error))
                continue
            providers.update(dict.fromkeys(names, distribution))
            for entry in entries:
                collected[f"{project}/{entry.name}"] = Found(entry=entry, project=project, distribution=distribution)
        return collected

    def _call(self, module: Any, kind: type[E]) -> Sequence[E]:
        hook = _HOOKS[kind][0]
        for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                returned = implementation.function()
                break
        else:
            return ()
        if not isinstance(returned, Iterable):
            raise PluginError(f"{hook} returned {returned!r}; expected an iterable of {kind.__name__}.")
        entries = list(returned)
        for entry in entries:
            if not isinstance(entry, kind):
                raise PluginError(f"{hook} returned {entry!r}; expected an iterable of {kind.__name__}.")
        return entries


def _distribution(point: Any) -> str:
    return point.dist.name if point.dist else point.value.partition(".")[0]


def _clash(name: str, *distributions: str, noun: str = "project") -> str:
    both = " and ".join(distributions)
    return (
        f"The {noun} {name!r} is claimed by {both}. "
        f"Uninstall one, or block it: DSPY_TOOLKIT_PLUGINS=-{distributions[-1]}"
    )


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
