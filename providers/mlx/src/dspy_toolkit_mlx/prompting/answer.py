"""A finished sequence as DSPy's response. Runs in the caller's thread."""

import json
from typing import Any

from dspy.lm15 import (
    Message,
    Request,
    Response,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    TokenLogprob,
    ToolCallDelta,
    ToolCallPart,
    TopLogprob,
    Usage,
)

from dspy_toolkit_mlx.scheduling.sequence import Sequence
from dspy_toolkit_mlx.scheduling.transcript import Piece

__all__ = ["delta", "response", "usage"]


def usage(sequence: Sequence) -> Usage:
    """Token counts: the whole prompt (of which `cache_read_tokens` were not computed for it) and the whole answer."""
    return Usage(
        input_tokens=len(sequence.prompt),
        output_tokens=len(sequence.tokens),
        cache_read_tokens=sequence.cached_tokens,
        reasoning_tokens=sequence.thought or None,
    )


def response(request: Request, sequence: Sequence) -> Response:
    finish_reason: Any = sequence.finish_reason
    parts = [_part(piece) for piece in sequence.transcript.parts]
    return Response(
        id=f"mlx-{sequence.id}",
        model=request.model,
        message=Message.assistant(parts or [TextPart("")]),
        finish_reason=finish_reason,
        usage=usage(sequence),
        logprobs=None if sequence.sampling.logprobs is None else _logprobs(sequence),
    )


def delta(piece: Piece) -> TextDelta | ThinkingDelta | ToolCallDelta:
    """A piece as a stream says it; a call is said when it is whole."""
    if piece.call is not None:
        call = piece.call
        return ToolCallDelta(input=json.dumps(call.input), part_index=piece.part, id=call.id, name=call.name)
    if piece.kind == "thinking":
        return ThinkingDelta(text=piece.text, part_index=piece.part)
    return TextDelta(text=piece.text, part_index=piece.part)


def _part(piece: Piece) -> TextPart | ThinkingPart | ToolCallPart:
    if piece.call is not None:
        return ToolCallPart(id=piece.call.id, name=piece.call.name, input=dict(piece.call.input))
    return ThinkingPart(piece.text) if piece.kind == "thinking" else TextPart(piece.text)


def _logprobs(sequence: Sequence) -> tuple[TokenLogprob, ...]:
    def spelled(token: int) -> tuple[str, tuple[int, ...]]:
        data = sequence.token_bytes(token)
        return data.decode("utf-8", "replace"), tuple(data)

    logprobs = []
    for choice in sequence.choices:
        text, data = spelled(choice.token)
        rivals = []
        for token, logprob in choice.top:
            rival, rival_data = spelled(token)
            rivals.append(TopLogprob(token=rival, logprob=min(logprob, 0.0), bytes=rival_data, token_id=token))
        logprobs.append(
            TokenLogprob(
                token=text, logprob=min(choice.logprob, 0.0), bytes=data, token_id=choice.token, top=tuple(rivals)
            )
        )
    return tuple(logprobs)
