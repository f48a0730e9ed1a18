"""`mlx/...` for every LiteLLM client, over the same engines that DSPy uses natively.

    register()
    litellm.completion("mlx/smollm2-135m", messages=[...], n=4, seed=1)

Importing this module imports LiteLLM, which takes seconds; nothing else in this package does.
"""

# The handler's methods name the parameters they use, not all that LiteLLM passes:
# pyright: reportIncompatibleMethodOverride=false

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import litellm  # noqa: TID253 - this module is the one that is about LiteLLM, like those below
from dspy.lm15 import (
    ContextLengthError,
    InvalidRequestError,
    LM15Error,
    RateLimitError,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    TimeoutError,
    ToolCallPart,
    UnsupportedFeatureError,
    Usage,
    request_from_openai_chat,
)
from litellm import exceptions  # noqa: TID253
from litellm.llms.custom_llm import CustomLLM  # noqa: TID253
from litellm.types.utils import (  # noqa: TID253
    ChoiceLogprobs,
    Delta,
    GenericStreamingChunk,
    ModelResponseStream,
    StreamingChoices,
)

from dspy_toolkit.errors import ToolkitError
from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.models.resolve import ALIASES, PREFIX, local_models
from dspy_toolkit_mlx.prompting.answer import response
from dspy_toolkit_mlx.prompting.prepare import METADATA
from dspy_toolkit_mlx.provider import engine_for

__all__ = ["MLXLLMProvider", "register"]

PROVIDER = PREFIX.rstrip("/")
_FINISH = {"tool_call": "tool_calls"}
# Parameters that LiteLLM adds for itself.
_NOT_FOR_US = frozenset({"stream", "stream_options", "extra_body", "max_retries", "n"})


def register(*models: str) -> "MLXLLMProvider":
    """Register `mlx/...` with LiteLLM; may be called repeatedly. Returns the handler in use.

    LiteLLM assumes JSON schema support only for registered models: registers the aliases, the models in the hub's
    cache, and `models`, further strings such as `mlx/<path>`, all at no cost.
    """
    for item in litellm.custom_provider_map:
        if item["provider"] == PROVIDER and isinstance(item["custom_handler"], MLXLLMProvider):
            handler = item["custom_handler"]
            break
    else:
        handler = MLXLLMProvider()
        litellm.custom_provider_map.append({"provider": PROVIDER, "custom_handler": handler})
        litellm.utils.custom_llm_setup()
    models_to_register = {*(PREFIX + alias for alias in ALIASES), *local_models(), *models}
    litellm.register_model({model: {**_MODEL_INFO} for model in sorted(models_to_register)})
    return handler


_MODEL_INFO = {
    "litellm_provider": PROVIDER,
    "mode": "chat",
    "input_cost_per_token": 0.0,
    "output_cost_per_token": 0.0,
    "supports_function_calling": MLXEngine.supports_function_calling,
    "supports_response_schema": MLXEngine.supports_response_schema,
}


class MLXLLMProvider(CustomLLM):
    """The handler that LiteLLM calls; `register` installs one. Holds nothing: the engines belong to the process.

    Its methods name the parameters they use; LiteLLM passes all by keyword.
    """

    def completion(self, model: str, messages: list[Any], optional_params: dict[str, Any], **_: Any) -> Any:
        """All `n` samples at once. Raises LiteLLM's errors."""
        with _errors(model):
            engine, requests = _open(model, messages, optional_params)
            tickets = [engine.submit(request) for request in requests]
            try:
                answers = [response(rq, ticket.future.result()) for rq, ticket in zip(requests, tickets, strict=True)]
            except BaseException:
                for ticket in tickets:
                    ticket.cancel()
                raise
            return _model_response(model, answers)

    async def acompletion(self, model: str, messages: list[Any], optional_params: dict[str, Any], **_: Any) -> Any:
        """As `completion`; cancelling the task cancels all its samples."""
        with _errors(model):
            # The first call loads the model, which takes seconds.
            engine, requests = await asyncio.to_thread(_open, model, messages, optional_params)
            aengine = AsyncMLXEngine(engine)
            return _model_response(model, await asyncio.gather(*(aengine.complete(request) for request in requests)))

    def streaming(self, model: str, messages: list[Any], optional_params: dict[str, Any], **_: Any) -> Iterator[Any]:
        """One sample, piece by piece."""
        with _errors(model):
            engine, requests = _open(model, messages, optional_params, streaming=True)
            chunks = _Chunks()
            for event in engine.stream(requests[0]):
                if chunk := chunks.of(event):
                    yield chunk

    async def astreaming(
        self, model: str, messages: list[Any], optional_params: dict[str, Any], **_: Any
    ) -> AsyncIterator[Any]:
        """As `streaming`; closing the iterator cancels."""
        with _errors(model):
            engine, requests = await asyncio.to_thread(_open, model, messages, optional_params, streaming=True)
            chunks = _Chunks()
            async for event in AsyncMLXEngine(engine).stream(requests[0]):
                if chunk := chunks.of(event):
                    yield chunk


class _errors:  # noqa: N801 - used as a statement
    """Turn the engine's errors into LiteLLM's, which its clients retry or not by class."""

    def __init__(self, model: str):
        self.model = model

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LM15Error | ToolkitError | ValueError | TypeError):
            raise self._translated(error) from error

    def _translated(self, error: BaseException) -> Exception:
        for ours, theirs in _ERRORS:
            if isinstance(error, ours):
                return theirs(message=str(error), model=self.model, llm_provider=PROVIDER)
        raise AssertionError(error)


# The first that fits. LiteLLM's clients retry the last kind, rate limits and timeouts, and give up on the others.
_ERRORS: tuple[tuple[type[BaseException], Any], ...] = (
    (ContextLengthError, exceptions.ContextWindowExceededError),
    (RateLimitError, exceptions.RateLimitError),
    (TimeoutError, exceptions.Timeout),
    (UnsupportedFeatureError, exceptions.UnsupportedParamsError),
    (ToolkitError, exceptions.NotFoundError),
    (InvalidRequestError, exceptions.BadRequestError),
    (ValueError, exceptions.BadRequestError),
    (TypeError, exceptions.BadRequestError),
    (LM15Error, exceptions.InternalServerError),
)


def _open(
    model: str, messages: Sequence[Any], params: Mapping[str, Any], *, streaming: bool = False
) -> tuple[MLXEngine, list[Request]]:
    """The engine, and one request for each sample. The first sample of a seed is the one that n=1 gives."""
    name = model if model.startswith(PREFIX) else PREFIX + model
    samples = params.get("n") or 1
    if streaming and samples != 1:
        raise InvalidRequestError(
            f"A stream holds one sample; n={samples} was requested. Stream n times, or do not stream."
        )
    request = _request(name, messages, params)
    requests = [request]
    for sample in range(1, samples):
        extensions: dict[str, Any] = dict(request.config.extensions or {})
        if request.config.seed is not None:
            metadata = extensions.get("metadata") or {}
            rollout = int(metadata.get("rollout_id", 0)) * samples + sample
            extensions["metadata"] = {**metadata, "rollout_id": rollout}
        requests.append(replace(request, config=replace(request.config, extensions=extensions or None)))
    return engine_for(name), requests


def _request(name: str, messages: Sequence[Any], params: Mapping[str, Any]) -> Request:
    body = {**params, **(params.get("extra_body") or {})}
    body = {key: value for key, value in body.items() if key not in _NOT_FOR_US and value is not None}
    metadata = dict(body.pop("metadata", None) or {})
    metadata |= {key: body.pop(key) for key in (*METADATA, "grammar") if key in body}
    if metadata:
        body["metadata"] = metadata
    return request_from_openai_chat({"model": name, "messages": [_plain(message) for message in messages], **body})


def _plain(message: Any) -> dict[str, Any]:
    """A message as a dictionary: LiteLLM's clients send its message objects back."""
    return message if isinstance(message, dict) else message.model_dump(exclude_none=True)


def _model_response(model: str, answers: Sequence[Response]) -> Any:
    choices = [litellm.Choices(index=index, **_choice(answer)) for index, answer in enumerate(answers)]
    prompt = answers[0].usage.input_tokens or 0
    written = sum(answer.usage.output_tokens or 0 for answer in answers)
    return litellm.ModelResponse(
        id=answers[0].id,
        model=model,
        choices=choices,
        usage=litellm.Usage(
            prompt_tokens=prompt,
            completion_tokens=written,
            total_tokens=prompt + written,
            prompt_tokens_details={"cached_tokens": answers[0].usage.cache_read_tokens or 0},
        ),
    )


def _choice(answer: Response) -> dict[str, Any]:
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": json.dumps(part.input)}}
        for part in answer.message.parts
        if isinstance(part, ToolCallPart)
    ]
    thought = "".join(part.text for part in answer.message.parts if part.type == "thinking")
    text = "".join(part.text for part in answer.message.parts if part.type == "text")
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if calls:
        message["tool_calls"] = calls
    if thought:
        message["reasoning_content"] = thought
    choice: dict[str, Any] = {
        "message": message,
        "finish_reason": _FINISH.get(answer.finish_reason, answer.finish_reason),
    }
    if answer.logprobs is not None:
        choice["logprobs"] = ChoiceLogprobs.model_validate({"content": [_logprob(token) for token in answer.logprobs]})
    return choice


def _logprob(token: Any) -> dict[str, Any]:
    content = {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes or ()) or None}
    rivals = [{"token": rival.token, "logprob": rival.logprob, "bytes": None} for rival in token.top]
    return {**content, "top_logprobs": rivals}


class _Chunks:
    """A stream's events as LiteLLM's chunks: its own kind for thoughts, which the generic kind does not know."""

    def __init__(self) -> None:
        self._calls = 0

    def of(self, event: Any) -> Any:
        """None for an event without content."""
        if isinstance(event, StreamEndEvent):
            reason = event.finish_reason or "stop"
            return _generic(finish_reason=_FINISH.get(reason, reason), is_finished=True, usage=_usage(event.usage))
        if not isinstance(event, StreamDeltaEvent):
            return None
        delta = event.delta
        if delta.type == "thinking":
            thought = Delta(role="assistant", content=None, reasoning_content=delta.text)
            return ModelResponseStream(choices=[StreamingChoices(index=0, delta=thought)])
        if delta.type == "tool_call":
            function = {"name": delta.name, "arguments": delta.input}
            self._calls += 1
            call = {"id": delta.id, "type": "function", "function": function, "index": self._calls - 1}
            return _generic(tool_use=call)
        return _generic(text=delta.text) if delta.type == "text" else None


def _generic(**fields: Any) -> GenericStreamingChunk:
    empty: Any = {"text": "", "tool_use": None, "is_finished": False, "finish_reason": "", "usage": None, "index": 0}
    return GenericStreamingChunk(**{**empty, **fields})


def _usage(usage: Usage | None) -> Any:
    if usage is None:
        return None
    read, written = usage.input_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
