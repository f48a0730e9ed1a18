"""A burst: the completions that one call of an LM asks for, submitted together at the first of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypedDict

from dspy_toolkit_mlx.engine.ticket import Ticket

__all__ = ["Burst", "Sample", "burst", "current_burst", "stream_sample"]

Sample = tuple[int | None, int]
"""Rollout and completion: which sample of a seed."""


class StreamSample(TypedDict, total=False):
    rollout: int | None
    completion: int


class Burst:
    """The `n` completions of one call; `tickets` are those submitted and not yet handed out."""

    def __init__(self, n: int, rollout: int | None):
        self.n = n
        self.rollout = rollout
        self.issued = 0
        self.tickets: list[Ticket] = []

    def next(self, submit: Callable[[list[Sample]], list[Ticket]]) -> Ticket:
        """The ticket of the next completion. The first one submits all of them; a retry gets a new sample."""
        if not self.tickets:
            count = max(1, self.n - self.issued)
            self.tickets = submit([(self.rollout, self.issued + offset) for offset in range(count)])
        self.issued += 1
        return self.tickets.pop(0)


_burst: ContextVar[Burst | None] = ContextVar("dspy_toolkit_mlx_burst", default=None)


@contextmanager
def burst(n: int, rollout: int | None) -> Iterator[None]:
    """Treat the requests of this thread or task as completions of one call; cancels those not used at the end."""
    current = Burst(n, rollout)
    token = _burst.set(current)
    try:
        yield
    finally:
        _burst.reset(token)
        for ticket in current.tickets:
            ticket.cancel()


def current_burst() -> Burst | None:
    """The burst of this thread or task, if an MLXLM made the call."""
    return _burst.get()


def stream_sample() -> StreamSample:
    """Which sample a stream is. Streams come one after another, so each is submitted by itself."""
    current = _burst.get()
    if current is None:
        return {}
    current.issued += 1
    return {"rollout": current.rollout, "completion": current.issued - 1}
