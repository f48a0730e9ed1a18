"""The base of DSPy's callbacks. `dspy.utils.callback` is where DSPy's documentation imports it from."""

from dspy.utils.callback import BaseCallback

__all__ = ["BaseCallback"]
