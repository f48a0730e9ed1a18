"""What calls of language models used: one call, and sums over many. No DSPy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Call", "Usage"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a stretch of work asked of its LMs.

    `lm_calls` are calls that were not answered from the cache, `failures` those of them that raised (after DSPy's
    retries). Tokens are as the engine reports them; cache hits and failures add none. `cost` is in US dollars, for the
    models that have a list price.
    """

    lm_calls: int = 0
    cache_hits: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__})

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


@dataclass(kw_only=True, slots=True)
class Call:
    """One LM call that ended. `messages` are OpenAI-style, `outputs` as DSPy has them; `seconds` include retries.

    Not to be changed. It is not frozen, because a frozen one takes four times as long to make and every call has one.
    """

    model: str
    seconds: float
    cached: bool
    messages: Sequence[Mapping[str, Any]]
    outputs: Sequence[Any] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    error: str | None = None
