"""Signatures by name: those that plugins contribute, and those that a program registers while it runs."""

import threading
from collections.abc import Iterable, Mapping

import dspy

from dspy_toolkit.errors import DuplicateNameError, PluginError, SignatureError, UnknownNameError
from dspy_toolkit.plugins import Found, PluginManager
from dspy_toolkit.types import SignatureEntry, resolve

__all__ = ["SignatureRegistry"]

Signature = type[dspy.Signature]


class SignatureRegistry:
    """Looks up signatures by qualified name, `lora/LoRAOptimizationSignature`, or plain name where it is unique.

    A plugin's signature is imported when it is first asked for. A name registered here hides a plugin's of the same
    qualified name. Safe to use from several threads.
    """

    def __init__(self, plugins: PluginManager | None = None):
        self._plugins = plugins or PluginManager()
        self._registered: dict[str, dict[str, Signature]] = {}
        self._lock = threading.Lock()

    def register_project(self, name: str, signatures: Mapping[str, Signature] | Iterable[Signature]) -> None:
        """Add signatures to a project, by the names given or else by their class names. Again: replaces them.

        Raises SignatureError for what is no signature class, and for two classes of one name.
        """
        named: dict[str, Signature]
        if isinstance(signatures, Mapping):
            named = {str(key): signature for key, signature in signatures.items()}
        else:
            classes = list(signatures)
            named = {signature.__name__: signature for signature in classes}
            if len(named) < len(classes):
                raise SignatureError(
                    f"Two signatures for the project {name!r} have one class name; pass a dict of names."
                )
        if not name or "/" in name:
            raise SignatureError(f"A project is called {name!r}; a name is not empty and has no '/'.")
        for key, signature in named.items():
            if not (isinstance(signature, type) and issubclass(signature, dspy.Signature)):
                raise SignatureError(f"{name}/{key} is {signature!r}; expected a subclass of dspy.Signature.")
        with self._lock:
            self._registered.setdefault(name, {}).update(named)

    def get(self, name: str, *, project: str | None = None) -> Signature:
        """The signature called `project/name`, or plain `name`, asked for in `project` first.

        Raises UnknownNameError (closest first), DuplicateNameError when several projects have the plain name,
        PluginError when the plugin's reference leads nowhere.
        """
        with self._lock:
            registered = {
                f"{owner}/{key}": match for owner, own in self._registered.items() for key, match in own.items()
            }
        if name in registered:
            return registered[name]
        if "/" not in name:
            if f"{project}/{name}" in registered:
                return registered[f"{project}/{name}"]
            same = sorted(key for key in registered if key.partition("/")[2] == name)
            contributed = {match.qualified_name for match in self._entries() if match.entry.name == name}
            rivals = sorted({*same, *contributed})
            if len(rivals) == 1 and same:
                return registered[rivals[0]]
            if len(rivals) > 1 and same and f"{project}/{name}" not in contributed:
                raise DuplicateNameError(
                    f"The signature {name!r} exists in several projects; name one of: {', '.join(rivals)}."
                )
        try:
            match = self._plugins.get(SignatureEntry, name, project=project)
        except UnknownNameError as error:
            raise UnknownNameError("signature", name, [*error.known, *registered]) from error
        return self._resolved(match.qualified_name)

    def get_project_signatures(self, name: str) -> dict[str, Signature]:
        """All signatures of a project by plain name. Raises UnknownNameError if nothing is known of the project."""
        contributed = {match.entry.name: match.qualified_name for match in self._entries() if match.project == name}
        with self._lock:
            registered = dict(self._registered.get(name, {}))
            projects = {*self._registered, *(match.project for match in self._entries())}
        if name not in projects:
            raise UnknownNameError("project with signatures", name, projects)
        plugin = {plain: self._resolved(full) for plain, full in contributed.items() if plain not in registered}
        return dict(sorted({**plugin, **registered}.items()))

    def get_all_signatures(self) -> dict[str, Signature]:
        """All signatures by qualified name, sorted. Imports every plugin's; one that fails raises its PluginError."""
        with self._lock:
            projects = {*self._registered, *(match.project for match in self._entries())}
        return {
            f"{project}/{name}": signature
            for project in sorted(projects)
            for name, signature in self.get_project_signatures(project).items()
        }

    def _entries(self) -> list[Found[SignatureEntry]]:
        return list(self._plugins.entries(SignatureEntry).values())

    def _resolved(self, qualified_name: str) -> Signature:
        signature = resolve(self._plugins.entries(SignatureEntry)[qualified_name].entry.signature)
        if not (isinstance(signature, type) and issubclass(signature, dspy.Signature)):
            raise PluginError(
                f"The signature {qualified_name} is {signature!r}; expected a subclass of dspy.Signature."
            )
        return signature
