"""The engine: one thread that owns MLX, a queue into it, and DSPy's engine contract on top.

    any thread       complete / stream / submit  ->  Prepared  ->  Ticket (future)
    engine thread    load -> self-check -> ( drain, admit, build a prefix chunk, step, resolve )*  -> free

Only Python numbers and strings leave the thread; arrays never do, for MLX's streams are thread-local.
"""

import atexit
import logging
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from dspy.lm15 import (
    InvalidRequestError,
    LM15Error,
    Request,
    Response,
    ServerError,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from dspy_toolkit.errors import GrammarError, ModelError, closest_first
from dspy_toolkit_mlx.engine.burst import Sample, current_burst, stream_sample
from dspy_toolkit_mlx.engine.inflight import Inbox
from dspy_toolkit_mlx.engine.loop import EngineLoop
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.engine.stats import EngineStats
from dspy_toolkit_mlx.engine.ticket import Ticket
from dspy_toolkit_mlx.models.resolve import ResolvedModel, load, resolve_model
from dspy_toolkit_mlx.prompting.answer import delta, response, usage
from dspy_toolkit_mlx.scheduling.transcript import Piece

__all__ = ["MLXEngine", "Ticket", "close_shared", "engine_for", "shared_engine"]

log = logging.getLogger(__name__)

Load = Callable[[], tuple[Any, Any]]

_engines: "weakref.WeakSet[MLXEngine]" = weakref.WeakSet()


class MLXEngine:
    """A DSPy engine (`dspy.LM(model, engine=MLXEngine(...), async_engine=AsyncMLXEngine(...))`) over one MLX model.

    `load` returns (model, mlx-lm TokenizerWrapper); it is called on the engine's own thread, at `start` or at the first
    request, and again after an idle unload. `name` is the model string; it goes into responses and saved state.

    Thread-safe. Raises `dspy.lm15` errors from requests and ModelError from `start`.
    """

    supports_grammar = True
    supports_response_schema = True
    supports_function_calling = True
    supported_params = (
        "temperature", "max_tokens", "top_p", "top_k", "stop", "seed", "response_format", "logprobs",
        "presence_penalty", "frequency_penalty", "logit_bias", "metadata", "n",
        "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort",
    )  # fmt: skip

    def __init__(self, load: Load, *, name: str, options: EngineOptions | None = None):
        self.name = name
        self.options = options or EngineOptions()
        self._load = load
        self._lock = threading.Lock()
        self._inbox: Inbox = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loaded: Future[EngineLoop] = Future()
        self._requested = threading.Event()
        self._error: BaseException | None = None
        self._closed = False
        self._stats = EngineStats()
        self._thinks: bool | None = None
        _engines.add(self)

    def start(self) -> None:
        """Load the model now instead of at the first request. Raises ModelError when it cannot be loaded."""
        self._ready()

    def submit(
        self,
        request: Request,
        *,
        emit: Callable[[Piece], None] | None = None,
        rollout: int | None = None,
        completion: int = 0,
    ) -> Ticket:
        """Submit a request. `emit` is called on the engine thread with each piece of the answer: it must not block.

        `rollout` and `completion` choose among the samples of one seed.
        """
        return self.submit_all(request, [(rollout, completion)], emit=emit)[0]

    def submit_all(
        self,
        request: Request,
        samples: Sequence[Sample],
        *,
        emit: Callable[[Piece], None] | None = None,
    ) -> list[Ticket]:
        """Submit one request several times in one burst, as (rollout, completion) pairs that draw different noise."""
        while True:
            loop = self._ready()
            try:
                tickets = [Ticket(sequence) for sequence in loop.sequences(request, samples, emit)]
            except GrammarError as error:
                self._stats.count(refused=1)
                raise InvalidRequestError(str(error)) from error
            except LM15Error:
                self._stats.count(refused=1)
                raise
            if loop.open_tickets.register(tickets):
                self._stats.count(submitted=len(tickets))
                return tickets
            time.sleep(0.001)  # it is unloading or stopping; the next attempt loads it or raises

    def next_ticket(self, request: Request) -> Ticket:
        """Submit a request, or take the next completion of the burst that it belongs to."""
        current = current_burst()
        if current is None:
            return self.submit(request)
        return current.next(lambda samples: self.submit_all(request, samples))

    def complete(self, request: Request) -> Response:
        """Run a request to its end. Ctrl-C cancels it."""
        ticket = self.next_ticket(request)
        try:
            return response(request, ticket.future.result())
        except BaseException:
            ticket.cancel()
            raise

    def stream(self, request: Request) -> Iterator[Any]:
        """Yield one start event, deltas of thought, text and calls as they are decoded, one end event.

        Closing the iterator cancels.
        """
        pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        ticket = self.submit(request, emit=pieces.put, **stream_sample())
        ticket.future.add_done_callback(lambda _: pieces.put(None))
        try:
            yield StreamStartEvent(id=f"mlx-{ticket.sequence.id}", model=request.model)
            while (piece := pieces.get()) is not None:
                yield StreamDeltaEvent(delta(piece))
            sequence = ticket.future.result()
            yield StreamEndEvent(finish_reason=sequence.finish_reason, usage=usage(sequence))  # type: ignore[arg-type]
        finally:
            ticket.cancel()

    @property
    def supports_reasoning(self) -> bool:
        """Whether the model thinks before it answers. Loads the model if it has not been loaded yet."""
        if self._thinks is None:
            self._thinks = self._ready().intake.thinks
        return self._thinks

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together. Loads the model if need be."""
        return self._ready().intake.context_length

    def count_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Tokens of a chat prompt (`{"role", "content"}`) as it would be sent, template included."""
        return self._ready().intake.count_tokens(messages)

    def stats(self) -> dict[str, Any]:
        """Counters and gauges as plain numbers; see EngineStats for the meaning of each."""
        return self._stats.snapshot()

    def health(self) -> dict[str, Any]:
        """`{"alive", "loaded", "closed", "restarts", "error"}`; `alive`: the thread has not stopped for good."""
        return {
            "alive": not self._closed and self._error is None,
            "loaded": self._loaded.done() and self._loaded.exception() is None,
            "closed": self._closed,
            "restarts": self._stats.restarts,
            "error": None if self._error is None else str(self._error),
        }

    def close(self) -> None:
        """Stop, fail open requests, and free the model in the engine thread. May be called twice."""
        with self._lock:
            self._closed = True
            self._requested.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._inbox.put(None)
            _join(thread)

    def dump_state(self) -> dict[str, Any]:
        """The saved state: the model string, which holds revision and quantization."""
        return {"model": self.name}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> "MLXEngine":
        """The engine of a saved model string, shared with others of the same name."""
        return engine_for(state["model"])

    def __enter__(self) -> "MLXEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> EngineLoop:
        """The loaded engine; loads it if need be. Raises what loading raised, or ServerError after close or death."""
        with self._lock:
            if self._closed:
                raise ServerError(f"The engine of {self.name} is closed.")
            if self._error is not None:
                raise ServerError(f"The engine of {self.name} has stopped: {self._error}")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"mlx-engine-{self.name}", daemon=True)
                self._thread.start()
            self._requested.set()
            loaded = self._loaded
        return loaded.result()

    def _run(self) -> None:
        """The engine thread: load at a request, serve, free; restart once after a failure."""
        while True:
            self._requested.wait()
            if self._closed:
                break
            died = self._serve()
            if died is not None:
                with self._lock:
                    if self._stats.restarts >= 1:
                        self._error = died
                        break
                    self._stats.restarts += 1
        with self._lock:
            why = "is closed." if self._error is None else f"has stopped: {self._error}"
            self._loaded.set_exception(ServerError(f"The engine of {self.name} {why}"))

    def _serve(self) -> BaseException | None:
        """Load, serve until closed or idle, free; returns the error that ended it, if any."""
        try:
            loop = EngineLoop(*self._load(), self.options, self._stats, self._inbox)
        except BaseException as error:  # noqa: BLE001 - the callers' threads raise it
            named = isinstance(error, ModelError) and self.name in str(error)
            wrapped = error if named else ModelError(f"{self.name} cannot be loaded: {error}")
            wrapped.__cause__ = error.__cause__ if named else error
            self._renew().set_exception(wrapped)
            return None
        self._loaded.set_result(loop)
        died: BaseException | None = None
        try:
            loop.run(lambda: self._closed)
        except BaseException as error:
            log.exception("The engine thread of %s died", self.name)
            died = error
        self._renew()
        loop.open_tickets.abandon(died)
        loop.free()
        return died

    def _renew(self) -> "Future[EngineLoop]":
        """Make the next request load again; returns the future that earlier requests wait for."""
        with self._lock:
            loaded, self._loaded = self._loaded, Future()
            if not self._closed:
                self._requested.clear()
            return loaded


def _join(thread: threading.Thread) -> None:
    """Wait until a thread is gone, its native part as well.

    Before Python 3.13 `join` returns while MLX's thread-local caches, which hold Python functions, are still being
    destroyed; an interpreter that ends in that moment aborts.
    """
    thread.join()
    if sys.version_info >= (3, 13):
        return
    task = Path(f"/proc/self/task/{thread.native_id}")
    until = time.monotonic() + 5
    if not Path("/proc/self/task").exists():
        time.sleep(0.05)
    while task.exists() and time.monotonic() < until:
        time.sleep(0.001)


@atexit.register
def _close_all() -> None:
    """Free models before the interpreter tears MLX down under a running thread."""
    for engine in list(_engines):
        engine.close()


_shared_lock = threading.Lock()
_shared: dict[tuple[str, EngineOptions], MLXEngine] = {}
_by_name: dict[str, MLXEngine] = {}


def shared_engine(model: ResolvedModel, options: EngineOptions) -> MLXEngine:
    """The process's one engine of a model with these options; made, but not loaded, if there is none alive."""
    key = (model.name, options)
    with _shared_lock:
        engine = _shared.get(key)
        if engine is None or not engine.health()["alive"]:
            engine = _shared[key] = MLXEngine(partial(load, model), name=model.name, options=options)
        return engine


def engine_for(model: str) -> MLXEngine:
    """The running engine of a model string with default options; resolves a string only the first time.

    For callers that have nothing but the string at every request (LiteLLM). A model whose files change is noticed by
    `connect`, not here.
    """
    engine = _by_name.get(model)
    if engine is None or not engine.health()["alive"]:
        engine = shared_engine(resolve_model(model), EngineOptions())
        engine.start()
        _by_name[model] = engine
    return engine


def close_shared(model: str | None = None) -> None:
    """Close the shared engines of a resolved model string, or all. Raises ModelError if that model has none."""
    with _shared_lock:
        chosen = [key for key in _shared if model in (None, key[0])]
        if model is not None and not chosen:
            running = ", ".join(closest_first(model, [name for name, _ in _shared])) or "none"
            raise ModelError(f"No engine of {model!r} is running. Running: {running}.")
        closing = [_shared.pop(key) for key in chosen]
        for name in [name for name, engine in _by_name.items() if engine in closing]:
            del _by_name[name]
    for engine in closing:
        engine.close()
