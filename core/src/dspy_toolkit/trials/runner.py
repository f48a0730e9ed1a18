"""Runs trials: from the cache where it can, else in the domain's worker process, one at a time."""

import concurrent.futures.thread  # noqa: F401  # before `_end_all` is registered, see there
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dspy_toolkit.errors import TrialError, TrialTimeoutError
from dspy_toolkit.trials.cache import content_key, read_result, write_result
from dspy_toolkit.trials.encoding import decode, encode
from dspy_toolkit.trials.fingerprint import code_digest
from dspy_toolkit.trials.kind import TrialKind, TrialProgress
from dspy_toolkit.trials.process import MissingModuleError, WorkerDiedError, WorkerProcess

__all__ = ["TrialRunner", "run_trial", "shared_runner"]

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Result = TypeVar("Result")
OnProgress = Callable[[TrialProgress], None]


def run_trial(kind: TrialKind[Input, Result], trial: Input, *, on_progress: OnProgress | None = None) -> Result:
    """Run a trial in its domain's worker process, or return its stored result. Safe to call from several threads.

    Threads that ask for the same trial at the same time share one run; each hears of its progress. Raises TrialError:
    the trial raised, its process died, or it cannot run here; TrialTimeoutError: it took too long. Either costs this
    trial only: the next one gets a new worker process.
    """
    return shared_runner(kind.domain).run(kind, trial, on_progress=on_progress)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A trial with everything that its result depends on."""

    kind: TrialKind[Any, Any]
    content: dict[str, Any]
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / self.kind.function.__name__ / f"{content_key(self.content)}.json"


class _Run:
    """A trial that is running: what all of its callers wait for."""

    def __init__(self) -> None:
        self.outcome: Future[Any] = Future()
        self.subscribers: list[OnProgress] = []

    def report(self, progress: TrialProgress) -> None:
        for subscriber in list(self.subscribers):
            try:
                subscriber(progress)
            except Exception:
                # One caller's display must not end a trial that others wait for.
                logger.exception("A callback for the progress of trials raised and is not called again.")
                self.subscribers.remove(subscriber)


class TrialRunner:
    """One worker process, started when first needed, and the results below `folder`.

    `folder` is the cache folder of the settings unless given. `time_limit` replaces that of the kinds.
    """

    def __init__(self, domain: str, *, folder: Path | None = None, time_limit: float | None = None):
        self.domain = domain
        self.executed = 0
        """How many trials were run to their end rather than read from the cache."""
        self._folder = folder
        self._time_limit = time_limit
        self._lock = threading.Lock()
        """Guards the fields below; held for moments."""
        self._turn = threading.Lock()
        """Held by the thread whose trial the worker runs."""
        self._runs: dict[Path, _Run] = {}
        self._worker: WorkerProcess | None = None
        self._ended = False

    def run(self, kind: TrialKind[Input, Result], trial: Input, *, on_progress: OnProgress | None = None) -> Result:
        """See `run_trial`."""
        request = self._request(kind, trial)
        while True:
            stored = self._stored(request)
            if stored is not None:
                return stored[0]
            with self._lock:
                run = self._runs.get(request.path)
                leads = run is None
                if run is None:
                    run = self._runs[request.path] = _Run()
                if on_progress is not None:
                    run.subscribers.append(on_progress)
            if leads:
                return self._lead(request, run)
            try:
                return run.outcome.result()
            except CancelledError:  # the thread that ran it was interrupted, which is no reason for this one to stop
                continue

    def close(self) -> None:
        """Kill the worker process; a trial that it is running fails. The next trial starts another process."""
        self._discard(self._worker)

    def end(self) -> None:
        """Close, and refuse further trials: this process is about to end."""
        with self._lock:
            self._ended = True
        self.close()

    @property
    def worker_pid(self) -> int | None:
        """The process id of the worker, None when there is none."""
        worker = self._worker
        return worker.pid if worker else None

    def _request(self, kind: TrialKind[Any, Any], trial: Any) -> _Request:
        try:
            typed = decode(kind.input_adapter, encode(kind.input_adapter, trial))
            document = encode(kind.input_adapter, typed)  # one spelling: 1 and 1.0 are the same float
        except (ValueError, TypeError) as error:
            raise TrialError(f"The trial {kind.name} cannot take its input: {_problems(error)}") from error
        content = {
            "kind": kind.reference,
            "input": document,
            "code": code_digest(kind.module),
            "versions": kind.versions,
        }
        return _Request(kind=kind, content=content, folder=(self._folder or _cache_folder()) / "trials" / self.domain)

    def _stored(self, request: _Request) -> tuple[Any] | None:
        """The result in the cache, in a tuple because it may be None."""
        document = read_result(request.path)
        if document is None:
            return None
        try:
            return (decode(request.kind.result_adapter, document["value"]),)
        except (ValidationError, TypeError, KeyError, ValueError):
            logger.warning("The trial result %s is damaged and is computed again.", request.path)
            return None

    def _lead(self, request: _Request, run: _Run) -> Any:
        try:
            with self._turn:
                stored = self._stored(request)  # another process may have finished it meanwhile
                result = stored[0] if stored is not None else self._execute(request, run)
        except BaseException as error:
            self._forget(request)
            if isinstance(error, Exception):
                run.outcome.set_exception(error)
            else:
                run.outcome.cancel()
            raise
        self._forget(request)
        run.outcome.set_result(result)
        return result

    def _forget(self, request: _Request) -> None:
        with self._lock:
            del self._runs[request.path]

    def _execute(self, request: _Request, run: _Run) -> Any:
        kind = request.kind
        try:
            document, seconds = self._ask(request, run)
            result = decode(kind.result_adapter, document)
        except TrialTimeoutError as error:
            raise TrialTimeoutError(f"The trial {kind.name} was stopped: {error}.") from error
        except ValidationError as error:
            raise TrialError(
                f"The trial {kind.name} returned something else than it declares: {_problems(error)}"
            ) from error
        except WorkerDiedError as error:
            raise TrialError(f"The process of the trial {kind.name} died: {error}.") from error
        except MissingModuleError as error:
            remedy = f". Do: {kind.install}" if kind.install else ""
            raise TrialError(f"The trial {kind.name} cannot run: {error}{remedy}") from error
        except TrialError as error:
            raise TrialError(f"The trial {kind.name} failed: {error}") from error
        self.executed += 1
        write_result(request.path, {**request.content, "result": {"value": document, "seconds": round(seconds, 3)}})
        return result

    def _ask(self, request: _Request, run: _Run) -> tuple[Any, float]:
        """Have the worker run the trial. A worker that died while idle is replaced, which costs nobody anything."""
        message = {
            "kind": request.content["kind"],
            "input": request.content["input"],
            "folder": str(request.folder),
        }
        time_limit = self._time_limit or request.kind.time_limit
        replaced = False
        while True:
            worker = self._ready_worker()
            try:
                return worker.ask(message, time_limit, run.report)
            except WorkerDiedError as death:
                closed = worker.closed
                self._discard(worker)
                if closed:
                    raise TrialError("its runner was closed") from death
                if death.started or replaced:
                    raise
                replaced = True
            except BaseException as error:  # timed out or interrupted: the worker is busy with what nobody waits for
                if isinstance(error, TrialTimeoutError) or not isinstance(error, TrialError):
                    self._discard(worker)
                raise

    def _ready_worker(self) -> WorkerProcess:
        worker = self._worker
        if worker is not None and not worker.alive:
            self._discard(worker)
        with self._lock:
            if self._ended:
                raise TrialError("this process is ending")
            if self._worker is None:
                self._worker = WorkerProcess()
            return self._worker

    def _discard(self, worker: WorkerProcess | None) -> None:
        with self._lock:
            if self._worker is worker:
                self._worker = None
        if worker is not None:
            worker.close()


def _cache_folder() -> Path:
    from dspy_toolkit.settings import DSPyConfig  # here: the worker process imports this module and needs no settings

    return DSPyConfig().cache


def _problems(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in error.errors())
    return str(error)


_runners: dict[str, TrialRunner] = {}
_runners_lock = threading.Lock()


def shared_runner(domain: str) -> TrialRunner:
    """This process's runner for a domain. Its worker ends with this process."""
    with _runners_lock:
        return _runners.setdefault(domain, TrialRunner(domain))


def _end_all() -> None:
    for runner in list(_runners.values()):
        runner.end()


# Not by `atexit`, which runs after all threads have ended: those that wait for a trial would hold this process up.
# concurrent.futures ends its threads the same way; registered after it, this runs first.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]


def _forget() -> None:
    """In a forked child: the workers and locks are the parent's."""
    global _runners_lock
    _runners.clear()
    _runners_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
