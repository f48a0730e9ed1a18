"""The engine: DSPy's contract (`complete`, `stream`, `close`) and what the toolkit uses beyond it.

A token is a byte of UTF-8. At temperature 0 the answer is the shortest that the grammar has; above, it is drawn, and
the same prompt, seed, rollout and completion draw the same answer.
"""

import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

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
    ToolCallDelta,
    ToolCallPart,
    Usage,
)

from dspy_toolkit.engine import current_call, grammar_of
from dspy_toolkit.grammar import compile_arguments
from dspy_toolkit_dice.walk import walk

_DEFAULT_TOKENS = 400
_WORDS = ("yes", "no", "perhaps", "often", "never", "dice", "six")


class DiceEngine:
    """Safe to call from any thread; keeps nothing between calls."""

    supports_grammar = True
    supports_function_calling = True
    supports_response_schema = False
    supports_reasoning = False
    supported_params = ("temperature", "max_tokens", "seed", "tools", "tool_choice", "metadata")

    def __init__(self, *, context_length: int = 8192):
        self.context_length = context_length

    def __deepcopy__(self, memo: dict[int, Any]) -> "DiceEngine":
        return self  # DSPy copies programs with their LMs; an engine is shared

    def count_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        return len(_joined(str(message.get("content") or "") for message in messages))

    def complete(self, request: Request) -> Response:
        prompt = _prompt(request)
        room = self.context_length - len(prompt)
        if room < 1:
            raise ContextLengthError(f"The prompt has {len(prompt)} tokens, the context {self.context_length}.")
        limit = min(request.config.max_tokens or _DEFAULT_TOKENS, room)
        dice = _dice(request, prompt)
        part = self._tool_call(request, dice, limit) or TextPart(self._text(request, dice, limit))
        length = len(part.text.encode()) if isinstance(part, TextPart) else len(json.dumps(part.input))
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([part]),
            finish_reason="stop" if isinstance(part, TextPart) else "tool_call",
            usage=Usage(input_tokens=len(prompt), output_tokens=length),
        )

    def stream(self, request: Request) -> Iterator[Any]:
        response = self.complete(request)
        (part,) = response.message.parts
        yield StreamStartEvent(id=None, model=request.model)
        if isinstance(part, ToolCallPart):
            delta = ToolCallDelta(input=json.dumps(part.input), part_index=0, id=part.id, name=part.name)
            yield StreamDeltaEvent(delta)
        elif isinstance(part, TextPart):
            yield from (StreamDeltaEvent(TextDelta(text=char, part_index=0)) for char in part.text)
        yield StreamEndEvent(finish_reason=response.finish_reason, usage=response.usage)

    def close(self) -> None:
        """Nothing to close."""

    def _text(self, request: Request, dice: random.Random, limit: int) -> str:
        grammar = grammar_of(request)
        if grammar is None:
            return " ".join(dice.choices(_WORDS, k=5))[:limit]
        if not request.config.temperature and grammar.minimal is not None:
            return grammar.minimal
        return walk(grammar, dice, limit)

    def _tool_call(self, request: Request, dice: random.Random, limit: int) -> ToolCallPart | None:
        """A call of one of the tools, or None: always where one is required, else by the toss of a coin."""
        choice = request.config.tool_choice
        mode = "auto" if choice is None else choice.mode
        allowed = () if choice is None else choice.allowed
        tools = [tool for tool in request.tools if tool.type == "function" and (not allowed or tool.name in allowed)]
        if not tools or mode == "none" or (mode != "required" and dice.random() < 0.5):
            return None
        tool = dice.choice(tools)
        text = walk(compile_arguments(tool.parameters), dice, limit)
        return ToolCallPart(id=f"call-{dice.getrandbits(32):08x}", name=tool.name, input=json.loads(text))


class AsyncDiceEngine:
    """The same, awaited."""

    def __init__(self, engine: DiceEngine):
        self._engine = engine

    def __deepcopy__(self, memo: dict[int, Any]) -> "AsyncDiceEngine":
        return self

    async def complete(self, request: Request) -> Response:
        return self._engine.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        for event in self._engine.stream(request):
            yield event

    async def aclose(self) -> None:
        """Nothing to close."""


def _dice(request: Request, prompt: bytes) -> random.Random:
    """The noise of one completion: it follows from prompt, seed, rollout and the completion's number alone."""
    call = current_call()
    rollout, completion = (None, 0) if call is None else (call.rollout, call.next_completion())
    return random.Random(repr((prompt, request.config.seed, rollout, completion)))


def _prompt(request: Request) -> bytes:
    system = request.system if isinstance(request.system, str) else _joined(part.text for part in request.system or ())
    texts = [system if isinstance(system, str) else system.decode()]
    texts += ["".join(getattr(part, "text", "") for part in message.parts) for message in request.messages]
    return _joined(texts)


def _joined(texts: Any) -> bytes:
    return "\n\n".join(text for text in texts if text).encode()
