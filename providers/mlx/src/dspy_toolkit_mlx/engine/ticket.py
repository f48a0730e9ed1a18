"""What a caller holds of its request: a ticket; and the completions that belong to one call: a burst."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from dspy.lm15 import Request

from dspy_toolkit_mlx.scheduling.sequence import Sequence

if TYPE_CHECKING:
    from dspy_toolkit_mlx.engine.engine import MLXEngine

__all__ = ["Burst", "Ticket", "burst", "current_burst", "stream_sample"]


class Ticket:
    """A request that was handed in. `future` resolves to its finished Sequence, or to a `dspy.lm15` error."""

    def __init__(self, sequence: Sequence):
        self.sequence = sequence
        self.future: Future[Sequence] = Future()

    def cancel(self) -> None:
        """Ask for an end; the engine drops the request before its next step and the future is cancelled."""
        self.sequence.cancelled = True


class Burst:
    """The completions that one call of an LM wants; `tickets` are those handed in and not yet asked for."""

    def __init__(self, n: int, rollout: int | None):
        self.n = n
        self.rollout = rollout
        self.given = 0
        self.tickets: list[Ticket] = []

    def next(self, engine: "MLXEngine", request: Request) -> Ticket:
        """The ticket of the next completion; the first question hands all of them in. A retry gets a new sample."""
        if not self.tickets:
            count = max(1, self.n - self.given)
            self.tickets = engine.submit_all(request, [(self.rollout, self.given + j) for j in range(count)])
        self.given += 1
        return self.tickets.pop(0)


_burst: ContextVar[Burst | None] = ContextVar("dspy_toolkit_mlx_burst", default=None)


@contextmanager
def burst(n: int, rollout: int | None) -> Iterator[None]:
    """Within, requests of this thread or task are the completions of one call; what is left over is cancelled."""
    current = Burst(n, rollout)
    token = _burst.set(current)
    try:
        yield
    finally:
        _burst.reset(token)
        for ticket in current.tickets:
            ticket.cancel()


def current_burst() -> Burst | None:
    """The call that this thread or task is in, if an MLXLM made it."""
    return _burst.get()


def stream_sample() -> dict[str, Any]:
    """Which sample a stream is: streams come one after another, so each is handed in when it is asked for."""
    current = _burst.get()
    if current is None:
        return {}
    current.given += 1
    return {"rollout": current.rollout, "completion": current.given - 1}
