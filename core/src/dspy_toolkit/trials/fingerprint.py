"""What a result depends on besides its input: the code that computes it and the packages that code calls."""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from importlib_metadata import PackageNotFoundError, version

from dspy_toolkit.errors import TrialError

__all__ = ["code_digest", "package_versions"]


@cache
def code_digest(module: str) -> str:
    """A digest of a module's source and of every module of the same package that it imports, directly or not.

    Sources are read, not imported: imports inside functions count, and nothing heavy is loaded. Data files do not
    count; a kind that reads one should take its content as input.
    """
    root = module.partition(".")[0]
    spec = find_spec(root)
    if spec is None:
        raise TrialError(f"The trial's module {module} cannot be found.")
    folders = [Path(location) for location in spec.submodule_search_locations or ()]
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file(name, folders) if folders else Path(spec.origin or "")
        if name in sources or file is None or not file.is_file():
            continue
        sources[name] = file.read_bytes()
        imported = _imports(sources[name], name if file.name == "__init__.py" else name.rpartition(".")[0])
        waiting += [ancestor for name in imported if name.partition(".")[0] == root for ancestor in _ancestors(name)]
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    return digest.hexdigest()[:16]


@cache
def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each distribution. Raises TrialError that names all that are missing."""
    versions, missing = {}, []
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise TrialError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed.")
    return versions


def _file(module: str, folders: Sequence[Path]) -> Path | None:
    """The source file of a module below the root package's folders. Looks at files only: it imports nothing."""
    for folder in folders:
        path = folder.joinpath(*module.split(".")[1:])
        for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _imports(source: bytes, package: str) -> Iterator[str]:
    """The dotted names that a module in `package` imports; some are names inside modules rather than modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _ancestors(module: str) -> list[str]:
    """The module and the packages around it, whose `__init__` runs when it is imported."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
