"""Tickets in flight: from submission until their futures are resolved."""

import queue
import threading
import time

from dspy.lm15 import LM15Error, ServerError

from dspy_toolkit_mlx.engine.stats import EngineStats
from dspy_toolkit_mlx.engine.ticket import Ticket
from dspy_toolkit_mlx.scheduling.sequence import Sequence

__all__ = ["Inbox", "OpenTickets"]

Inbox = queue.SimpleQueue[Ticket | None]
"""Submitted tickets; None only wakes the thread."""


class OpenTickets:
    """The tickets of one run of the engine thread. `register` is for any thread, the rest for the engine's."""

    def __init__(self, inbox: Inbox, stats: EngineStats):
        self._inbox = inbox
        self._stats = stats
        self._lock = threading.Lock()
        self._tickets: dict[int, Ticket] = {}
        self._open = True

    def register(self, tickets: list[Ticket]) -> bool:
        """Accept tickets; False if this run of the thread accepts no more."""
        with self._lock:
            if not self._open:
                return False
            for ticket in tickets:
                self._tickets[ticket.sequence.id] = ticket
                self._inbox.put(ticket)
            return True

    def has(self, sequence: Sequence) -> bool:
        """Whether its ticket is open. The inbox may hold tickets of an earlier run of the thread."""
        return sequence.id in self._tickets

    def close_if_empty(self) -> bool:
        """Accept no more if no ticket is open; returns whether it still accepts."""
        with self._lock:
            self._open = bool(self._tickets)
            return self._open

    def resolve(self, sequence: Sequence, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        """Resolve a ticket: cancelled, an error, or the finished sequence."""
        stats = self._stats
        with self._lock:
            ticket = self._tickets.pop(sequence.id)
        if cancelled:
            stats.cancelled += 1
            ticket.future.cancel()
            return
        if not ticket.future.set_running_or_notify_cancel():
            stats.cancelled += 1
            return
        if error is not None:
            stats.failed += 1
            reported = error if isinstance(error, LM15Error) else ServerError(str(error))
            ticket.future.set_exception(reported)
            return
        stats.finished += 1
        stats.total_seconds += time.monotonic() - sequence.arrival
        if sequence.first_token is not None:
            stats.first_token_seconds += sequence.first_token - sequence.arrival
        if sequence.guide is not None:
            stats.guided += 1
            stats.guided_closed += sequence.guide.cut
            stats.guided_unfinished += not sequence.guide.complete
        ticket.future.set_result(sequence)

    def abandon(self, error: BaseException | None) -> None:
        """Fail all open tickets and accept no more."""
        with self._lock:
            self._open = False
            tickets, self._tickets = list(self._tickets.values()), {}
        why = "is closed" if error is None else f"has stopped: {error}"
        for ticket in tickets:
            if ticket.future.set_running_or_notify_cancel():
                self._stats.failed += 1
                ticket.future.set_exception(ServerError(f"The engine {why}."))

    def check_integrity(self, sequences: set[int]) -> None:
        """Raise AssertionError unless each of these sequences' ids has a ticket."""
        with self._lock:
            assert sequences <= set(self._tickets), "an entry has no ticket"
