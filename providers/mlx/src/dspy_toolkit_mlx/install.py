"""The command that brings MLX to this machine: on Linux its backend is an extra."""

import sys
from pathlib import Path

__all__ = ["has_nvidia", "install_command"]


def install_command() -> str:
    if sys.platform != "linux":
        return "pip install --force-reinstall mlx"
    return f"pip install 'dspy-toolkit-mlx[{'cuda13' if has_nvidia() else 'cpu'}]'"


def has_nvidia() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))
