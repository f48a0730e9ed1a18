"""The version of this package, for everything below its public face."""

__all__ = ["__version__"]

__version__ = "0.1.0"
