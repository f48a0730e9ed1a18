"""Whether outputs keep to their types and constraints."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import dspy
from pydantic import TypeAdapter, ValidationError

from dspy_toolkit.errors import MetricError
from dspy_toolkit.metrics.score import Score

__all__ = ["SchemaValidity"]


class SchemaValidity:
    """The share of the fields that are valid, checked by pydantic. Needs no labels.

    `schema` is a signature, whose output fields are checked with their constraints (`OutputField(ge=0)`), which DSPy
    itself only writes into the prompt; or field names with types, for fields of text that should hold JSON of some
    shape: `{"config": LoRAConfig}`. Text is read as JSON where the type is not text. An empty but valid answer scores
    1: multiply it with a metric of the content.
    """

    def __init__(self, schema: type[dspy.Signature] | Mapping[str, Any]):
        types = schema if isinstance(schema, Mapping) else _output_types(schema)
        if not types:
            raise MetricError("There is no field to check; give a signature with outputs, or types by field name.")
        self._adapters = {field: TypeAdapter(annotation) for field, annotation in types.items()}
        self.__name__ = f"SchemaValidity({', '.join(self._adapters)})"

    def __call__(self, gold: dspy.Example, pred: dspy.Prediction, trace: Any = None) -> Score:
        problems = {field: self._problem(field, pred) for field in self._adapters}
        found = [f"{field!r}: {problem}." for field, problem in problems.items() if problem]
        return Score(
            score=1 - len(found) / len(problems), feedback=" ".join(found) or "All fields keep to their types."
        )

    def _problem(self, field: str, pred: dspy.Prediction) -> str:
        if field not in pred:
            return "missing"
        adapter, value = self._adapters[field], pred[field]
        try:
            _validate(adapter, value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            return f"{first['msg']}{f' at {place}' if place else ''}, got {str(value)[:100]!r}"
        return ""


def _output_types(signature: type[dspy.Signature]) -> dict[str, Any]:
    return {
        name: Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        for name, info in signature.output_fields.items()
    }


def _validate(adapter: TypeAdapter[Any], value: Any) -> None:
    """Python data strictly, so that "3" is no number; text that is no valid value as the JSON that it may spell."""
    if isinstance(value, str):
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            try:
                json.loads(value)
            except ValueError:
                raise error from None
            adapter.validate_json(value)
    else:
        adapter.validate_python(value, from_attributes=False)
