"""What an engine offers beyond DSPy's contract, so that a provider written anywhere gets the same service.

    adapter ──grammar_of(request)──► engine: supports_grammar
    optimizer ──count_tokens, context_length──► engine: prompts that fit
    EngineLM ──current_call()──► engine: which of n completions, of which rollout

All of it is optional: an engine without an attribute is used as any other `dspy.LM`. docs/providers.md explains each
part, and examples/dspy-toolkit-dice is a whole provider with all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import dspy
from dspy.lm15 import InvalidRequestError, Request, Response

from dspy_toolkit.errors import GrammarError
from dspy_toolkit.grammar.answer import AnswerField, AnswerGrammar

__all__ = [
    "AnswerField",
    "AnswerGrammar",
    "CountingEngine",
    "EngineCall",
    "EngineLM",
    "GuidedEngine",
    "current_call",
    "grammar_of",
    "supports_grammar",
    "thinking_tokens_of",
]


@runtime_checkable
class GuidedEngine(Protocol):
    """An engine whose answers follow `grammar_of(request)`.

    With `supports_grammar` true the guided adapters send a grammar and trust the answer: it must be a whole sentence of
    the grammar, or the call must fail. An answer that was closed early because `max_tokens` ran out is a sentence too.
    A request with tools may be answered by a tool call in place of the grammar's text.
    """

    supports_grammar: bool

    def complete(self, request: Request) -> Response:
        """One answer. Raises `dspy.lm15` errors: InvalidRequestError for a grammar that does not compile,
        ContextLengthError for a prompt that leaves no token to answer, UnsupportedFeatureError by the field's name.
        """
        ...


@runtime_checkable
class CountingEngine(Protocol):
    """An engine that knows its tokenizer: optimizers then keep prompts inside the context and count by it.

    `context_length`: most tokens of prompt and answer together. Reading it may load the model.
    """

    @property
    def context_length(self) -> int: ...

    def count_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Tokens of a chat prompt (`{"role": ..., "content": ...}`) as it would be sent, template included.

        Called a few dozen times a run, from any thread. Contents are text or lists of parts, of which the text counts.
        """
        ...


def supports_grammar(lm: Any) -> bool:
    """Whether the LM's engine follows grammars."""
    return getattr(getattr(lm, "engine", None), "supports_grammar", False) is True


def grammar_of(request: Request) -> AnswerGrammar | None:
    """The grammar that the answer has to follow, None if it is free. Raises InvalidRequestError for a malformed one."""
    value = _metadata(request).get("grammar")
    try:
        return None if value is None else AnswerGrammar.from_metadata(value)
    except GrammarError as error:
        raise InvalidRequestError(str(error)) from error


def thinking_tokens_of(request: Request) -> int | None:
    """The most tokens that a thought before the answer may take, None where the request does not say."""
    tokens = _metadata(request).get("thinking_tokens")
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0 else None


def _metadata(request: Request) -> Mapping[str, Any]:
    metadata: Any = (request.config.extensions or {}).get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise InvalidRequestError(f"The option 'metadata' is {metadata!r}; expected a dictionary.")
    return metadata


class EngineCall:
    """One call of an EngineLM: it wants `n` completions, of rollout `rollout` (None: of none)."""

    def __init__(self, n: int, rollout: int | None):
        self.n = n
        self.rollout = rollout
        self._requested = 0

    def next_completion(self) -> int:
        """The number of the completion that the engine is asked for now, from 0. A retry gets a new number."""
        number = self._requested
        self._requested += 1
        return number


_call: ContextVar[EngineCall | None] = ContextVar("dspy_toolkit_engine_call", default=None)


def current_call() -> EngineCall | None:
    """The call that the engine works for in this thread or task, None if no EngineLM made it."""
    return _call.get()


@contextmanager
def _calling(n: int, rollout: int | None) -> Iterator[None]:
    token = _call.set(EngineCall(n, rollout))
    try:
        yield
    finally:
        _call.reset(token)


class EngineLM(dspy.LM):
    """A `dspy.LM` that tells its engine what DSPy keeps to itself: how many completions a call wants, and its rollout.

    DSPy asks an engine for `n` completions one after another with the same request, and uses `rollout_id` for its cache
    alone. Both are known where the call is made, and `current_call` has them where the engine runs. With a seed (or a
    rollout) and a temperature above 0, completion j of rollout r should draw the same noise every time.
    """

    def call_scope(self, n: int, rollout: int | None) -> AbstractContextManager[None]:
        """The context in which the engine is asked; an engine with a context of its own for a call overrides it."""
        return _calling(n, rollout)

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self.call_scope(*self._sampling(kwargs)):
            return super().__call__(prompt, messages=messages, **kwargs)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self.call_scope(*self._sampling(kwargs)):
            return await super().acall(prompt, messages=messages, **kwargs)

    def _sampling(self, kwargs: dict[str, Any]) -> tuple[int, int | None]:
        merged = {**self.kwargs, **kwargs}
        n, rollout = merged.get("n"), merged.get("rollout_id")
        return (n if isinstance(n, int) and n > 0 else 1), (rollout if isinstance(rollout, int) else None)
