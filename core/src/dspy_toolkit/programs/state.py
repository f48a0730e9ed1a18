"""A program's state as plain JSON data, and back, so that it sends the same prompt byte for byte.

DSPy saves an LM with the state, matches fields by position, and brings pydantic objects and dates in demonstrations
back as dictionaries and texts. Here no LM is in the state, the caller has compared names (`store.shape`), and values
are turned back into the types of their fields.
"""

import json
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json
from dspy.utils.saving import get_dependency_versions
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from dspy_toolkit.data.splits import signatures_of
from dspy_toolkit.errors import BundleError

__all__ = ["dump", "load"]


def dump(program: dspy.Module) -> dict[str, Any]:
    """The state as plain data, in the form of DSPy's own `save`, so that plain DSPy's `load` takes it too.

    Raises BundleError naming the demonstration that JSON cannot hold.
    """
    copy = program.deepcopy()
    copy.set_lm(None)
    state = copy.dump_state()
    parts = _by_predictor(copy, state)
    for name, predictor in copy.named_predictors():
        demos = [_plain_demo(demo, f"{name}, demonstration {n}") for n, demo in enumerate(predictor.demos, start=1)]
        parts[name].update(traces=[], train=[], demos=demos)
    return {**state, "metadata": {"dependency_versions": get_dependency_versions()}}


def load(program: dspy.Module, state: Any) -> None:
    """Put `state`, made by `dump`, into `program`, which must have the shape of the one it was dumped from.

    Raises BundleError if the state is not one of DSPy's, or brings an LM.
    """
    if not isinstance(state, dict):
        raise BundleError("it is not a JSON object")
    state = {name: part for name, part in state.items() if name != "metadata"}
    parts = _by_predictor(program, state)
    for name, _ in program.named_predictors():
        part = parts.get(name)
        if not part:
            raise BundleError(f"it holds no state for the predictor {name!r}")
        demos = part.get("demos") if isinstance(part, dict) else None
        if not isinstance(demos, list) or not all(isinstance(demo, dict) for demo in demos):
            raise BundleError(f"the state of {name!r} is not what DSPy saves")
        if part.get("lm") is not None:
            raise BundleError(f"the state of {name!r} brings an LM, which a bundle must not")
    try:
        program.load_state(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"DSPy cannot load the state: {type(error).__name__}: {error}") from error
    signatures = signatures_of(program)
    for name, predictor in program.named_predictors():
        fields = signatures[name].fields
        predictor.demos = [
            dspy.Example(
                **{
                    key: _typed(value, fields[key].annotation) if key in fields else value
                    for key, value in demo.items()
                }
            )
            for demo in predictor.demos
        ]


def _by_predictor(program: dspy.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A program that is one predictor has that predictor's state, without its name."""
    return {"self": state} if isinstance(program, dspy.Predict) else state


def _plain_demo(demo: Mapping[str, Any], where: str) -> dict[str, Any]:
    plain = {}
    for key, value in demo.items():
        plain[key] = TypeAdapter(type(value)).dump_python(value, mode="json", fallback=str)
        try:
            json.dumps(plain[key], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BundleError(f"The field {key!r} of {where} cannot be stored as JSON: {error}.") from error
    return plain


def _typed(value: Any, annotation: Any) -> Any:
    """The value as its field's type, if that is what it was: it must render as the stored data does."""
    if annotation is str:
        return value
    try:
        converted = TypeAdapter(annotation).validate_json(json.dumps(value))
    except (ValidationError, PydanticUserError, ValueError):  # demonstrations may hold what a small model wrote
        return value
    return converted if _text(serialize_for_json(converted)) == _text(value) else value


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)
