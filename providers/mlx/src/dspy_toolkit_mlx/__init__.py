"""Run DSPy programs in process on MLX."""

from dspy_toolkit.hardware import load_fast_blas

__version__ = "0.1.0"

# Here, because it must precede the first import of mlx anywhere in this package. It maps one library: 3 ms.
load_fast_blas()
