"""An LM that reports its calls to a meter without DSPy's callbacks.

A copy of the LM whose class only adds the reports; engine, cache and settings are the LM's own. The class is swapped
because DSPy's callbacks, which are also called for every module and every step of the adapter, double what a row costs:
`benchmarks/evaluate.py` (500 rows, without a journal, processor time, in one run) measured 1.05 times `dspy.Evaluate`
with this and 2.39 times with callbacks.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, Self

import dspy

__all__ = ["LMCall", "metered", "other_lms"]


@dataclass(kw_only=True, slots=True)
class LMCall:
    """A call in flight. `n` is how many completions it asks for, `reserved` how many calls it holds of a budget."""

    model: str
    prompt: Any
    n: int
    chat: Sequence[Mapping[str, Any]] | None
    started: float = field(default_factory=time.perf_counter)
    reserved: int = 0

    @classmethod
    def of(cls, lm: Any, prompt: Any, messages: Any, options: Mapping[str, Any]) -> Self:
        n = options.get("n") or getattr(lm, "kwargs", {}).get("n") or 1
        return cls(model=str(getattr(lm, "model", "")), prompt=prompt, n=n if isinstance(n, int) else 1, chat=messages)

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """OpenAI-style, whichever way the call was made."""
        if self.chat is not None:
            return self.chat
        if isinstance(self.prompt, dspy.lm15.Request):
            from dspy_toolkit.compat.lm import history_messages

            return history_messages(self.prompt) or []
        return [{"role": "user", "content": str(self.prompt)}]


class CallObserver(Protocol):
    """What is told of every call, in the thread that makes it; what `begin` raises keeps the call from being made."""

    def begin(self, call: LMCall) -> None: ...

    def end(self, call: LMCall, outputs: Any, exception: BaseException | None) -> None: ...


class _Metered:
    """What is added to the LM's own class."""

    _toolkit_meter: CallObserver

    def __call__(self, prompt: Any = None, *, messages: Any = None, **options: Any) -> Any:
        call = LMCall.of(self, prompt, messages, options)
        meter = self._toolkit_meter
        meter.begin(call)
        outputs = raised = None
        try:
            outputs = super().__call__(prompt, messages=messages, **options)  # type: ignore[misc]
        except BaseException as error:
            raised = error
            raise
        finally:
            meter.end(call, outputs, raised)
        return outputs

    async def acall(self, prompt: Any = None, *, messages: Any = None, **options: Any) -> Any:
        call = LMCall.of(self, prompt, messages, options)
        meter = self._toolkit_meter
        meter.begin(call)
        outputs = raised = None
        try:
            outputs = await super().acall(prompt, messages=messages, **options)  # type: ignore[misc]
        except BaseException as error:
            raised = error
            raise
        finally:
            meter.end(call, outputs, raised)
        return outputs


def metered(lm: Any, meter: CallObserver) -> Any:
    """A copy of `lm` that reports its calls to `meter`, or None if it is no LM of DSPy's that could be copied."""
    if not isinstance(lm, dspy.BaseLM):
        return None
    copy = lm.copy()
    copy.__class__ = _metered_class(type(lm))
    copy.__dict__["_toolkit_meter"] = meter
    return copy


@cache
def _metered_class(cls: type) -> type:
    # Under its own name, by which DSPy finds the class again when it loads an LM's state.
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (_Metered, cls), own)


def other_lms(program: dspy.Module) -> bool:
    """Whether an LM hangs on `program` or anything in it: one that does not come from the context."""
    return any(isinstance(part, dspy.BaseLM) for part in _parts(program, set()))


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, dspy.Module):
        inner: Any = vars(value).values()
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple | set):
        inner = value
    else:
        return
    for part in inner:
        yield from _parts(part, seen)
