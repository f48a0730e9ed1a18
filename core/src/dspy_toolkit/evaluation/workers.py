"""Rows run in worker threads; their results come to the caller's thread, which is where a run ends.

rows ──queue──▶ worker threads ──queue──▶ caller's thread
"""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from dspy_toolkit.lm.meter import Meter

__all__ = ["in_threads"]

T = TypeVar("T")

_POLL = 0.1  # seconds between looks at `stop`
_TOGETHER = 0.025
"""Seconds in which results may gather before the caller's thread takes them: each time it wakes, it and the workers
have to give each other the GIL, and on a busy machine the processor, which costs more than what it does with a row."""


def in_threads(work: Sequence[Callable[[], T]], num_threads: int, meter: Meter) -> Iterator[T]:
    """Results as they come. Ends at once when interrupted; a call already running is left to end by itself."""
    waiting: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
    for task in work:
        waiting.put(task)
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    halt, ending = threading.Event(), threading.Event()

    def worker() -> None:
        while not halt.is_set():
            try:
                results.put((waiting.get_nowait()(), None))
            except queue.Empty:
                break
            except BaseException as error:  # noqa: BLE001  # StopRequested, DeadLM and BudgetSpent end the run in the caller's thread
                results.put((None, error))
                break
        ending.set()

    for _ in range(min(num_threads, len(work))):
        # DSPy's settings live in context variables, which threads do not inherit; each thread needs its own copy.
        threading.Thread(target=contextvars.copy_context().run, args=(worker,), daemon=True).start()
    try:
        for number, _ in enumerate(work):
            try:
                if number and results.empty():  # the first is reported at once
                    meter.check()
                    ending.wait(_TOGETHER)
                result = _next(results, meter)
            except BaseException:  # whatever ends the run, what was finished before counts
                halt.set()
                yield from _finished(results)
                raise
            yield result
    finally:
        halt.set()


def _finished(results: "queue.SimpleQueue[tuple[T | None, BaseException | None]]") -> Iterator[T]:
    while True:
        try:
            result, error = results.get_nowait()
        except queue.Empty:
            return
        if error is None:
            yield result  # pyright: ignore[reportReturnType]  # None only beside an error


def _next(results: "queue.SimpleQueue[tuple[T | None, BaseException | None]]", meter: Meter) -> T:
    while True:
        meter.check()
        try:
            result, error = results.get(timeout=_POLL)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        return result  # pyright: ignore[reportReturnType]  # None only beside an error
