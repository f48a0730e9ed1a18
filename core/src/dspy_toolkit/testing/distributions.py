"""A real distribution on disk, for tests of discovery."""

from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_distribution"]


def write_distribution(
    directory: Path,
    name: str,
    hooks: str,
    *,
    distribution: str | None = None,
    package: str | None = None,
    version: str = "1.0",
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write what an installed plugin looks like, and return `directory`, ready for `sys.path`.

    `name` is the project (the entry point's name), `hooks` the source of the hooks module. `distribution` defaults to
    `dspy-toolkit-<name>` and `package` to its import name; `files` are more modules of the package, from file name to
    source.
    """
    distribution = distribution or f"dspy-toolkit-{name}"
    package = package or distribution.replace("-", "_")
    root = directory / package
    root.mkdir(parents=True)
    for file, source in {"__init__.py": "", **(files or {}), "hooks.py": hooks}.items():
        (root / file).write_text(source, encoding="utf-8")
    info = directory / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(f"[dspy_toolkit]\n{name} = {package}.hooks\n", encoding="utf-8")
    return directory
