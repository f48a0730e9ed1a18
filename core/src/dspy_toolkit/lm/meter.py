"""Counting what a run asks of its LMs, and ending it when told to or when the LM is gone."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dspy

from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.lm.costs import CostRecorder
from dspy_toolkit.lm.limits import BudgetSpent, Limits
from dspy_toolkit.lm.metered import LMCall, metered, other_lms
from dspy_toolkit.lm.prices import Price, price_of
from dspy_toolkit.lm.usage import Call, Usage

__all__ = ["DEAD_AFTER", "DeadLM", "Ended", "Meter", "StopRequested", "interrupting"]

_answers: ContextVar[list[Mapping[str, Any]] | None] = ContextVar("dspy_toolkit_answers", default=None)
"""The usage of each answer that the call in progress in this context had from its engine; none if from the cache."""

DEAD_AFTER = 5
"""So many LM calls failing one after another, with none answered in between, mean that the LM is gone."""


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
    """Counts every LM call of a run, in whichever thread DSPy makes it, and ends the run when it has to end.

    Inside `counting()` it is one of DSPy's callbacks. Inside `watching(lm, program)` a copy of the LM reports to it,
    which costs a tenth of that (see `metered`). It is also DSPy's usage tracker, which reports only cache misses.
    Failures in a row are counted for each model: a search may use one LM for the program and another for its
    proposals, and either can die.

    `limits` may be changed between stages; they count from the start of the run. `earlier` gives what the run had used,
    and `earlier_seconds` how long it had taken, when this meter took over. `on_call` gets every call as it ends, in the
    thread that made it, so it must be quick and must not raise.
    """

    def __init__(
        self,
        stop: threading.Event | None = None,
        *,
        limits: Limits | None = None,
        on_call: Callable[[Call], None] | None = None,
        earlier: Callable[[], Usage] = Usage,
        earlier_seconds: float = 0.0,
    ):
        self.limits = limits
        self.on_call = on_call
        self._earlier = earlier
        self._earlier_seconds = earlier_seconds
        self._stop = stop
        self._lock = threading.Lock()
        self._started = time.perf_counter()
        self._answered = self._generated = self._failures = self._asking = 0
        self._calling: dict[str, LMCall] = {}
        self._in_a_row: dict[str, int] = {}
        self._prices: dict[str, Price | None] = {}
        self._interrupted = False
        self._input_tokens = self._output_tokens = 0
        self._cost = 0.0
        self._last_error: Exception | None = None
        self._costs = CostRecorder()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Meter":
        return self  # DSPy copies the usage tracker for each thread of its executor; there is one count

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the calls made in this context and in the threads DSPy starts from it."""
        callbacks = [*dspy.settings.get("callbacks", []), self, self._costs]
        with dspy.context(callbacks=callbacks, usage_tracker=self, track_usage=False):
            yield

    @contextmanager
    def watching(self, lm: Any, program: dspy.Module) -> Iterator[bool]:
        """`counting()` with `lm` for the context's LM, by the cheaper way where `program` brings no LM of its own.

        Yields whether it is the cheaper way; then a call of the program must be made inside `row_cost`.
        """
        copy = None if other_lms(program) else metered(lm, self)
        if copy is None:
            with self.counting(), dspy.context(lm=lm):
                yield False
        else:
            with dspy.context(lm=copy, usage_tracker=self, track_usage=False):
                yield True

    def row_cost(self, call: Callable[[], dspy.Prediction]) -> dspy.Prediction:
        """Call a program through `call`, and set on its prediction what that cost (see `CostRecorder`)."""
        return self._costs.recording(call)

    @property
    def usage(self) -> Usage:
        earlier = self._earlier()
        with self._lock:
            return earlier + Usage(
                lm_calls=self._generated + self._failures,
                cache_hits=max(0, self._answered - self._generated),
                failures=self._failures,
                input_tokens=self._input_tokens,
                output_tokens=self._output_tokens,
                cost=self._cost,
            )

    @property
    def committed(self) -> Usage:
        """`usage` with the calls in flight."""
        return self.usage + Usage(lm_calls=self._asking)

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return self._earlier_seconds + time.perf_counter() - self._started

    @property
    def last_error(self) -> Exception | None:
        """What the last failed call raised."""
        return self._last_error

    def check(self) -> None:
        """Raise StopRequested, DeadLM or BudgetSpent if the run has to end here."""
        if self._interrupted or (self._stop is not None and self._stop.is_set()):
            raise StopRequested
        if self._last_error is not None and max(self._in_a_row.values(), default=0) >= DEAD_AFTER:
            raise DeadLM(self._last_error)
        if self.limits is not None and self.limits.seconds is not None and self.seconds >= self.limits.seconds:
            raise BudgetSpent("seconds", self.limits.seconds)

    def interrupt(self) -> None:
        """Have every later call of this run raise StopRequested. Safe in a signal handler."""
        self._interrupted = True

    def revive(self) -> None:
        """Forget the failures in a row: a new stage may find the LM back."""
        with self._lock:
            self._in_a_row = {}

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        call = LMCall.of(instance, inputs.get("prompt"), inputs.get("messages"), inputs.get("kwargs") or {})
        self.begin(call)
        with self._lock:
            self._calling[call_id] = call

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        with self._lock:
            call = self._calling.pop(call_id, None)
        if call is not None:  # None: `on_lm_start` raised, so no call was made
            self.end(call, outputs, exception)

    def begin(self, call: LMCall) -> None:
        """Count a call that is about to be made. Raises what `check` raises, and BudgetSpent if it is one too many."""
        self.check()
        _answers.set(None)
        if self.limits is None:
            return
        earlier = self._earlier()
        with self._lock:
            self.limits.check(
                calls=earlier.lm_calls + self._generated + self._failures + self._asking + call.n,
                tokens=earlier.input_tokens + earlier.output_tokens + self._input_tokens + self._output_tokens,
                cost=earlier.cost + self._cost,
            )
            self._asking += call.n
            call.reserved = call.n

    def end(self, call: LMCall, outputs: Any, exception: BaseException | None) -> None:
        """Count the end of a call that began, with its outputs or what it raised."""
        answers = _answers.get() or ()
        if exception is None:
            self._costs.add_answer()
        with self._lock:
            self._asking -= call.reserved
            if exception is None:
                # DSPy asks the engine once for each of n completions, and reports them as one call.
                extra = len(outputs) - 1 if answers and isinstance(outputs, list) else 0
                self._answered += 1 + extra
                self._generated += extra
                self._in_a_row[call.model] = 0
            elif isinstance(exception, Exception):
                self._failures += 1
                # A prompt that is too long says nothing about the LM.
                too_long = isinstance(exception, dspy.ContextWindowExceededError)
                self._in_a_row[call.model] = self._in_a_row.get(call.model, 0) + (not too_long)
                self._last_error = exception
        if self.on_call is not None and (exception is None or isinstance(exception, Exception)):
            self.on_call(self._record(call, answers, outputs, exception))

    def _record(
        self, call: LMCall, answers: Sequence[Mapping[str, Any]], outputs: Any, exception: BaseException | None
    ) -> Call:
        read = written = 0
        for usage in answers:
            read += usage.get("prompt_tokens") or 0
            written += usage.get("completion_tokens") or 0
        price = self._prices.get(call.model)
        return Call(
            model=call.model,
            seconds=time.perf_counter() - call.started,
            cached=exception is None and not answers,
            messages=call.messages,
            outputs=outputs if isinstance(outputs, list) else [] if outputs is None else [outputs],
            input_tokens=read,
            output_tokens=written,
            cost=None if price is None else price.of(read, written),
            error=None if exception is None else f"{type(exception).__name__}: {exception}",
        )

    def add_usage(self, model: str, usage: Mapping[str, Any]) -> None:
        """DSPy's usage tracker interface."""
        _answers.set([*(_answers.get() or ()), usage])
        self._costs.add_usage(model, usage)
        read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        if model not in self._prices:
            self._prices[model] = price_of(model)
        price = self._prices[model]
        with self._lock:
            self._generated += 1
            self._input_tokens += read
            self._output_tokens += written
            self._cost += 0.0 if price is None else price.of(read, written)


@contextmanager
def interrupting(meter: Meter) -> Iterator[None]:
    """Have Ctrl-C also interrupt `meter`, so that threads still at work stop at their next LM call.

    GEPA evaluates in threads of its own and waits for them when interrupted, which without this takes as long as the
    evaluation. A process that ignores SIGINT keeps ignoring it; outside the main thread this does nothing.
    """
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(handler):
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        meter.interrupt()
        handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
