"""A real distribution on disk, for tests of discovery."""

from pathlib import Path

__all__ = ["plugin_distribution"]


def plugin_distribution(
    directory: Path, name: str, hooks: str, *, distribution: str | None = None, version: str = "1.0"
) -> Path:
    """Write package `dspy_toolkit_<name>` with `hooks.py` and its dist-info under `directory`; returns the directory for sys.path."""
    raise NotImplementedError
