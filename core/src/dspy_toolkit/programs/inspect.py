"""What a program takes and asks, read from its code and predictors without running it."""

import inspect
from dataclasses import dataclass
from typing import cast

import dspy

from dspy_toolkit.compat.adapters import annotation_allows_none

__all__ = ["CallParameters", "call_parameters", "input_fields", "signatures_of"]


@dataclass(frozen=True, kw_only=True)
class CallParameters:
    """What a call of a program must and may give: `fields` to whether they are required; `others`, any besides."""

    fields: dict[str, bool]
    others: bool


def call_parameters(program: dspy.Module) -> CallParameters | None:
    """Read from `forward` or, for a dspy.Predict, its signature; None where neither says what the program takes."""
    if isinstance(program, dspy.Predict):
        return CallParameters(fields=input_fields(program), others=True)
    forward = getattr(type(program), "forward", None) or getattr(type(program), "aforward", None)
    if forward is None:
        return None
    kinds = {parameter.kind for parameter in inspect.signature(forward).parameters.values()}
    return CallParameters(fields=_forward_parameters(program), others=inspect.Parameter.VAR_KEYWORD in kinds)


def input_fields(program: dspy.Module) -> dict[str, bool]:
    """What a caller of `program` gives, in order: field name to whether a row must have it.

    `forward`'s named parameters where it has any; else the input fields of the program's own `signature`; else those of
    its predictors that no earlier predictor puts out. A field with a default, or whose type allows None, may be
    missing.
    """
    parameters = _forward_parameters(program)
    if parameters:
        return parameters
    own = getattr(program, "signature", None)
    signatures = [own] if own is not None else list(signatures_of(program).values())
    needed: dict[str, bool] = {}
    produced: set[str] = set()
    for signature in signatures:
        for name, info in signature.input_fields.items():
            if name not in produced:
                needed.setdefault(name, info.is_required() and not annotation_allows_none(info.annotation))
        produced.update(signature.output_fields)
    return needed


def signatures_of(program: dspy.Module) -> dict[str, type[dspy.Signature]]:
    """The signature of each predictor, by the predictor's name, in DSPy's order."""
    return {name: cast(type[dspy.Signature], predictor.signature) for name, predictor in program.named_predictors()}


def _forward_parameters(program: dspy.Module) -> dict[str, bool]:
    if isinstance(program, dspy.Predict):
        return {}
    forward = getattr(type(program), "forward", None)  # of the class: DSPy warns when an instance's is looked at
    parameters = list(inspect.signature(forward).parameters.values())[1:] if forward else []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in parameters
        if parameter.kind in kinds
    }
