"""The composition root: settings, plugins, models, runs and stored programs come together here."""

from dspy_toolkit.framework.framework import DSPyFramework

__all__ = ["DSPyFramework"]
