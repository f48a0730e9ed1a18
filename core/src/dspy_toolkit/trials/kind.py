"""A kind of trial: a function with a typed input and a typed result that the worker process runs.

class Replay(BaseModel):
    pressure: int

@trial_kind("weather", packages=("numpy",), time_limit=60)
def replay(trial: Replay, context: TrialContext) -> float:
    import numpy as np  # heavy imports stay inside: callers import this module too
    ...

run_trial(replay, Replay(pressure=1002))
"""

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter

from dspy_toolkit.errors import TrialError
from dspy_toolkit.trials.fingerprint import code_digest, package_versions

__all__ = ["TrialContext", "TrialKind", "TrialProgress", "trial_kind"]

Input = TypeVar("Input")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """How far a trial is, or a one-time preparation such as pretraining: `completed` of `total` in `stage`."""

    stage: str
    completed: int
    total: int
    preparing: bool = False


class TrialContext:
    """What a trial's function may use besides its input. Lives in the worker process, for one trial."""

    def __init__(self, folder: Path, packages: Sequence[str], report: Callable[[TrialProgress], None]):
        self.folder = folder
        """The domain's cache folder: for files that can be made again."""
        self._packages = tuple(packages)
        self._report = report
        self._preparing = False

    def progress(self, completed: int, total: int, stage: str = "trial") -> None:
        """Report progress to whoever waits for this trial. During a preparation it restarts the time limit."""
        self._report(TrialProgress(stage=stage, completed=completed, total=total, preparing=self._preparing))

    def prepared(self, name: str, make: Callable[[Path], None]) -> Path:
        """A file that is made once per machine: its path, after `make(path)` wrote it if it was not there.

        The file is whole or absent: `make` writes to another path with the same ending. It is made anew when the
        module that defines `make`, a module that one imports, or a package of the kind changes. Time spent here does
        not count towards the time limit, as long as `progress` is called now and then.
        """
        code = make.func if isinstance(make, partial) else make
        versions = "-".join(package_versions(self._packages).values())
        path = (
            self.folder / "prepared" / f"{Path(name).stem}-{code_digest(code.__module__)}-{versions}{Path(name).suffix}"
        )
        if path.exists():
            return path
        self._preparing = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as temporary:
                make(Path(temporary) / path.name)
                (Path(temporary) / path.name).replace(path)
            self._report(TrialProgress(stage=f"preparing {name}", completed=1, total=1, preparing=True))
        finally:
            self._preparing = False
        return path


@dataclass(frozen=True, kw_only=True)
class TrialKind(Generic[Input, Result]):
    """A declared kind of trial. Calling it runs the function here; `run_trial` runs it in the domain's worker."""

    domain: str
    function: Callable[[Input, TrialContext], Result]
    packages: tuple[str, ...]
    install: str
    time_limit: float

    def __call__(self, trial: Input, context: TrialContext) -> Result:
        return self.function(trial, context)

    @property
    def name(self) -> str:
        """`lora/training`, for messages and folders."""
        return f"{self.domain}/{self.function.__name__}"

    @property
    def module(self) -> str:
        """The importable module that declares the kind. Raises TrialError for a script, which no process can import."""
        if self.function.__module__ != "__main__":
            return self.function.__module__
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            raise TrialError(
                f"The trial {self.name} is defined in a script, which its worker process cannot import. "
                "Move it into a module."
            )
        return spec.name

    @property
    def reference(self) -> str:
        """`package.module:function`, which the worker imports."""
        return f"{self.module}:{self.function.__qualname__}"

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the kind's packages. Raises TrialError that says what to install."""
        try:
            return package_versions(self.packages)
        except TrialError as error:
            remedy = f" Do: {self.install}" if self.install else ""
            raise TrialError(f"The trial {self.name} cannot run: {error}{remedy}") from None

    @cached_property
    def input_adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self._types[0])

    @cached_property
    def result_adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self._types[1])

    @cached_property
    def _types(self) -> tuple[Any, Any]:
        hints = get_type_hints(self.function)
        result = hints.pop("return", Any)
        return next(iter(hints.values()), Any), result


def trial_kind(
    domain: str, *, packages: Sequence[str] = (), install: str = "", time_limit: float = 300.0
) -> Callable[[Callable[[Input, TrialContext], Result]], TrialKind[Input, Result]]:
    """Declare a function `(input, context) -> result` as a kind of trial of this domain.

    Input and result are what pydantic can write as JSON: models, data classes, plain values; floats may be infinite or
    NaN. `packages` are the distributions whose versions the result depends on; `install` is the command that brings
    them. `time_limit` is in seconds, for one trial without its preparations. The function must be at the top level of
    an importable module. Results are cached, so equal inputs must give equal results up to noise.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", domain):
        raise TrialError(f"A trial's domain is {domain!r}; expected a project's name: letters, digits, - and _.")

    def declare(function: Callable[[Input, TrialContext], Result]) -> TrialKind[Input, Result]:
        if "<locals>" in function.__qualname__:
            raise TrialError(
                f"The trial {function.__qualname__} is defined inside a function, where its worker process cannot "
                "import it. Move it to the top level of its module."
            )
        return TrialKind(
            domain=domain, function=function, packages=tuple(packages), install=install, time_limit=time_limit
        )

    return declare
