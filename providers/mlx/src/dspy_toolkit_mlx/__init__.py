"""Run DSPy programs in process on MLX."""

__version__ = "0.1.0"
