"""MLflow's own server, on this machine only, for looking at what was sent."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from dspy_toolkit.errors import TrackingError
from dspy_toolkit.tracking.target import Target

__all__ = ["Server"]

_START = 120.0  # seconds; a cold start on a busy machine takes twenty


class Server:
    """`mlflow server` on the database of `target`, bound to 127.0.0.1: one worker and no job runner.

    Started on entering, stopped on leaving. What it says goes to `log`.
    """

    def __init__(self, target: Target, *, port: int, log: IO[bytes]):
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._target = target
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        """Raises TrackingError when the port is taken, or it ends instead of answering; `log` says why."""
        _check_free(self._port)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlflow", "server", *self._options()],
            env=self._environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # stopped as a whole, workers too
        )
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:  # Ctrl-C too: no server is left behind
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> int:
        """Return its exit status when it ends by itself."""
        assert self._process is not None
        return self._process.wait()

    def stop(self, *, at_once: bool = False) -> None:
        """End it and its workers. `at_once` is as a power cut would."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process, signal.SIGKILL if at_once and hasattr(signal, "SIGKILL") else signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            process.wait()

    def _options(self) -> list[str]:
        artifacts = [] if self._target.artifacts is None else ["--artifacts-destination", self._target.artifacts]
        return ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1", *artifacts]

    def _environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        return {
            **ours,
            "MLFLOW_BACKEND_STORE_URI": self._target.uri,  # as an option, everybody on the machine could read it
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise TrackingError(f"`mlflow server` ended at once, with status {process.returncode}{self._said()}.")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise TrackingError(f"`mlflow server` did not answer at {self.url} within {_START:.0f} seconds{self._said()}.")

    def _said(self) -> str:
        """The last line of the log, where the log is a file."""
        name = getattr(self._log, "name", None)
        if not isinstance(name, str) or not Path(name).is_file():
            return ""
        lines = Path(name).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {self._target.redact(last)[:300]}" if last else ""


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(
                f"Port {port} of this machine cannot be used ({error.strerror}); take another with --port."
            ) from error


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()
