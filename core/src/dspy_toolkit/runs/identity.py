"""What a run was asked to do, as plain data that says whether going on with one is the same as making the other.

identity   decides the outcome: two runs with equal ones are the same run
about      does not: what it was made with, for people who want to make it again
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import dspy
import importlib_metadata
from pydantic_core import to_jsonable_python

from dspy_toolkit.errors import BundleError

__all__ = ["about", "differences", "packages", "state_digest", "state_of"]

_GIT_SECONDS = 5


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two identities differ in, in words."""
    plain = json.loads(json.dumps(dict(now)))
    found = []
    for name in {**before, **plain}:
        was, is_ = before.get(name), plain.get(name)
        if was == is_:
            continue
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            found += [f"{name}.{each}" for each in differences(was, is_)]
        else:
            found.append(f"{name} was {_short(was)} and is now {_short(is_)}")
    return found


def about(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is made with. `options` are those that ask for it again, as `DSPyFramework.optimize_task` takes
    them.
    """
    return {
        "packages": packages(),
        "python": platform.python_version(),
        "machine": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "git": _git(),
        "options": _plain(dict(options)),
    }


def packages() -> dict[str, str]:
    """Versions of Python, DSPy, the toolkit and every plugin."""
    names = {"dspy", "dspy-toolkit", "pydantic"}
    names |= {point.dist.name for point in importlib_metadata.entry_points(group="dspy_toolkit") if point.dist}
    found = {name: importlib_metadata.version(name) for name in sorted(names)}
    return {"python": platform.python_version(), **found}


def state_of(program: dspy.Module) -> dict[str, Any] | None:
    """DSPy's state of a program, whatever an optimizer made it; None where it cannot be written down."""
    from dspy_toolkit.programs import composite  # which imports results, and they are made here

    try:
        return composite.dump(program)
    except BundleError:
        return None


def state_digest(program: dspy.Module) -> str | None:
    """Equal for programs with the same state; None where it cannot be written down."""
    state = state_of(program)
    if state is None:
        return None
    own = {name: part for name, part in state.items() if name != "metadata"}  # there DSPy notes versions of packages
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _git() -> dict[str, Any] | None:
    commit = _git_says("rev-parse", "HEAD")
    if not commit:
        return None
    status = _git_says("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git_says(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _plain(value: Any) -> Any:
    # Not the repr: it may hold an address, which is another one in the process that goes on.
    return to_jsonable_python(value, fallback=lambda other: f"<{type(other).__module__}.{type(other).__qualname__}>")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
