"""What DSPy keeps beside a program's state, how it marks a field without a type, and how it compares texts."""

from dspy.evaluate import normalize_text
from dspy.utils.constants import IS_TYPE_UNDEFINED
from dspy.utils.saving import get_dependency_versions

__all__ = ["IS_TYPE_UNDEFINED", "get_dependency_versions", "normalize_text"]
