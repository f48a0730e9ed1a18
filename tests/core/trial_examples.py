"""Kinds of trials that behave and misbehave in every way a tool can, for the tests of the runner."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dspy_toolkit.trials import TrialContext, trial_kind


class Doubling(BaseModel):
    value: float
    log: Path


class Doubled(BaseModel):
    value: float
    process: int
    threads: str | None = None


@trial_kind("examples", packages=("pydantic",))
def double(trial: Doubling, context: TrialContext) -> Doubled:
    _append(trial.log, "ran\n")
    return Doubled(value=2 * trial.value, process=os.getpid(), threads=os.environ.get("OMP_NUM_THREADS"))


@dataclass(frozen=True)
class Gated:
    """A trial that runs until something is written to `gate`, a FIFO."""

    gate: str
    log: str
    number: int = 0


@trial_kind("examples")
def gated(trial: Gated, context: TrialContext) -> int:
    _append(trial.log, "ran\n")
    context.progress(0, 2)
    Path(trial.gate).read_text()
    context.progress(2, 2)
    return trial.number


@trial_kind("examples", time_limit=60)
def misbehave(how: str, context: TrialContext) -> Any:
    match how:
        case "exit":
            os._exit(3)
        case "exit with words":
            print("out of cheese", file=sys.stderr, flush=True)
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case "hang with children":
            child = subprocess.Popen(["sleep", "1000"])
            context.progress(child.pid, 0)
            threading.Event().wait()
        case "raise":
            raise ValueError("a batch of 4\nneeds 4 rows")
        case "raise without words":
            raise WordlessError
        case "exit as a command line does":
            sys.exit(2)
        case "read the input":
            return [sys.stdin.read(), os.read(0, 10).decode()]
        case "print":
            print('{"result": 1}')
            os.write(1, b'{"result": 2}\n')
            subprocess.run(["echo", '{"result": 3}'], check=True)
            sys.stderr.write("noise " * 100_000)
            return "printed"
        case "return an object":
            return object()
    return how


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@trial_kind("examples")
def identity(value: Any, context: TrialContext) -> Any:
    return value


@trial_kind("examples")
def promises_a_number(value: str, context: TrialContext) -> int:
    return value  # type: ignore[return-value]


@trial_kind("examples", time_limit=60)
def prepares(trial: Gated, context: TrialContext) -> str:
    """Trains a "base model" once: the file that FIFO `gate` lets it write."""

    def make(path: Path) -> None:
        _append(trial.log, "prepared\n")
        for step in range(3):
            context.progress(step, 3, "pretraining")
        path.write_text(Path(trial.gate).read_text())

    return context.prepared("base.txt", make).read_text()


@trial_kind("examples", packages=("pydantic", "no-such-package"), install="pip install 'examples[all]'")
def lacks_a_package(value: int, context: TrialContext) -> int:
    return value


@trial_kind("examples", install="pip install 'examples[all]'")
def imports_what_is_broken(value: int, context: TrialContext) -> int:
    raise ImportError("libexample.so: cannot open shared object file")


class BigNumber:
    """As numpy's numbers are."""

    def tolist(self) -> int:
        return 7


@trial_kind("examples")
def array_number(value: int, context: TrialContext) -> dict[str, Any]:
    return {"loss": BigNumber()}


def _append(path: str | Path, line: str) -> None:
    with open(path, "a") as log:
        log.write(line)
