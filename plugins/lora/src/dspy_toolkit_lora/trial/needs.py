"""What the trials need: packages that work in the worker process, and the command that brings them."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dspy_toolkit.errors import TrialError
from dspy_toolkit.trials import TrialContext, TrialRunner, trial_kind
from dspy_toolkit.types import Check

__all__ = ["INSTALL", "PACKAGES", "doctor", "ready"]

PACKAGES = ("mlx", "mlx-lm", "numpy")
"""The packages whose versions a trial's result depends on."""

INSTALL = f"pip install 'dspy-toolkit-lora{'[cpu]' if sys.platform == 'linux' else ''}'"
"""On Linux mlx comes by an extra: its builds for CPUs and for GPUs exclude each other."""


@trial_kind("lora", packages=PACKAGES, install=INSTALL)
def ready(_: None, context: TrialContext) -> str:
    """Import what the other trials need, and name the device they run on. Costs a second, once."""
    from dspy_toolkit.hardware import load_fast_blas

    blas = load_fast_blas()  # before mlx is imported
    import mlx.core as mx
    import mlx_lm.tuner.trainer  # noqa: F401

    mx.eval(mx.ones((2, 2), stream=mx.cpu) @ mx.ones((2, 2), stream=mx.cpu))
    return f"MLX trains on the CPU. {blas}"


def doctor() -> Iterator[Check]:
    """Whether trials run on this machine: asked of a new worker process, not of the cache."""
    with tempfile.TemporaryDirectory() as folder:
        runner = TrialRunner("lora", folder=Path(folder))
        try:
            yield Check(name="trials", ok=True, detail=runner.run(ready, None))
        except TrialError as error:
            detail, _, command = str(error).partition(" Do: ")
            yield Check(name="trials", ok=False, detail=detail, remedy=command or INSTALL)
        finally:
            runner.close()
