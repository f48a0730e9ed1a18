"""Trials: a proposed configuration, trained for real in a process of its own, each one once per machine."""

import atexit
import contextlib
import hashlib
import itertools
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from dspy_toolkit.errors import MetricError
from dspy_toolkit_lora.config import LoRAConfig, TrainingPlan
from dspy_toolkit_lora.scenarios.scenario import Scenario
from dspy_toolkit_lora.trial.versions import code_digest

__all__ = ["TrialResult", "TrialRunner", "run_trial"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_TRIAL_SECONDS = 300.0
"""Longest silence of the worker. Trials take about a second; the slowest machine without a fast BLAS takes ten."""


_ONE_THREAD = dict.fromkeys(
    ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""On matrices this small a second BLAS thread costs three times what it saves (measured on two cores)."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a training brought. Losses are nats per character on the scenario's validation text.

    `initial_loss` is the base model's, `counting_loss` that of knowing only character frequencies, `final_val_loss` the
    tuned model's (None if training diverged to no number). `seconds` is what the training took when it was run.
    """

    initial_loss: float
    counting_loss: float
    final_val_loss: float | None
    peak_bytes: int
    seconds: float
    tokens: int

    @property
    def untrained_loss(self) -> float:
        """What a trial has to beat: the better of the base model and counting characters."""
        return min(self.initial_loss, self.counting_loss)


def run_trial(config: LoRAConfig, scenario: Scenario) -> TrialResult:
    """Train by `config` on the scenario's text, or recall what it brought. Safe to call from several threads.

    Raises MetricError if the worker process cannot be started, dies twice or stays silent too long.
    """
    return _runner().run(config, scenario)


def cache_folder() -> Path:
    """Where results and the base model are kept: DSPY_TOOLKIT_CACHE, or the user's cache folder."""
    root = os.environ.get("DSPY_TOOLKIT_CACHE") or platformdirs.user_cache_path("dspy-toolkit")
    return Path(root) / "lora"


class TrialRunner:
    """Owns one worker process, started when first needed, and the results in `folder`. One trial runs at a time."""

    def __init__(self, folder: Path, *, timeout: float = _TRIAL_SECONDS, progress: Progress | None = None):
        self.folder = folder
        self.timeout = timeout
        self.progress = progress
        self.trained = 0
        """How many trials were run rather than recalled."""
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def run(self, config: LoRAConfig, scenario: Scenario) -> TrialResult:
        """See `run_trial`."""
        plan = TrainingPlan.of(config).model_dump(mode="json")
        text = scenario.text
        path = self.folder / "trials" / f"{_digest(plan, text)}.json"
        if path.exists():
            return TrialResult(**json.loads(path.read_text())["result"])
        with self._lock:
            if path.exists():  # another thread trained it while this one waited
                return TrialResult(**json.loads(path.read_text())["result"])
            result = self._train({"plan": plan, "text": text})
            self.trained += 1
            _write(path, {"plan": plan, "text": text, "result": asdict(result)})
        return result

    def close(self) -> None:
        """End the worker process. The runner can be used again: it starts another."""
        with self._lock:
            self._stop()

    def _train(self, request: Mapping[str, Any]) -> TrialResult:
        for last in (False, True):
            self._worker = self._worker or _Worker(self.folder)
            try:
                return TrialResult(**self._worker.ask(request, self.timeout, self.progress))
            except _WorkerDiedError as death:
                self._stop()
                if last:
                    raise MetricError(f"The process that runs LoRA trials died: {death}") from death
                logger.warning("The process that runs LoRA trials died and is restarted: %s", death)
            except _TrialFailedError as failure:
                raise MetricError(f"A LoRA trial failed: {failure}") from failure
            except BaseException:  # interrupted or timed out: the worker is busy with what nobody waits for
                self._stop()
                raise
        raise AssertionError

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class _WorkerDiedError(Exception):
    pass


class _TrialFailedError(Exception):
    """The worker's answer: this trial cannot be run. It is ready for the next."""


class _Worker:
    """The process and its two pipes. Used by one thread at a time."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- lives as long as the process
        # A session of its own: Ctrl-C in the terminal reaches this process, which then ends the worker.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dspy_toolkit_lora.trial.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,
        )
        self._numbers = itertools.count()
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, request: Mapping[str, Any], timeout: float, progress: Progress | None) -> dict[str, Any]:
        """The result of one request. Raises MetricError for silence, _TrialFailedError, _WorkerDiedError."""
        number = next(self._numbers)
        self._send({"id": number, **request})
        while True:
            try:
                line = self._answers.get(timeout=timeout)
            except queue.Empty:
                raise MetricError(f"A LoRA trial said nothing for {timeout:.0f} s and was ended.") from None
            if line is None:
                raise _WorkerDiedError(self._last_words())
            answer = json.loads(line)
            if "progress" in answer:
                _show(progress, *answer["progress"])
            elif "error" in answer:
                raise _TrialFailedError(answer["error"])
            else:
                return answer["result"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # a request that was never read
                    pipe.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _WorkerDiedError(self._last_words()) from None

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        return said[-1] if said else f"exit status {code}"


def _show(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress(done, total)
    elif done == total:
        logger.info("Pretrained the small model of the LoRA trials (kept for the next time).")


def _digest(plan: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    content = json.dumps({"plan": plan, "text": text, "code": code_digest()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=1))
    os.replace(temporary, path)


_runners: dict[Path, TrialRunner] = {}
_runners_lock = threading.Lock()


def _runner() -> TrialRunner:
    """The process's runner for the current cache folder."""
    with _runners_lock:
        folder = cache_folder()
        if folder not in _runners:
            _runners[folder] = TrialRunner(folder)
            atexit.register(_runners[folder].close)
        return _runners[folder]
