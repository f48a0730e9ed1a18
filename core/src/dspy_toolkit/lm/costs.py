"""Setting on each prediction what its call cost, wherever DSPy calls the program."""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Optional

import dspy

from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.metrics.cost import CallCost

__all__ = ["CostRecorder"]


@dataclass(slots=True)
class _Open:
    """A module call in flight; `parent` is the call that made it."""

    call_id: str
    parent: Optional["_Open"]
    started: float = field(default_factory=time.perf_counter)
    answered: int = 0
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    generated: int = 0
    read: int = 0
    written: int = 0

    def note(self, outputs: Any) -> None:
        if not isinstance(outputs, dspy.Prediction):
            return
        outputs._toolkit_cost = CallCost(
            seconds=time.perf_counter() - self.started,
            lm_calls=self.generated,
            cache_hits=max(0, self.answered - self.generated),
            input_tokens=self.read,
            output_tokens=self.written,
        )
        outputs.set_lm_usage(self.tokens)


_OPEN: ContextVar[_Open | None] = ContextVar("dspy_toolkit_open_call", default=None)


class CostRecorder(BaseCallback):
    """Sets `_toolkit_cost`, and DSPy's own LM usage, on the prediction of every module call. Holds no state itself.

    `add_answer` must be called for every answer, `add_usage` for those that did not come from the cache.
    """

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        _OPEN.set(_Open(call_id, _OPEN.get()))

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        call = _OPEN.get()
        while call is not None and call.call_id != call_id:  # a call that another callback ended before it began
            call = call.parent
        if call is None:
            return
        _OPEN.set(call.parent)
        call.note(outputs)

    def recording(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, with its cost set on it: for one call of a program, without DSPy's callbacks."""
        opened = _Open("", _OPEN.get())
        token = _OPEN.set(opened)
        try:
            outputs = call()
        finally:
            _OPEN.reset(token)
        opened.note(outputs)
        return outputs

    def add_answer(self) -> None:
        """Count an answer, from the cache or not; called in the context of its call."""
        call = _OPEN.get()
        while call is not None:
            call.answered += 1
            call = call.parent

    def add_usage(self, model: str, usage: Mapping[str, Any]) -> None:
        read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        call = _OPEN.get()
        while call is not None:
            call.generated += 1
            call.read += read
            call.written += written
            tokens = call.tokens.get(model)
            if tokens is None:
                tokens = call.tokens[model] = {"prompt_tokens": 0, "completion_tokens": 0}
            tokens["prompt_tokens"] += read
            tokens["completion_tokens"] += written
            call = call.parent
