"""A finished sequence as DSPy's response. Runs in the caller's thread."""

from typing import Any

from dspy.lm15 import Message, Request, Response, TextDelta, TextPart, TokenLogprob, TopLogprob, Usage

from dspy_toolkit_mlx.sequence import Sequence

__all__ = ["delta", "response", "usage"]


def usage(sequence: Sequence) -> Usage:
    """Token counts: the whole prompt (of which `cache_read_tokens` were not computed for it) and the whole answer."""
    return Usage(
        input_tokens=len(sequence.prompt),
        output_tokens=len(sequence.tokens),
        cache_read_tokens=sequence.cached_tokens,
    )


def response(request: Request, sequence: Sequence) -> Response:
    finish_reason: Any = sequence.finish_reason
    return Response(
        id=f"mlx-{sequence.id}",
        model=request.model,
        message=Message.assistant([TextPart(sequence.text)]),
        finish_reason=finish_reason,
        usage=usage(sequence),
        logprobs=None if sequence.sampling.logprobs is None else _logprobs(sequence),
    )


def delta(text: str) -> TextDelta:
    return TextDelta(text=text)


def _logprobs(sequence: Sequence) -> tuple[TokenLogprob, ...]:
    def spelled(token: int) -> tuple[str, tuple[int, ...]]:
        data = sequence.token_bytes(token)
        return data.decode("utf-8", "replace"), tuple(data)

    found = []
    for choice in sequence.choices:
        text, data = spelled(choice.token)
        rivals = []
        for token, logprob in choice.top:
            rival, rival_data = spelled(token)
            rivals.append(TopLogprob(token=rival, logprob=min(logprob, 0.0), bytes=rival_data, token_id=token))
        found.append(
            TokenLogprob(
                token=text, logprob=min(choice.logprob, 0.0), bytes=data, token_id=choice.token, top=tuple(rivals)
            )
        )
    return tuple(found)
