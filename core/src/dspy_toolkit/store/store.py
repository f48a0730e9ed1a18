"""Bundles by task and version, with movable names for versions.

<root>/lora/hyperparameters/v1/                   a bundle
<root>/lora/hyperparameters/v2/
<root>/lora/hyperparameters/aliases/production    a file that says v1
<root>/signatures/question-answer-1b2c3d4e/v1/    of "question -> answer", which is no task
<root>/modules/my_package.answers.Answer/v1/      of "my_package.answers:Answer"
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.errors import BundleError, UnknownNameError
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.store.bundle import Bundle, bundle_files, read_bundle, sync_directory, write_files

__all__ = ["LATEST", "PLAIN", "PRODUCTION", "Store", "Version"]

LATEST = "latest"
PLAIN = "plain"
"""Where a version is asked for: the program as it was before optimization. No version is called so."""
PRODUCTION = "production"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_VERSION = re.compile(r"v([1-9][0-9]*)\Z")
_ALIASES = "aliases"
_SIGNATURES, _MODULES = "signatures", "modules"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A stored version: `v3` of `lora/hyperparameters`, its bundle, and the aliases that point to it."""

    task: str
    name: str
    bundle: Bundle
    aliases: tuple[str, ...]


class Store:
    """The programs under `root`. Several threads and processes may use one root at once. Making a Store touches
    nothing.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root).expanduser()

    def save(
        self,
        result: OptimizationResult,
        *,
        example_inputs: Mapping[str, Any],
        adapter: dspy.Adapter | None = None,
        parent: str | None = None,
    ) -> Version:
        """Store a run's program as the task's next version.

        One whose interval does not clear the baseline is stored too, as a candidate: its manifest says
        `"promoted": false`, and it is used by its name only. Raises BundleError.
        """
        folder = self._folder(result.task)
        contents = bundle_files(result, example_inputs=example_inputs, adapter=adapter, parent=parent)
        number = max(self._numbers(result.task), default=0) + 1
        while True:
            try:
                write_files(folder / f"v{number}", contents)
                return self._version(result.task, f"v{number}")
            except FileExistsError:  # somebody else took the number meanwhile
                number += 1

    def __contains__(self, task: str) -> bool:
        """Whether anything is stored under this name."""
        return bool(self._numbers(task))

    def tasks(self) -> tuple[str, ...]:
        """Names with at least one version, sorted: of tasks, and of what else was optimized."""
        tasks = set()
        for pattern in ("*/v*", "*/*/v*"):
            for path in self.root.glob(pattern):
                task = path.parent.relative_to(self.root).as_posix()
                if _VERSION.match(path.name) and all(_NAME.match(part) for part in task.split("/")):
                    tasks.add(_name_of(path) if task.partition("/")[0] in (_SIGNATURES, _MODULES) else task)
        return tuple(sorted(tasks))

    def versions(self, task: str) -> tuple[Version, ...]:
        """Oldest first. Raises UnknownNameError for a task without versions, BundleError for a damaged one."""
        return tuple(self._version(task, f"v{number}") for number in self._known(task))

    def get(self, task: str, version: str | None = None) -> Version:
        """A version by name (`v2`), by alias (`production`), or `latest`, the newest.

        None is what a run should use, see `default`; BundleError where there is no such version. Raises
        UnknownNameError, or BundleError for a damaged bundle.
        """
        numbers = self._known(task)
        aliases = self.aliases(task)
        if version is None:
            default = self.default(task)
            if default is None:
                raise BundleError(
                    f"No stored version of {task} was better on held-out rows than the program it was made from. "
                    f"Name the one you want, for example {task}@v{numbers[-1]}, or {task}@{PLAIN} for that program."
                )
            return default
        name = f"v{numbers[-1]}" if version == LATEST else aliases.get(version, version)
        match = _VERSION.match(name)
        if match is None or int(match[1]) not in numbers:
            choices = [*(f"v{number}" for number in numbers), *aliases, LATEST]
            raise UnknownNameError(f"version of {task}", version, choices)
        return self._version(task, name)

    def promote(self, task: str, version: str, alias: str = PRODUCTION) -> Version:
        """Point an alias at a version and return it. Raises UnknownNameError; BundleError for a bad alias."""
        if not _NAME.match(alias) or _VERSION.match(alias) or alias in (LATEST, PLAIN):
            raise BundleError(
                f"{alias!r} cannot be an alias; choose letters, digits, '_', '.' and '-', "
                f"neither {LATEST!r} nor {PLAIN!r} nor a version's name."
            )
        name = self.get(task, version).name
        folder = self._folder(task) / _ALIASES
        temporary = folder / f".{alias}-{secrets.token_hex(4)}.tmp"
        try:
            folder.mkdir(exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(f"{name}\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / alias)
            sync_directory(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise BundleError(f"The alias {folder / alias} cannot be written: {error.strerror or error}.") from error
        return self._version(task, name)

    def aliases(self, task: str) -> dict[str, str]:
        """Alias to version name, sorted. `latest` is not among them: it is always the newest."""
        folder = self._folder(task) / _ALIASES
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return {file.name: file.read_text(encoding="utf-8").strip() for file in files if _NAME.match(file.name)}

    def default(self, task: str) -> Version | None:
        """What replaces the plain program: `production` if that alias exists, else the newest version that passed the
        gate. None if there is neither: an interrupted, unmeasured or worse version is used by its name only.
        """
        if PRODUCTION in self.aliases(task):
            return self.get(task, PRODUCTION)
        for number in reversed(self._numbers(task)):
            candidate = self._version(task, f"v{number}")
            if candidate.bundle.manifest.promoted:
                return candidate
        return None

    def _version(self, task: str, name: str) -> Version:
        pointing = tuple(alias for alias, target in self.aliases(task).items() if target == name)
        return Version(task=task, name=name, bundle=read_bundle(self._folder(task) / name), aliases=pointing)

    def _known(self, task: str) -> list[int]:
        numbers = self._numbers(task)
        if not numbers:
            raise UnknownNameError(
                "stored program", task, self.tasks(), remedy=f"Make one with: dspy-toolkit optimize {task}"
            )
        return numbers

    def _numbers(self, task: str) -> list[int]:
        folder = self._folder(task)
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _VERSION.match(name)))

    def _folder(self, task: str) -> Path:
        parts = _parts(task)
        if not 1 <= len(parts) <= 2 or not all(_NAME.match(part) and part != _ALIASES for part in parts):
            raise BundleError(f"{task!r} cannot be the name of a stored program; expected 'project/task'.")
        return self.root.joinpath(*parts)


def _parts(name: str) -> list[str]:
    """The folder of a name. A signature in DSPy's short form is the same however its blanks are set."""
    if "->" in name:
        written = re.sub(r"\s*(->|[,:])\s*", r"\1", name.strip())
        words = re.sub(r"[^A-Za-z0-9]+", "-", name)[:60].strip("-") or "signature"
        return [_SIGNATURES, f"{words}-{hashlib.sha256(written.encode()).hexdigest()[:8]}"]
    if ":" in name:
        return [_MODULES, name.replace(":", ".")]
    return name.split("/")


def _name_of(version: Path) -> str:
    """What a version of a signature or module is called, as its manifest has it."""
    try:
        return str(json.loads((version / "manifest.json").read_text(encoding="utf-8"))["task"])
    except (OSError, ValueError, KeyError, TypeError):
        return version.parent.as_posix()  # damaged; `get` says so when it is asked for
