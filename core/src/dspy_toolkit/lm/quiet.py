"""Keeping DSPy's progress bars, prints and log lines off the terminal, and nobody else's.

DSPy's optimizers print and draw tqdm bars on stdout and stderr, and its LMs log there. `contextlib.redirect_stdout`
would silence the whole process, our own progress bar included; here only what is written inside `quiet()` and outside
`loud()`, by this thread and those given its context, is diverted: to the logger `dspy_toolkit.optimize` at DEBUG.
DSPy's worker threads inherit its settings but no context variables, so the mark is in both.
"""

import io
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import dspy

__all__ = ["loud", "quiet"]

_logger = logging.getLogger("dspy_toolkit.optimize")
_muted: ContextVar[bool | None] = ContextVar("dspy_toolkit_muted", default=None)
_SETTING = "dspy_toolkit_muted"
_installing = threading.Lock()
_users = 0


class _Filter(io.TextIOBase):
    """Stands in for a stream: passes on what is written, unless this context is muted."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        if not _is_muted():
            return self._stream.write(text)
        line = text.strip("\r\n ")
        if line:
            with loud():
                _logger.debug("%s", line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return not _is_muted() and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def __getattr__(self, name: str) -> Any:
        # Among others rich's `rich_proxied_file`, without which a live display would write into itself.
        return getattr(self._stream, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Divert what this context writes to stdout and stderr."""
    global _users
    with _installing:
        if _users == 0:
            sys.stdout, sys.stderr = _Filter(sys.stdout), _Filter(sys.stderr)
        _users += 1
    token = _muted.set(True)
    try:
        with dspy.context(**{_SETTING: True}):
            yield
    except BaseException as error:
        # A bar says a last word when it is collected; the frames that hold it would live as long as the error.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        _muted.reset(token)
        with _installing:
            _users -= 1
            if _users == 0:
                sys.stdout, sys.stderr = _unwrapped(sys.stdout), _unwrapped(sys.stderr)


@contextmanager
def loud() -> Iterator[None]:
    """Write to the real streams even inside `quiet()`."""
    token = _muted.set(False)
    try:
        yield
    finally:
        _muted.reset(token)


def _is_muted() -> bool:
    here = _muted.get()
    return bool(dspy.settings.get(_SETTING, False)) if here is None else here


def _unwrapped(stream: Any) -> Any:
    # Somebody may have put their own stream in place meanwhile; that one stays.
    return stream._stream if isinstance(stream, _Filter) else stream
