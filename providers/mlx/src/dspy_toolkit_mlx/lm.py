"""The LM of an MLXEngine: the completions of one call are handed in together, so their prompt is computed once."""

from contextlib import AbstractContextManager

from dspy_toolkit.engine import EngineLM
from dspy_toolkit_mlx.engine.burst import burst

__all__ = ["MLXLM"]


class MLXLM(EngineLM):
    """As `dspy.LM`, for an MLXEngine: `n` is one burst, each `rollout_id` and completion its own repeatable sample.

    With a seed (or a rollout_id) and temperature above 0, completion j of rollout r always draws the same noise.
    """

    def call_scope(self, n: int, rollout: int | None) -> AbstractContextManager[None]:
        return burst(n, rollout)
