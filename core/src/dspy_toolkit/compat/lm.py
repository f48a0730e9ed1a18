"""DSPy's own view of an LM's requests, and its process-wide cache."""

from typing import Any

import dspy
from dspy.clients.lm15_boundary import history_messages

__all__ = ["history_messages", "present_cache"]


def present_cache() -> Any:
    """DSPy's cache if there is one yet. Reading `dspy.cache` would make the default one in the home directory."""
    return vars(dspy).get("cache")
