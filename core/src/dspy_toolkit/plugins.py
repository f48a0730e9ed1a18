"""Finding plugins and what they contribute.

entry points ──load one at a time──▶ PluginRecord (listed, even when broken or blocked)
                                         │ hooks, called on first look-up
                                         ▼
                                     Entry, by qualified name
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
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

__all__ = ["BUILTIN", "Found", "InstalledPlugin", "PluginManager", "PluginRecord", "installed_plugins"]

logger = logging.getLogger(__name__)

BUILTIN = "core"
"""The project of what ships in the box."""

_BUILTIN_HOOKS = "dspy_toolkit.builtin.hooks"  # by name, as of any plugin: its room is above this one

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_RESERVED = re.compile(r"aliases|modules|signatures|v[0-9]+", re.IGNORECASE)
"""Folders of the store, which holds programs by project and task."""

_SECONDS = 20.0
"""Longest time a plugin's module may take to import, and each of its hooks to answer."""

_MOST_ENTRIES = 10_000

E = TypeVar("E", bound=Entry)
T = TypeVar("T")

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
class InstalledPlugin:
    """An entry point of our group: the project, the module that holds its hooks, and who installed it."""

    project: str
    module: str
    distribution: str
    version: str

    def load(self) -> Any:
        from importlib_metadata import EntryPoint

        return EntryPoint(name=self.project, value=self.module, group=hookspecs.PROJECT).load()


def installed_plugins() -> list[InstalledPlugin]:
    """The entry points of our group, sorted; of distributions on the path twice the first, as for imports.

    Reads each distribution's file itself: one malformed line of any distribution, in any group, would make
    `importlib_metadata.entry_points` raise for all of them.
    """
    from importlib_metadata import distributions

    plugins: dict[tuple[str, str], InstalledPlugin] = {}
    for distribution in distributions():
        try:
            lines = list(_section(distribution.read_text("entry_points.txt") or "", hookspecs.PROJECT))
            name, version = (distribution.name, distribution.version) if lines else ("", "")
        except Exception as error:  # noqa: BLE001  # a damaged distribution is no reason to lose the others
            logger.warning("The metadata of an installed distribution cannot be read: %s", _describe(error))
            continue
        for project, module in lines:
            plugin = InstalledPlugin(
                project=project, module=module, distribution=name or module.partition(".")[0], version=version or "0"
            )
            plugins.setdefault((project, plugin.distribution), plugin)
    return [plugins[key] for key in sorted(plugins)]


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    """Name and value of each line in one group of an `entry_points.txt`."""
    current = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            current = line[1:-1].strip()
        elif current == group and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


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
    block. Built-ins always load. Creating a manager loads each plugin's hooks module and calls no hook. A plugin that
    does not load, or whose hook does not return, within `time_limit` seconds is recorded as broken.
    """

    def __init__(self, *, entry_points: bool = True, select: str | None = None, time_limit: float = _SECONDS):
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._records: dict[tuple[str, str], PluginRecord] = {}
        self._modules: dict[tuple[str, str], Any] = {}
        self._entries: dict[type[Entry], dict[str, Found[Any]]] = {}
        self._clashes: dict[str, str] = {}
        self._provider_clashes: dict[str, str] = {}
        self._time_limit = time_limit
        self.unknown_selected: tuple[str, ...] = ()
        """What DSPY_TOOLKIT_PLUGINS names and nothing installed has."""
        self._select = os.environ.get("DSPY_TOOLKIT_PLUGINS", "") if select is None else select
        self.register(import_module(_BUILTIN_HOOKS), project=BUILTIN, distribution="dspy-toolkit", version=__version__)
        if entry_points:
            self._load_entry_points()

    # --- loading

    def register(self, module: ModuleType | object, *, project: str, distribution: str, version: str = "0") -> None:
        """Add a plugin that is already imported.

        Raises PluginError if it implements a hook that does not exist or with arguments, or if the project's name
        cannot be used, DuplicateNameError if the project is taken.
        """
        _check_project(project, distribution)
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
        installed = installed_plugins()
        self._check_selection(installed)
        rivals: dict[str, list[str]] = {}
        for plugin in installed:
            if not self._is_blocked(plugin.project, plugin.distribution):
                rivals.setdefault(plugin.project, []).append(plugin.distribution)
        for plugin in installed:
            project = plugin.project
            record = PluginRecord(name=project, distribution=plugin.distribution, version=plugin.version)
            if self._is_blocked(project, plugin.distribution):
                record = replace(record, blocked=True)
            elif project == BUILTIN or len(rivals[project]) > 1:
                claimants = ["dspy-toolkit", plugin.distribution] if project == BUILTIN else rivals[project]
                self._clashes[project] = _clash(project, *claimants)
                record = replace(record, error=self._clashes[project])
            else:
                record = self._load(plugin, record)
            self._records[project, plugin.distribution] = record

    def _check_selection(self, installed: Sequence[InstalledPlugin]) -> None:
        """Say which names in DSPY_TOOLKIT_PLUGINS nothing has: a misspelled one would block everything in silence."""
        names = {BUILTIN, "dspy-toolkit"}
        names |= {name for plugin in installed for name in (plugin.project, plugin.distribution)}
        self.unknown_selected = tuple(word for word in self._words() if word.removeprefix("-") not in names)
        for word in self.unknown_selected:
            unknown = UnknownNameError("plugin", word.removeprefix("-"), names)
            logger.warning("DSPY_TOOLKIT_PLUGINS: %s", unknown)

    def _load(self, plugin: InstalledPlugin, record: PluginRecord) -> PluginRecord:
        try:
            _check_project(plugin.project, plugin.distribution)
            module = self._limited(plugin.load, f"importing {plugin.module}")
            self.register(module, project=record.name, distribution=record.distribution, version=record.version)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a stranger's module raises, the others are loaded
            if os.environ.get("DSPY_TOOLKIT_STRICT"):
                raise
            return replace(record, error=_describe(error))
        return self._records[record.name, record.distribution]

    def _limited(self, call: Callable[[], T], what: str) -> T:
        """The call's result, from a thread that is left alone when it takes too long. Raises what the call raises."""
        if os.environ.get("DSPY_TOOLKIT_STRICT"):
            return call()
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(call())
            except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._time_limit)
        if errors:
            raise errors[0]
        if not results:
            raise PluginError(f"{what} takes longer than {self._time_limit:g} s and was given up.")
        return results[0]

    def _hooks_of(self, module: Any) -> tuple[str, ...]:
        names = [name for name in dir(module) if self._pluggy.parse_hookimpl_opts(module, name) is not None]
        known = [hook for hook, _ in _HOOKS.values()]
        for name in names:
            if name not in known:
                raise PluginError(str(UnknownNameError("hook", name, known)))
        return tuple(names)

    def _is_blocked(self, project: str, distribution: str) -> bool:
        words = self._words()
        picked = [word for word in words if not word.startswith("-")]
        blocked = [word[1:] for word in words if word.startswith("-")]
        if project in blocked or distribution in blocked:
            return True
        return bool(picked) and project not in picked and distribution not in picked

    def _words(self) -> list[str]:
        return [word.strip() for word in self._select.split(",") if word.strip()]

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
        if prefix in self._provider_clashes:
            raise DuplicateNameError(self._provider_clashes[prefix])
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
        return f"No installed plugin is called {project!r}; `dspy-toolkit plugins` lists them."

    def _collect(self, kind: type[E]) -> dict[str, Found[E]]:
        collected: dict[str, Found[E]] = {}
        noun = _HOOKS[kind][1]
        for key, module in sorted(self._modules.items(), key=lambda item: (item[0][0] != BUILTIN, item[0])):
            project, distribution = key
            try:
                entries = self._call(module, kind)
                names = [entry.name for entry in entries]
                for name in names:
                    if names.count(name) > 1:
                        raise DuplicateNameError(f"{distribution} contributes the {noun} {name!r} twice.")  # noqa: TRY301
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # whatever a stranger's hook raises, the others are called
                if os.environ.get("DSPY_TOOLKIT_STRICT"):
                    raise
                self._records[key] = replace(self._records[key], error=_describe(error))
                continue
            for entry in entries:
                collected[f"{project}/{entry.name}"] = Found(entry=entry, project=project, distribution=distribution)
        return self._without_rivals(collected) if kind is ProviderEntry else collected

    def _without_rivals(self, providers: dict[str, Found[E]]) -> dict[str, Found[E]]:
        """Only providers whose name one distribution has: prompts must not go to whoever sorts first.

        A built-in provider keeps its name; only the others that claim it are refused.
        """
        claims: dict[str, list[Found[E]]] = {}
        for provider in providers.values():
            claims.setdefault(provider.entry.name, []).append(provider)
        refused: set[str] = set()
        for name, claimants in claims.items():
            if len(claimants) == 1:
                continue
            clash = _clash(name, *(claimant.distribution for claimant in claimants), noun="provider")
            builtin = any(claimant.project == BUILTIN for claimant in claimants)
            if not builtin:
                self._provider_clashes[name] = clash
            for claimant in claimants:
                if claimant.project != BUILTIN:
                    key = (claimant.project, claimant.distribution)
                    self._records[key] = replace(self._records[key], error=clash)
                    refused.add(claimant.qualified_name)
        return {name: provider for name, provider in providers.items() if name not in refused}

    def _call(self, module: Any, kind: type[E]) -> Sequence[E]:
        hook = _HOOKS[kind][0]
        for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                function = implementation.function
                break
        else:
            return ()

        def call() -> list[Any]:
            returned = function()
            if not isinstance(returned, Iterable):
                raise PluginError(f"{hook} returned {returned!r}; expected an iterable of {kind.__name__}.")
            return list(islice(returned, _MOST_ENTRIES + 1))

        entries = self._limited(call, f"the hook {hook}")
        if len(entries) > _MOST_ENTRIES:
            raise PluginError(f"{hook} returned more than {_MOST_ENTRIES} entries.")
        for entry in entries:
            if not isinstance(entry, kind):
                raise PluginError(f"{hook} returned {entry!r}; expected an iterable of {kind.__name__}.")
        return entries


def _check_project(project: str, distribution: str) -> None:
    if project == BUILTIN and distribution == "dspy-toolkit":
        return
    if not _PROJECT.match(project):
        raise PluginError(
            f"{distribution} names its project {project!r}; a project's name is ASCII letters, digits, '_', '.' and "
            "'-', and starts with a letter or digit. It is the name of its entry point."
        )
    if _RESERVED.fullmatch(project):
        raise PluginError(f"{distribution} names its project {project!r}, which the store of programs uses itself.")


def _clash(name: str, *distributions: str, noun: str = "project") -> str:
    both = " and ".join(distributions)
    return (
        f"The {noun} {name!r} is claimed by {both}. "
        f"Uninstall one, or block it: DSPY_TOOLKIT_PLUGINS=-{distributions[-1]}"
    )


def _describe(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  # a stranger's exception may fail to describe itself
        text = "an error that cannot be written"
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
