"""The parent's end of a worker process: its pipes, its time, its last words."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dspy_toolkit.errors import TrialError, TrialTimeoutError
from dspy_toolkit.trials.kind import TrialProgress

__all__ = ["MissingModuleError", "WorkerDiedError", "WorkerProcess"]

_ONE_THREAD = dict.fromkeys(
    (
        "BLIS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)
"""On the small matrices of trials a second BLAS thread costs three times what it saves (measured on two cores)."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from dspy_toolkit.trials.worker import main; main()"
)
"""With the parent's import path, so that whatever declares a kind there can be imported here."""

_START_SECONDS = 120.0
"""Longest time to start the process and import what a kind needs; a shorter time limit begins after that."""

_TAIL_BYTES = 8192


class MissingModuleError(TrialError):
    """The trial could not import something."""


class WorkerDiedError(Exception):
    """The process ended without an answer. `started` is whether the trial had begun, and may be to blame."""

    def __init__(self, message: str, *, started: bool):
        super().__init__(message)
        self.started = started


class WorkerProcess:
    """One process. Used by one thread at a time, except for `close`."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C in the terminal reaches the parent, which then decides about the worker.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,
        )
        self.closed = False
        self._closing = threading.Lock()
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._tail = b""
        self._reader = threading.Thread(target=self._read_answers, daemon=True)
        self._listener = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._reader.is_alive()

    def ask(
        self, request: Mapping[str, Any], time_limit: float, on_progress: Callable[[TrialProgress], None]
    ) -> tuple[Any, float]:
        """The encoded result of one trial and the seconds it took.

        Raises TrialTimeoutError, TrialError for a trial that raised, WorkerDiedError. After the first and the last
        this process is of no more use.
        """
        started = False
        self._send(request)
        begin = time.monotonic()
        deadline = begin + max(_START_SECONDS, time_limit)
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TrialTimeoutError(f"it took longer than {time_limit:g} s and was ended") from None
            if line is None:
                raise WorkerDiedError(self._last_words(), started=started)
            message = json.loads(line)
            if "started" in message:
                started, begin = True, time.monotonic()
                deadline = begin + time_limit
            elif "progress" in message:
                progress = TrialProgress(**message["progress"])
                if progress.preparing:
                    deadline = time.monotonic() + time_limit
                on_progress(progress)
            elif "error" in message:
                error = MissingModuleError(message["error"]) if message["missing"] else TrialError(message["error"])
                error.add_note(message["traceback"])
                raise error
            else:
                return message["result"], time.monotonic() - begin

    def close(self) -> None:
        """Kill the process and everything it started. Whoever waits in `ask` gets WorkerDiedError."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
            # Before it is waited for: until then its number belongs to nobody else.
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: not permitted for a dead group
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            # With a limit: what a trial started in a session of its own survives, and may hold the pipes open.
            self._reader.join(timeout=1)
            self._listener.join(timeout=1)
            assert self._process.stdin
            with contextlib.suppress(BrokenPipeError):  # a request that was never read
                self._process.stdin.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed by another thread
            raise WorkerDiedError(self._last_words(), started=False) from None

    def _read_answers(self) -> None:
        assert self._process.stdout
        with self._process.stdout as pipe:
            for line in pipe:
                self._answers.put(line)
        self._answers.put(None)

    def _read_errors(self) -> None:
        """Keep the end of what the process prints: enough to say why it died, however much a trial prints."""
        assert self._process.stderr
        with self._process.stderr as pipe:
            while block := os.read(pipe.fileno(), 1 << 16):
                self._tail = (self._tail + block)[-_TAIL_BYTES:]

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        self._listener.join(timeout=1)
        ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        printed = self._tail.decode(errors="replace").strip().splitlines()
        return f"{ending}; it printed last: {printed[-1].strip()[:500]}" if printed else ending
