"""Programs that optimizers make out of other programs. They can be stored: see `dspy_toolkit.store.composite`."""

from dspy_toolkit.programs.nearest import Nearest
from dspy_toolkit.programs.vote import Vote

__all__ = ["Nearest", "Vote"]
