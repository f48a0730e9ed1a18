"""What is known of a language model before it is called."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspy_toolkit.lm.prices import Price, price_of
from dspy_toolkit.values import plain, type_name

__all__ = ["LMInfo"]

_OPTIONS = ("temperature", "max_tokens", "top_p", "seed", "stop")  # never keys or addresses


@dataclass(frozen=True, kw_only=True)
class LMInfo:
    """An LM's facts, read once per run: DSPy's LMs and those of others have them in different places, or not at all.

    `model` is the model string, or the class's name where there is none. `options` are the plain values, among those
    set, that decide what it answers. `cache` is whether DSPy keeps its answers; None where the LM does not say.
    `context_length` and `count_tokens` are its engine's, where it has them (see `context_window`).
    `uses_litellm` is that its calls go through LiteLLM.
    """

    model: str
    options: Mapping[str, Any]
    max_tokens: int | None
    cache: bool | None
    context_length: int | None
    count_tokens: Callable[[Sequence[Mapping[str, Any]]], int] | None
    uses_litellm: bool

    @classmethod
    def of(cls, lm: Any) -> "LMInfo":
        options: Mapping[str, Any] = getattr(lm, "kwargs", None) or {}
        cache: Any = getattr(lm, "cache", None)
        engine = getattr(lm, "engine", None)
        length = getattr(engine, "context_length", None)
        return cls(
            model=str(getattr(lm, "model", type(lm).__name__)),
            options=plain(
                {name: options[name] for name in _OPTIONS if options.get(name) is not None}, fallback=type_name
            ),
            max_tokens=options.get("max_tokens") or None,
            cache=None if cache is None else bool(cache),
            context_length=length if isinstance(length, int) else None,
            count_tokens=getattr(engine, "count_tokens", None),
            uses_litellm=hasattr(lm, "engine") and engine is None,
        )

    @property
    def provider(self) -> str:
        """The model string's part before the first slash; empty where it has none."""
        provider, slash, _ = self.model.partition("/")
        return provider if slash else ""

    @property
    def price(self) -> Price | None:
        """The list price, if the model has one; see `price_of`, which looks at what is imported by now."""
        return price_of(self.model)
