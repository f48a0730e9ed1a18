"""DSPy's cache in a directory of ours, so that a rerun repeats no finished LM call."""

from pathlib import Path

__all__ = ["configure_cache"]


def configure_cache(directory: Path) -> None:
    """Point DSPy's process-wide cache at `directory` (made if needed), refusing pickles that are not plain data.

    Raises SettingsError when the directory cannot be written.
    """
    raise NotImplementedError
