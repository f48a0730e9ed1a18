"""A stable hash of what a program's stored state depends on."""

import hashlib
import json
from typing import Any

import dspy
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

__all__ = ["fingerprint"]


def fingerprint(program_or_signature: Any) -> str:
    """Sixteen hex digits over the predictors' names and their fields' names, order, roles and types.

    Instructions and descriptions do not count: optimizing changes them. Equal in any process.
    """
    if isinstance(program_or_signature, dspy.Module):
        predictors = [(name, predictor.signature) for name, predictor in program_or_signature.named_predictors()]
    else:
        predictors = [("", program_or_signature)]
    content = [
        [
            name,
            [
                [role, field, _type(info.annotation)]
                for role in ("input", "output")
                for field, info in fields(role, signature)
            ],
        ]
        for name, signature in predictors
        for fields in [lambda role, signature: getattr(signature, f"{role}_fields").items()]
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _type(annotation: Any) -> Any:
    try:
        return TypeAdapter(annotation).json_schema()
    except PydanticUserError:
        return str(annotation)
