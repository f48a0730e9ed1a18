"""A short hash that says whether a stored program's state still fits a program.

Covered, for every predictor of the program by name: the names, order, roles (input or output) and types of its fields;
of a type its structure: a model's field names and types, an enum's members, a Literal's values.

Not covered: instructions, descriptions, prefixes, defaults and constraints, which optimizers change or which leave old
state usable; the order of the predictors; anything that pydantic or DSPy compute, so that an upgrade changes nothing.
"""

import dataclasses
import enum
import hashlib
import json
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import dspy
from pydantic import BaseModel

__all__ = ["fingerprint", "structure", "type_structure"]

_LENGTH = 12


def fingerprint(program: dspy.Module | type[dspy.Signature]) -> str:
    """The hash of `structure(program)`, 12 hexadecimal digits. A signature's is that of `dspy.Predict(signature)`."""
    text = json.dumps(structure(program), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def structure(program: dspy.Module | type[dspy.Signature]) -> dict[str, list[list[str]]]:
    """What the fingerprint covers: for each predictor a list of [role, name, type]."""
    return {
        name: [
            [role, field, type_structure(info.annotation)]
            for role, fields in (("input", signature.input_fields), ("output", signature.output_fields))
            for field, info in fields.items()
        ]
        for name, signature in _signatures(program).items()
    }


def _signatures(program: dspy.Module | type[dspy.Signature]) -> dict[str, type[dspy.Signature]]:
    if isinstance(program, type):
        return {"self": program}
    return {name: predictor.signature for name, predictor in program.named_predictors()}  # type: ignore[return-value]


def type_structure(annotation: Any, within: tuple[type, ...] = ()) -> str:
    """A type in words that depend on nothing but the type. `within` holds the types around it, where recursion ends."""
    if annotation is None or annotation is type(None):
        return "None"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_structure(args[0], within)
    if origin is Literal:
        return f"Literal[{', '.join(f'{type(arg).__name__}:{arg}' for arg in args)}]"
    if origin in (Union, types.UnionType):
        return f"Union[{', '.join(type_structure(arg, within) for arg in args)}]"
    if origin is not None:
        inner = ", ".join("..." if arg is ... else type_structure(arg, within) for arg in args)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    if isinstance(annotation, TypeVar) or not isinstance(annotation, type):
        return getattr(annotation, "__name__", str(annotation))
    parts = _parts(annotation) if annotation not in within else None
    if not parts:
        return annotation.__name__
    inside = ", ".join(f"{key}: {_part(part, (*within, annotation))}" for key, part in parts.items())
    return f"{annotation.__name__}{{{inside}}}"


def _part(part: Any, within: tuple[type, ...]) -> str:
    return repr(part.value) if isinstance(part, enum.Enum) else type_structure(part, within)


def _parts(annotation: type) -> Mapping[str, Any] | None:
    """The fields of a structured type, or the members of an enum."""
    if issubclass(annotation, enum.Enum):
        return dict(annotation.__members__)
    # DSPy's own types (Image, History, ...) are DSPy's business; their fields may change with its version.
    if annotation.__module__.partition(".")[0] == "dspy":
        return None
    if issubclass(annotation, BaseModel):
        return {name: info.annotation for name, info in annotation.model_fields.items()}
    if dataclasses.is_dataclass(annotation) or is_typeddict(annotation) or hasattr(annotation, "_fields"):
        return get_type_hints(annotation)
    return None
