"""A program's state as plain JSON data, and back, so that it sends the same prompt byte for byte.

DSPy saves an LM with the state, matches fields by position, and brings pydantic objects and dates in demonstrations
back as dictionaries and texts. Here no LM is in the state, the caller has compared names (`store.shape`), and values
are turned back into the types of their fields.

The state is that of one plain program, so that its factory, its fingerprint and plain DSPy know it. What an optimizer
made of it stands beside the state, in its metadata, which DSPy leaves alone:

    Nearest   all demonstrations are in the plain state; how many to show, and for each the text to compare with
    Vote      the first member is the plain state; the states of the others
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NotRequired

import dspy
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from dspy_toolkit.compat.adapters import serialize_for_json
from dspy_toolkit.compat.programs import get_dependency_versions
from dspy_toolkit.errors import BundleError
from dspy_toolkit.programs.inspect import signatures_of
from dspy_toolkit.programs.nearest import Nearest
from dspy_toolkit.programs.own_lms import own_lms, unpinned
from dspy_toolkit.programs.vote import Vote

__all__ = ["dump", "load", "load_plain", "plain_of"]

_KEY = "dspy_toolkit"


class _FieldState(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    prefix: str
    description: str


class _SignatureState(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    instructions: str
    fields: list[_FieldState]


class _PredictorState(TypedDict):
    """What DSPy saves of a predictor, less its LM. `fields` are the weights of decisions, which DSPy checks itself."""

    signature: _SignatureState
    demos: list[dict[str, Any]]
    fields: NotRequired[dict[str, Any]]


_STATE = TypeAdapter(_PredictorState)
_PREDICTOR_KEYS = frozenset({"demos", "fields", "lm", "signature", "traces", "train"})


def plain_of(program: dspy.Module, inputs: Mapping[str, Any] | None = None) -> dspy.Module:
    """The plain program inside: a Nearest as it would answer `inputs`, a Vote's first member, else itself."""
    if isinstance(program, Nearest):
        return program.chosen(inputs) if inputs is not None else program.pooled()
    return program.programs[0] if isinstance(program, Vote) else program


def dump(program: dspy.Module) -> dict[str, Any]:
    """The state as plain data, in the form of DSPy's own `save`, so that plain DSPy's `load` takes it too.

    Raises BundleError naming the demonstration that JSON cannot hold.
    """
    stored = _dump_plain(plain_of(program))
    if isinstance(program, Nearest):
        stored["metadata"][_KEY] = {"nearest": program.k, "entries": program.places()}
    if isinstance(program, Vote):
        stored["metadata"][_KEY] = {"vote": [_dump_plain(member) for member in program.programs[1:]]}
    return stored


def load(stored: Any, factory: Callable[[], dspy.Module], program: dspy.Module) -> dspy.Module:
    """The program of a state made by `dump`. `program` is a fresh one of the factory's and becomes part of it.

    Raises BundleError.
    """
    load_plain(program, stored)
    extra = stored.get("metadata", {}).get(_KEY) if isinstance(stored.get("metadata"), dict) else None
    if extra is None:
        return program
    try:
        if "nearest" in extra:
            entries = [
                (str(text), {str(name): int(at) for name, at in places.items()}) for text, places in extra["entries"]
            ]
            return Nearest.placed(program, entries, k=int(extra["nearest"]))
        members = [program]
        for member in extra["vote"]:
            members.append(factory())
            load_plain(members[-1], member)
        return Vote(members)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BundleError(f"what it says beside DSPy's state is damaged: {type(error).__name__}: {error}") from error


def _dump_plain(program: dspy.Module) -> dict[str, Any]:
    copy = unpinned(program.deepcopy())
    copy.set_lm(None)
    state = copy.dump_state()
    parts = _by_predictor(copy, state)
    for name, predictor in copy.named_predictors():
        demos = [_plain_demo(demo, f"{name}, demonstration {n}") for n, demo in enumerate(predictor.demos, start=1)]
        parts[name].update(traces=[], train=[], demos=demos)
    return {**state, "metadata": {"dependency_versions": get_dependency_versions()}}


def load_plain(program: dspy.Module, state: Any) -> None:
    """Put `state`, made by `dump`, into `program`, which must have the shape of the one it was dumped from.

    Raises BundleError if the state is not one of DSPy's, or brings an LM.
    """
    if not isinstance(state, dict):
        raise BundleError("it is not a JSON object")
    state = {name: part for name, part in state.items() if name != "metadata"}
    parts = _by_predictor(program, state)
    for name, _ in program.named_predictors():
        if not parts.get(name):
            raise BundleError(f"it holds no state for the predictor {name!r}")
        _check_predictor(name, parts[name])
    lms = own_lms(program)  # which its class sets; DSPy replaces them by those of the state
    try:
        program.load_state(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"DSPy cannot load the state: {type(error).__name__}: {error}") from error
    signatures = signatures_of(program)
    for name, predictor in program.named_predictors():
        predictor.lm = lms.get(name)
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


def _check_predictor(name: str, part: Any) -> None:
    """Raise BundleError unless `part` holds only what a state may hold: DSPy sets every other key as an attribute, so
    that a stranger's `config` with an address would get the next call, and the key that goes with it.
    """
    if not isinstance(part, dict):
        raise BundleError(f"the state of {name!r} is not what DSPy saves")
    if foreign := sorted(set(part) - _PREDICTOR_KEYS):
        raise BundleError(
            f"the state of {name!r} holds {', '.join(map(repr, foreign))}, which a bundle must not; "
            f"it may hold {', '.join(sorted(_PREDICTOR_KEYS))}"
        )
    if part.get("lm") is not None:
        raise BundleError(f"the state of {name!r} brings an LM, which a bundle must not")
    if part.get("traces") or part.get("train"):
        raise BundleError(f"the state of {name!r} brings traces or training rows, which a bundle does not have")
    try:
        _STATE.validate_python(part)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise BundleError(f"the state of {name!r} is not what DSPy saves: {where}: {problem['msg']}") from error


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
