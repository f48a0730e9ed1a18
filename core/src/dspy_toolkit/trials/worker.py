"""The process that runs trials. One JSON document per line on both pipes.

    in   {"kind": "package.module:function", "input": ..., "folder": "/cache/trials/lora"}
    out  {"started": true}                              the kind is imported; its time starts
    out  {"progress": {"stage": "pretraining", "completed": 20, "total": 400, "preparing": true}}
    out  {"result": ...}
    out  {"error": "ValueError: one line", "missing": false, "traceback": "..."}
                                                        `missing`: something could not be imported

The kind comes from the code that declares it, never from data. Trials run in the main thread, which some libraries
need. What they print goes to stderr, and they read an empty stdin: the pipes are out of their reach. The process ends
with everything it started when its input ends or its parent is gone, in the middle of a trial too.
"""

import json
import os
import queue
import select
import signal
import threading
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from dspy_toolkit.trials.encoding import decode, encode
from dspy_toolkit.trials.kind import TrialContext, TrialKind

__all__ = ["main"]

_LONGEST_ERROR = 2000
_PARENT_CHECK_SECONDS = 1.0
"""A forked child of the parent can hold the pipe open after the parent died, so the parent is looked for, too."""


def main() -> None:
    """Answer requests until the input ends."""
    pipes = _Pipes()
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=pipes.listen, args=(requests,), daemon=True).start()
    while True:
        _answer(json.loads(requests.get()), pipes)


class _Pipes:
    """The two pipes to the parent, moved away from where tools print and read."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._input = os.dup(0)
        self._output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._writing = threading.Lock()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        line = json.dumps(message) + "\n"
        with self._writing:
            self._output.write(line)
            self._output.flush()

    def listen(self, requests: queue.Queue[str]) -> None:
        """Hand lines over until there are no more, then end the process and whatever a trial started."""
        received = b""
        while os.getppid() == self._parent:
            if not select.select([self._input], [], [], _PARENT_CHECK_SECONDS)[0]:
                continue
            block = os.read(self._input, 1 << 16)
            if not block:
                break
            *lines, received = (received + block).split(b"\n")
            for line in lines:
                requests.put(line.decode())
        os.killpg(0, signal.SIGKILL)


def _answer(request: dict[str, Any], pipes: _Pipes) -> None:
    try:
        kind = _load(request["kind"])
        pipes.send(started=True)
        context = TrialContext(
            Path(request["folder"]), kind.packages, lambda progress: pipes.send(progress=asdict(progress))
        )
        result = kind(decode(kind.input_adapter, request["input"]), context)
        pipes.send(result=encode(kind.result_adapter, result))
    except BaseException as error:  # noqa: BLE001  # SystemExit too: tools with a command line raise it for a bad option
        missing = isinstance(error, ImportError)
        pipes.send(error=_describe(error), missing=missing, traceback=traceback.format_exc()[-_LONGEST_ERROR:])


def _load(reference: str) -> TrialKind[Any, Any]:
    module, _, name = reference.partition(":")
    kind = getattr(import_module(module), name)
    if not isinstance(kind, TrialKind):
        raise TypeError(f"{reference} is no trial kind")
    return kind


def _describe(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  # a stranger's exception may fail to describe itself
        text = "an error that cannot be written"
    return f"{type(error).__name__}: {text}"[:_LONGEST_ERROR]
