"""`python -m dspy_toolkit.tracking RUN-FOLDER`: send one run to MLflow while it is written, then others left unsent."""

import argparse
import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.tracking.state import TrackingState, read_state, write_state
from dspy_toolkit.tracking.target import Target

LINGER = 20.0  # seconds a server has to come back after the run's end
OTHER_SENDER = 120.0  # seconds to wait for an earlier sender of the same run, which a resumed run may meet


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dspy_toolkit.tracking", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--target", choices=["-"], help="read where to send to, as JSON, from standard input")
    given = parser.parse_args()
    if hasattr(os, "nice"):
        os.nice(10)  # the run comes first
    try:
        target = Target(**json.load(sys.stdin)) if given.target else _configured()
        _say_early(given.folder, target)
        return _send(given.folder, target)
    except (ToolkitError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _configured() -> Target:
    from dspy_toolkit.settings import DSPyConfig

    return Target.of(DSPyConfig())


def _say_early(folder: Path, target: Target) -> None:
    """A server that is not there is noted before anything large is imported, so that a short run can still tell."""
    if problem := target.unreachable():
        state = read_state(folder) or TrackingState(target=target.public)
        write_state(folder, replace(state, problem=problem))


def _send(folder: Path, target: Target) -> int:
    from dspy_toolkit.tracking.sender import Sender, prepare_mlflow, unsent

    prepare_mlflow()
    if not Sender(folder, target, linger=LINGER).send(wait=OTHER_SENDER):
        return 1
    for other in unsent(folder.parent):
        with contextlib.suppress(ToolkitError):  # its problem is in its own tracking.json
            if not Sender(other, target).send():
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
