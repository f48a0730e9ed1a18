"""A `dspy.LM` that tells its engine what DSPy keeps to itself: how many completions a call wants, which rollout it is.

DSPy asks an engine for `n` completions one after another with the same request, and uses `rollout_id` for its cache
alone. Both are known where the call is made; a context variable carries them to the engine, which hands all `n` in at
the first question and so computes their prompt once.
"""

from typing import Any

import dspy

from dspy_toolkit_mlx.engine.burst import burst

__all__ = ["MLXLM"]


class MLXLM(dspy.LM):
    """As `dspy.LM`, for an MLXEngine: `n` is one burst, each `rollout_id` and completion its own repeatable sample.

    With a seed (or a rollout_id) and temperature above 0, completion j of rollout r always draws the same noise.
    """

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with burst(*self._sampling(kwargs)):
            return super().__call__(prompt, messages=messages, **kwargs)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with burst(*self._sampling(kwargs)):
            return await super().acall(prompt, messages=messages, **kwargs)

    def _sampling(self, kwargs: dict[str, Any]) -> tuple[int, int | None]:
        merged = {**self.kwargs, **kwargs}
        n, rollout = merged.get("n"), merged.get("rollout_id")
        return (n if isinstance(n, int) and n > 0 else 1), (rollout if isinstance(rollout, int) else None)
