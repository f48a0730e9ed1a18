"""DSPy's cache in a directory of ours, so that a rerun repeats no finished LM call."""

import os
from pathlib import Path

import dspy

from dspy_toolkit.compat.lm import present_cache
from dspy_toolkit.errors import SettingsError

__all__ = ["configure_cache"]


def configure_cache(directory: Path | str) -> None:
    """Point DSPy's process-wide cache at `directory`, which is made if needed, for this user only.

    Entries are read without executing pickles, so a cache directory from elsewhere cannot run code. DSPy's key holds
    the request and the model string and nothing of the engine; two models must not share a model string. Raises
    SettingsError when the directory cannot be used.
    """
    directory = Path(directory).expanduser().absolute()
    present = present_cache()
    if present is not None and present.disk_cache_dir == str(directory):
        return
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(directory))
        dspy.configure_cache(disk_cache_dir=str(directory), restrict_pickle=True)
    except OSError as error:
        raise SettingsError(
            f"The cache directory {directory} cannot be used ({error.strerror or error}); choose another one."
        ) from error
