"""What the trials need: the packages whose versions their results depend on, and how to get them."""

import sys

__all__ = ["INSTALL", "PACKAGES"]

PACKAGES = ("mlx", "mlx-lm", "numpy")

INSTALL = f"pip install 'dspy-toolkit-lora{'[cpu]' if sys.platform == 'linux' else ''}'"
"""On Linux mlx comes by an extra: its builds for CPUs and for GPUs exclude each other."""
