"""The asynchronous side of an engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from dspy.lm15 import Request, Response, StreamDeltaEvent, StreamEndEvent, StreamStartEvent

from dspy_toolkit_mlx.engine.burst import stream_sample
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.ticket import Ticket
from dspy_toolkit_mlx.prompting.answer import delta, response, usage
from dspy_toolkit_mlx.scheduling.transcript import Piece

__all__ = ["AsyncMLXEngine"]


class AsyncMLXEngine:
    """The asynchronous twin of an engine; both drive the same thread and may be used at once."""

    supports_grammar = True
    supports_response_schema = True
    supports_function_calling = MLXEngine.supports_function_calling
    supported_params = MLXEngine.supported_params

    def __init__(self, engine: MLXEngine):
        self.engine = engine

    @property
    def supports_reasoning(self) -> bool:
        """As MLXEngine.supports_reasoning."""
        return self.engine.supports_reasoning

    async def _off_loop(self, call: Callable[[], Ticket]) -> Ticket:
        """Run `call` in a thread if it would load the model, which takes seconds."""
        return call() if self.engine.health()["loaded"] else await asyncio.to_thread(call)

    async def complete(self, request: Request) -> Response:
        """Run a request to its end; cancelling the task cancels the request."""
        ticket = await self._off_loop(lambda: self.engine.next_ticket(request))
        try:
            return response(request, await asyncio.wrap_future(ticket.future))
        finally:
            ticket.cancel()

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """As MLXEngine.stream."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()

        def put(piece: Piece | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        ticket = await self._off_loop(lambda: self.engine.submit(request, emit=put, **stream_sample()))
        ticket.future.add_done_callback(lambda _: put(None))
        try:
            yield StreamStartEvent(id=f"mlx-{ticket.sequence.id}", model=request.model)
            while (piece := await pieces.get()) is not None:
                yield StreamDeltaEvent(delta(piece))
            sequence = ticket.future.result()
            yield StreamEndEvent(finish_reason=sequence.finish_reason, usage=usage(sequence))  # type: ignore[arg-type]
        finally:
            ticket.cancel()

    async def aclose(self) -> None:
        """Close the engine, which the synchronous side shares."""
        await asyncio.to_thread(self.engine.close)

    def dump_state(self) -> dict[str, Any]:
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> "AsyncMLXEngine":
        return cls(MLXEngine.load_state(state))
