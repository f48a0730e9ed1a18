"""What a name stands for: a program that can be measured, optimized or run.

    weather/forecast, weather/forecast@v2, ...@production, ...@plain     a task
    ./path/of/a/bundle                                                   a stored version, wherever it lies
    weather/ForecastSignature, "question -> answer"                      a signature, answered by dspy.Predict
    my_package.answers:Answer                                            a module, a signature, or a factory of either

What was optimized under a name is stored under it, and the name alone means the stored version that replaces the plain
program, if there is one (see `Store.default`).
"""

import ast
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.errors import BundleError, PluginError, SignatureError, UnknownNameError
from dspy_toolkit.framework.resources import Resources
from dspy_toolkit.programs.target import Target
from dspy_toolkit.programs.task import Task
from dspy_toolkit.store.bundle import load_program, read_bundle
from dspy_toolkit.store.store import PLAIN
from dspy_toolkit.types import SignatureEntry, TaskEntry, resolve

__all__ = ["find_target"]

_AT = re.compile(r"(?P<name>.+)@(?P<version>[A-Za-z0-9][A-Za-z0-9_.-]*)\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class _Source:
    name: str
    plain: Callable[[], dspy.Module]
    task: Task | None = None


def find_target(resources: Resources, name: str, *, plain: bool = False) -> Target:
    """The target of a name. `plain` asks for the program before optimization, as `name@plain` does.

    Raises UnknownNameError (closest first), BundleError, FingerprintError, SignatureError, PluginError.
    """
    bare = name.removesuffix(f"@{PLAIN}")
    name, plain = bare, plain or bare != name
    if _is_path(name):
        return _in_folder(resources, str(Path(name).expanduser()), plain)
    match = _AT.match(name)
    requested = match["version"] if match else None
    if plain and requested:
        raise BundleError(
            f"{name} is a stored version, but the program before optimization is needed; leave out @{requested}."
        )
    source = _source(resources, match["name"] if match else name)
    version = None
    if not plain:
        version = resources.store.get(source.name, requested) if requested else resources.store.default(source.name)
    if version is None:
        return Target(name=source.name, version=None, module=source.plain(), plain=source.plain, task=source.task)
    module = load_program(version.bundle, source.plain)
    return Target(name=source.name, version=version.name, module=module, plain=source.plain, task=source.task)


def _in_folder(resources: Resources, folder: str, plain: bool) -> Target:
    bundle = read_bundle(Path(folder))
    made_from = bundle.manifest.task
    # A bundle may come from anywhere, so what it names is not imported: that would run code it chose.
    if _would_import(made_from):
        raise BundleError(
            f"{folder} was made from the code {made_from!r}, which is not imported because a file says so. "
            f"Name it yourself: {made_from}@<version>, or load it with load_program and its factory."
        )
    if "/" not in made_from and "->" not in made_from:
        raise BundleError(f"{folder} was made from a module, not a task; load it with load_program and its factory.")
    source = _source(resources, made_from)
    module = source.plain() if plain else load_program(bundle, source.plain)
    version = None if plain else folder
    return Target(
        name=source.name, version=version, module=module, plain=source.plain, task=source.task, folder=not plain
    )


def _is_path(name: str) -> bool:
    """Whether a name is written as a path. A folder that happens to be called like a task is not asked for by name."""
    return "->" not in name and (name in (".", "..") or name.startswith(("./", "../", "~")) or Path(name).is_absolute())


_KNOWN_TYPES = frozenset(
    {*vars(typing), "NoneType", "dspy"}
    | {"int", "str", "float", "bool", "list", "tuple", "dict", "set", "frozenset", "complex", "bytes", "bytearray"}
)
"""The names that DSPy looks up in a short form without importing a module of that name; `dspy` is imported already."""


def _would_import(name: str) -> bool:
    """Whether looking up `name` imports what it names. In a short form, DSPy imports types it does not know."""
    if "->" not in name:
        return ":" in name
    try:
        sides = [ast.parse(f"def f({side}): pass") for side in name.split("->")]
    except SyntaxError:
        return False  # no signature, which is an error when it is made
    return any(isinstance(node, ast.Name) and node.id not in _KNOWN_TYPES for side in sides for node in ast.walk(side))


def _source(resources: Resources, name: str) -> _Source:
    if "->" in name:
        signature = _short_form(name)
        return _Source(name=name.strip(), plain=lambda: dspy.Predict(signature))
    if ":" in name:
        imported = _imported(name)
        return _Source(name=name, plain=lambda: _program(imported, name))
    return _registered(resources, name)


def _registered(resources: Resources, name: str) -> _Source:
    try:
        task = resources.task(name)
        return _Source(name=task.name, plain=task.program, task=task)
    except UnknownNameError as error:
        remedy = error.remedy
    if name in resources.modules.names:
        return _Source(name=name, plain=lambda: resources.modules.get(name))
    try:
        signature = resources.signatures.get(name)
    except UnknownNameError as error:
        if Path(name).is_dir():
            remedy = f"There is a folder of this name: write ./{name} to mean it."
        tasks = resources.plugins.entries(TaskEntry)
        names = {*tasks, *error.known, *resources.modules.names}
        raise UnknownNameError("task or signature", name, names, remedy=remedy) from None
    contributed = resources.plugins.entries(SignatureEntry).values()
    qualified = [entry.qualified_name for entry in contributed if name in (entry.qualified_name, entry.entry.name)]
    return _Source(name=qualified[0] if len(qualified) == 1 else name, plain=lambda: dspy.Predict(signature))


def _short_form(text: str) -> Any:
    try:
        make: Any = dspy.Signature  # its metaclass takes the text
        return make(text)
    except (ValueError, SyntaxError, TypeError, NameError, AttributeError) as error:
        raise SignatureError(
            f'{text!r} is no signature: {error}. Expected names with types, such as "question, n: int -> answer".'
        ) from error


def _imported(name: str) -> Any:
    try:
        return resolve(name)
    except PluginError as error:
        raise PluginError(
            f"{name!r} cannot be imported: {error.__cause__}. Expected package.module:attribute, "
            "importable from the working folder."
        ) from error


def _program(imported: Any, name: str) -> dspy.Module:
    """A module, a signature, or what a factory makes of the two. A module in hand is copied."""
    if isinstance(imported, dspy.Module):
        return imported.deepcopy()
    if isinstance(imported, type) and issubclass(imported, dspy.Signature):
        return dspy.Predict(imported)
    program = imported() if callable(imported) else imported
    if isinstance(program, type) and issubclass(program, dspy.Signature):
        return dspy.Predict(program)
    if not isinstance(program, dspy.Module) or not program.predictors():
        raise PluginError(
            f"{name} is {program!r}; expected a dspy.Module with a predictor, a dspy.Signature, or a factory."
        )
    return program
