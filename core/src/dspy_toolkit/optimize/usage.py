"""Counting what a run asks of its LMs, and ending it when told to or when the LM is gone."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dspy_toolkit.optimize.costs import CostRecorder

__all__ = ["DeadLM", "Ended", "Meter", "StopRequested", "Usage", "interrupting"]

_generated: ContextVar[bool] = ContextVar("dspy_toolkit_generated", default=False)
"""Whether the call in progress in this context asked its engine, not the cache."""

DEAD_AFTER = 5
"""So many LM calls failing one after another, with none answered in between, mean that the LM is gone."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a stretch of work asked of its LMs.

    `lm_calls` are calls that were not answered from the cache, `failures` those of them that raised (after DSPy's
    retries). Tokens are as the engine reports them; cache hits and failures add none.
    """

    lm_calls: int = 0
    cache_hits: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__})


# DSPy's optimizers catch Exception wherever they call a program or a metric, so what must end them is not one.
class StopRequested(BaseException):
    """The run's `stop` event is set."""


class DeadLM(BaseException):
    """Calls keep failing; `cause` is the last error."""

    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


class Ended(BaseException):
    """Ends the search with `cause`, which DSPy would log and forget where it catches every Exception."""

    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


class Meter(BaseCallback):
    """Counts every LM call made inside `counting()`, in whichever thread DSPy makes it.

    DSPy tells a callback of every call, cached or not, and a usage tracker of every answer that did not come from the
    cache; a Meter is both. Failures in a row are counted for each model: a search may use one LM for the program and
    another for its proposals, and either can die.
    """

    def __init__(self, stop: threading.Event | None = None):
        self._stop = stop
        self._lock = threading.Lock()
        self._answered = self._generated = self._failures = 0
        self._calling: dict[str, str] = {}
        self._in_a_row: dict[str, int] = {}
        self._interrupted = False
        self._input_tokens = self._output_tokens = 0
        self._last_error: Exception | None = None
        self._costs = CostRecorder()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Meter":
        return self  # DSPy copies the usage tracker for each thread of its executor; there is one count

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the calls made in this context, and in the threads DSPy starts from it."""
        callbacks = [*dspy.settings.get("callbacks", []), self, self._costs]
        with dspy.context(callbacks=callbacks, usage_tracker=self, track_usage=False):
            yield

    @property
    def usage(self) -> Usage:
        with self._lock:
            return Usage(
                lm_calls=self._generated + self._failures,
                cache_hits=max(0, self._answered - self._generated),
                failures=self._failures,
                input_tokens=self._input_tokens,
                output_tokens=self._output_tokens,
            )

    @property
    def last_error(self) -> Exception | None:
        """What the last failed call raised."""
        return self._last_error

    def check(self) -> None:
        """Raise StopRequested or DeadLM if the run has to end here."""
        if self._interrupted or (self._stop is not None and self._stop.is_set()):
            raise StopRequested
        if self._last_error is not None and max(self._in_a_row.values(), default=0) >= DEAD_AFTER:
            raise DeadLM(self._last_error)

    def interrupt(self) -> None:
        """Have every later call of this run raise StopRequested. Safe in a signal handler."""
        self._interrupted = True

    def revive(self) -> None:
        """Forget the failures in a row: a new stage may find the LM back."""
        with self._lock:
            self._in_a_row = {}

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.check()
        _generated.set(False)
        with self._lock:
            self._calling[call_id] = str(getattr(instance, "model", ""))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        with self._lock:
            model = self._calling.pop(call_id, "")
            if exception is None:
                # DSPy asks the engine once for each of n completions, and tells of them as one call.
                extra = len(outputs) - 1 if _generated.get() and isinstance(outputs, list) else 0
                self._answered += 1 + extra
                self._generated += extra
                self._in_a_row[model] = 0
            elif isinstance(exception, Exception):
                self._failures += 1
                # A prompt that is too long is that row's trouble, not the LM's.
                too_long = isinstance(exception, dspy.ContextWindowExceededError)
                self._in_a_row[model] = self._in_a_row.get(model, 0) + (not too_long)
                self._last_error = exception

    def add_usage(self, model: str, usage: Mapping[str, Any]) -> None:
        """DSPy's usage tracker interface."""
        _generated.set(True)
        self._costs.add_usage(model, usage)
        with self._lock:
            self._generated += 1
            self._input_tokens += usage.get("prompt_tokens") or 0
            self._output_tokens += usage.get("completion_tokens") or 0


@contextmanager
def interrupting(meter: Meter) -> Iterator[None]:
    """Ctrl-C also tells `meter`, so that threads still at work stop at their next LM call.

    GEPA evaluates in threads of its own and waits for them when interrupted, which without this takes as long as the
    evaluation. A process that ignores SIGINT goes on ignoring it; outside the main thread nothing is done.
    """
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(before):
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        meter.interrupt()
        before(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
