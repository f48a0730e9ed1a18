"""How DSPy's adapters write and read the values of fields."""

from dspy.adapters.base import _expand_legacy_custom_type_markers_in_chat_message as expand_custom_types
from dspy.adapters.types.citation import Citations
from dspy.adapters.utils import (
    annotation_allows_none,
    format_field_value,
    get_annotation_name,
    parse_value,
    serialize_for_json,
)

__all__ = [
    "Citations",
    "annotation_allows_none",
    "expand_custom_types",
    "format_field_value",
    "get_annotation_name",
    "parse_value",
    "serialize_for_json",
]
