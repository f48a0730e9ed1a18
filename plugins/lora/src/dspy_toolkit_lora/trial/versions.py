"""What a trial's result depends on besides its plan and its text: the code that makes it."""

import hashlib
from functools import cache
from importlib import resources

from importlib_metadata import version

__all__ = ["code_digest"]

_CODE = ("trial/base.py", "scenarios/corpus.py", "trial/worker.py")


@cache
def code_digest() -> str:
    """A short digest of the training code and the versions of MLX and mlx-lm. Imports neither."""
    digest = hashlib.sha256()
    for name in _CODE:
        digest.update(resources.files("dspy_toolkit_lora").joinpath(name).read_bytes())
    digest.update(f"{version('mlx')} {version('mlx-lm')}".encode())
    return digest.hexdigest()[:16]
