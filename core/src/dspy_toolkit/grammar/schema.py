"""The JSON schema of a field's type, with what JSON schema leaves out and a grammar needs.

Extra keys:
    x-keys          of an object: the schema of its keys (pydantic leaves out `int`, `date`, ...)
    x-optional      of an object: its keys may be absent (a TypedDict's, which are then absent when printed)
    x-zone          of a date-time or time: "aware" or "naive"
    x-decimal       of a number: it is a Decimal, which is printed as a string; the decimal places it may have
"""

from typing import Any

import dspy
import pydantic
from pydantic.json_schema import GenerateJsonSchema

from dspy_toolkit.compat.adapters import Citations

__all__ = ["UnsupportedTypeError", "schema_of"]

_NOT_WRITTEN: Any = (dspy.Audio, Citations, dspy.File, dspy.History, dspy.Image, dspy.Tool)
_ON_DATES = ("gt", "ge", "lt", "le", "now_op")


class UnsupportedTypeError(ValueError):
    """A type that cannot be compiled, raised below the level that knows the field's name."""


def schema_of(annotation: Any) -> dict[str, Any]:
    """The schema of what pydantic accepts for `annotation`; raises UnsupportedTypeError if it has none."""
    try:
        return pydantic.TypeAdapter(annotation).json_schema(schema_generator=_Schema)
    except (pydantic.PydanticInvalidForJsonSchema, pydantic.PydanticUserError) as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedTypeError(f"pydantic has no schema for it: {reason}") from error


class _Schema(GenerateJsonSchema):
    ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}

    def model_schema(self, schema: Any) -> dict[str, Any]:
        if issubclass(schema["cls"], (dspy.Reasoning, dspy.Code)):
            return {"type": "string"}  # what they are printed as
        if issubclass(schema["cls"], _NOT_WRITTEN):
            raise UnsupportedTypeError(f"a language model does not write a dspy.{schema['cls'].__name__}")
        return super().model_schema(schema)

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        result = super().dict_schema(schema)
        if "keys_schema" in schema:
            result["x-keys"] = self.generate_inner(schema["keys_schema"])
        return result

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        return super().typed_dict_schema(schema) | {"x-optional": True}

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        result: dict[str, Any] = {"type": "number", "x-decimal": schema.get("decimal_places", 18)}
        names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
        result |= {name: str(schema[key]) for key, name in names.items() if key in schema}
        for key in ("max_digits", "multiple_of"):
            if key in schema:
                raise UnsupportedTypeError(f"{key} of a Decimal cannot be expressed; use ge, le and decimal_places")
        return result

    def date_schema(self, schema: Any) -> dict[str, Any]:
        return self._moment(schema, super().date_schema(schema))

    def time_schema(self, schema: Any) -> dict[str, Any]:
        return self._moment(schema, super().time_schema(schema))

    def datetime_schema(self, schema: Any) -> dict[str, Any]:
        return self._moment(schema, super().datetime_schema(schema))

    def timedelta_schema(self, schema: Any) -> dict[str, Any]:
        return self._moment(schema, super().timedelta_schema(schema))

    def _moment(self, schema: Any, result: dict[str, Any]) -> dict[str, Any]:
        bounds = [key for key in _ON_DATES if key in schema]
        if bounds:
            raise UnsupportedTypeError(
                f"{bounds[0]} of a {schema['type']} cannot be expressed; check it in the program"
            )
        return result | ({"x-zone": schema["tz_constraint"]} if "tz_constraint" in schema else {})
