"""Programs made of a task's program by an optimizer (`dspy_toolkit.programs`), as state and back.

A bundle's state is that of one plain program, so that its factory, its fingerprint and plain DSPy know it. What makes
it more than that stands beside the state, in its metadata, which DSPy leaves alone:

    Nearest   all demonstrations are in the plain state; how many to show, and for each the text to compare with
    Vote      the first member is the plain state; the states of the others
"""

from collections.abc import Callable, Mapping
from typing import Any

import dspy

from dspy_toolkit.errors import BundleError
from dspy_toolkit.programs import state
from dspy_toolkit.programs.nearest import Nearest
from dspy_toolkit.programs.vote import Vote

__all__ = ["dump", "load", "plain_of"]

_KEY = "dspy_toolkit"


def plain_of(program: dspy.Module, inputs: Mapping[str, Any] | None = None) -> dspy.Module:
    """The plain program inside: a Nearest as it would answer `inputs`, a Vote's first member, else itself."""
    if isinstance(program, Nearest):
        return program.chosen(inputs) if inputs is not None else program.pooled()
    return program.programs[0] if isinstance(program, Vote) else program


def dump(program: dspy.Module) -> dict[str, Any]:
    """The state as plain data; see `state.dump`."""
    stored = state.dump(plain_of(program))
    if isinstance(program, Nearest):
        stored["metadata"][_KEY] = {"nearest": program.k, "entries": program.places()}
    if isinstance(program, Vote):
        stored["metadata"][_KEY] = {"vote": [state.dump(member) for member in program.programs[1:]]}
    return stored


def load(stored: Any, factory: Callable[[], dspy.Module], program: dspy.Module) -> dspy.Module:
    """The program of a state made by `dump`. `program` is a fresh one of the factory's and becomes part of it.

    Raises BundleError.
    """
    state.load(program, stored)
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
            state.load(members[-1], member)
        return Vote(members)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BundleError(f"what it says beside DSPy's state is damaged: {type(error).__name__}: {error}") from error
