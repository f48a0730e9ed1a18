"""A language model that says what a test tells it to, on the real engine contract of DSPy 3.4.

Everything above the engine is DSPy's own: adapters, cache, retries, history, streaming. Nothing is patched.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

import dspy
from dspy.lm15 import (
    ContextLengthError,
    Message,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamStartEvent,
    TextDelta,
    TextPart,
    Usage,
)

__all__ = ["Reply", "Script", "ScriptedEngine", "ScriptedLM", "prompt_text"]

Reply = str | Mapping[str, Any] | BaseException
"""Text as it is; values of output fields, written in the format the request asks for; or an exception to raise."""

Script = Iterable[Reply] | Callable[[Request], Reply]
"""Replies in order (asking for more than there are is an error), or a function of the request (called from any
thread).
"""

_CHUNK = 4  # characters per streamed delta


class ScriptedEngine:
    """The engine of a ScriptedLM; safe to call from several threads.

    Tokens are UTF-8 bytes: `Usage` counts one per byte of the prompt and of the reply, as a byte-level tokenizer would.
    Replies are never cut to `max_tokens`. Every request is kept in `requests` before it is answered. A prompt longer
    than `context_length` is refused, as a model would.
    """

    def __init__(
        self,
        script: Script,
        *,
        seconds: float = 0.0,
        supports: Iterable[str] = (),
        context_length: int | None = None,
    ):
        self._next = script if callable(script) else _in_order(iter(script))
        self._lock = threading.Lock()
        self._running = 0
        self.seconds = seconds
        self.context_length = context_length
        self.requests: list[Request] = []
        self.most_at_once = 0
        supported = set(supports)
        self.supports_response_schema = "response_schema" in supported
        self.supports_function_calling = "function_calling" in supported
        self.supports_grammar = "grammar" in supported
        self.supported_params = ("temperature", "max_tokens", "stop", "seed", "response_format")

    @property
    def calls(self) -> int:
        """How many requests reached the engine; cache hits do not."""
        return len(self.requests)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ScriptedEngine":
        return self  # DSPy copies programs with their LMs; an engine is borrowed, and one script is one script

    def count_tokens(self, messages: Iterable[Mapping[str, Any]]) -> int:
        """Tokens of a chat prompt."""
        return len("\n\n".join(_content(message) for message in messages).encode())

    def complete(self, request: Request) -> Response:
        with _Running(self, request):
            if self.seconds:
                time.sleep(self.seconds)
            return self._respond(request)

    def stream(self, request: Request) -> Iterator[Any]:
        response = self.complete(request)
        yield from _events(response)

    def close(self) -> None:
        """Nothing to close."""

    def _respond(self, request: Request) -> Response:
        length = len(prompt_text(request).encode())
        if self.context_length is not None and length > self.context_length:
            raise ContextLengthError(f"The prompt has {length} tokens, the context {self.context_length}.")
        reply = self._next(request)
        if isinstance(reply, BaseException):
            raise reply
        text = reply if isinstance(reply, str) else _written(reply, request)
        answer = len(text.encode())
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop",
            usage=Usage(input_tokens=length, output_tokens=answer),
        )


class AsyncScriptedEngine:
    """The same script, awaited."""

    def __init__(self, engine: ScriptedEngine):
        self._engine = engine

    def __deepcopy__(self, memo: dict[int, Any]) -> "AsyncScriptedEngine":
        return self

    async def complete(self, request: Request) -> Response:
        with _Running(self._engine, request):
            await asyncio.sleep(self._engine.seconds)
            return self._engine._respond(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        for event in _events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Nothing to close."""


def ScriptedLM(  # noqa: N802  # reads like dspy.LM, which it returns
    script: Script,
    *,
    model: str = "scripted/test",
    seconds: float = 0.0,
    supports: Iterable[str] = (),
    context_length: int | None = None,
    num_retries: int = 0,
    cache: bool = False,
    **kwargs: Any,
) -> dspy.LM:
    """A `dspy.LM` that follows `script`; `lm.engine` is its ScriptedEngine.

    `seconds` is how long each call takes. `supports` names capabilities to declare: `response_schema`,
    `function_calling`, `grammar`. `context_length` limits the prompt, in bytes. Failures are not retried unless
    `num_retries` says so. Every request reaches the engine; with `cache=True` DSPy's cache is asked first, as in life
    (see the fixture `lm_cache`; its key holds the model string, not the script, so give each script its own).
    """
    engine = ScriptedEngine(script, seconds=seconds, supports=supports, context_length=context_length)
    pair = {"engine": engine, "async_engine": AsyncScriptedEngine(engine)}
    return dspy.LM(model, num_retries=num_retries, cache=cache, **pair, **kwargs)


def prompt_text(request: Request) -> str:
    """The system prompt and all messages of a request as one text, for scripts that look at what was asked."""
    system = (
        request.system if isinstance(request.system, str) else "".join(_text(part) for part in request.system or ())
    )
    return "\n\n".join([system, *(message.text or "" for message in request.messages)])


class _Running:
    """Records a request and how many are in the engine at once."""

    def __init__(self, engine: ScriptedEngine, request: Request):
        self._engine = engine
        self._request = request

    def __enter__(self) -> None:
        engine = self._engine
        with engine._lock:
            engine.requests.append(self._request)
            engine._running += 1
            engine.most_at_once = max(engine.most_at_once, engine._running)

    def __exit__(self, *_: object) -> None:
        with self._engine._lock:
            self._engine._running -= 1


def _in_order(replies: Iterator[Reply]) -> Callable[[Request], Reply]:
    lock = threading.Lock()

    def following(request: Request) -> Reply:
        with lock:
            for reply in replies:
                return reply
        raise RuntimeError("The script of this ScriptedLM has no reply left; it was called more often than expected.")

    return following


def _written(values: Mapping[str, Any], request: Request) -> str:
    """Output fields in the format of the adapter that made the request: JSON or ChatAdapter's markers."""
    asked = request.messages[-1].text or ""
    if request.config.response_format is not None or "Respond with a JSON object" in asked:
        return json.dumps({name: _plain(value) for name, value in values.items()}, ensure_ascii=False)
    parts = []
    for name, value in values.items():
        plain = _plain(value)
        text = json.dumps(plain, ensure_ascii=False) if isinstance(plain, dict | list) else str(plain)
        parts.append(f"[[ ## {name} ## ]]\n{text}")
    return "\n\n".join([*parts, "[[ ## completed ## ]]\n"])


def _plain(value: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def _text(part: Any) -> str:
    return getattr(part, "text", "")


def _events(response: Response) -> Iterator[Any]:
    yield StreamStartEvent(id=response.id, model=response.model)
    text = response.message.text or ""
    for start in range(0, len(text), _CHUNK):
        yield StreamDeltaEvent(TextDelta(text=text[start : start + _CHUNK], part_index=0))
    yield StreamEndEvent(finish_reason=response.finish_reason, usage=response.usage)
