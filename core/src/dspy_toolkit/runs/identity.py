"""What a run was asked to do, as plain data that says whether resuming one is the same as making the other.

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

from dspy_toolkit.errors import BundleError
from dspy_toolkit.plugins import installed_plugins
from dspy_toolkit.programs.state import dump
from dspy_toolkit.runs.records import About
from dspy_toolkit.values import plain, shortened, type_name

__all__ = ["about", "differences", "packages", "state_digest", "state_of"]

_GIT_SECONDS = 5


def differences(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """What two identities differ in, in words."""
    requested = json.loads(json.dumps(dict(requested)))
    lines = []
    for name in {**recorded, **requested}:
        was, now = recorded.get(name), requested.get(name)
        if was == now:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            lines += [f"{name}.{line}" for line in differences(was, now)]
        else:
            lines.append(f"{name} was {_short(was)} and is now {_short(now)}")
    return lines


def about(options: Mapping[str, Any]) -> About:
    """What a run is made with, here and now. `options` are those that ask for it again (see `RunOptions`)."""
    return About(
        packages=packages(),
        python=platform.python_version(),
        machine={"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        git=_git(),
        options=plain(dict(options), fallback=type_name),
    )


def packages() -> dict[str, str]:
    """Versions of Python, DSPy, the toolkit and every plugin."""
    versions = {name: importlib_metadata.version(name) for name in ("dspy", "dspy-toolkit", "pydantic")}
    versions |= {plugin.distribution: plugin.version for plugin in installed_plugins()}
    return {"python": platform.python_version(), **dict(sorted(versions.items()))}


def state_of(program: dspy.Module) -> dict[str, Any] | None:
    """DSPy's state of a program, whatever an optimizer made it; None where it cannot be written down."""
    try:
        return dump(program)
    except BundleError:
        return None


def state_digest(program: dspy.Module) -> str | None:
    """Equal for programs with the same state; None where it cannot be written down."""
    state = state_of(program)
    if state is None:
        return None
    own = {name: part for name, part in state.items() if name != "metadata"}  # versions of packages, which DSPy adds
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _git() -> dict[str, Any] | None:
    commit = _git_says("rev-parse", "HEAD")
    if not commit:
        return None
    status = _git_says("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git_says(*words: str) -> str | None:
    try:
        git = subprocess.run(["git", *words], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() if git.returncode == 0 else None


def _short(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False))
