"""A run's events as lines of JSON, for programs that follow a run."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dspy_toolkit.cli.output import Output
from dspy_toolkit.errors import OptimizationError

if TYPE_CHECKING:
    from dspy_toolkit.runs.events import Event

__all__ = ["EventLines"]


class EventLines:
    """An event sink that adds a line to `path` for each event, at once, and passes the event on; `-` is stderr."""

    def __init__(self, output: Output, path: Path, then: "Callable[[Event], None] | None"):
        self._then = then
        try:
            self._file = output.stderr.file if str(path) == "-" else path.open("a", encoding="utf-8")
        except OSError as error:
            raise OptimizationError(f"The file {path} for events cannot be written: {error.strerror}.") from error
        self._mine = str(path) != "-"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            self._file.close()

    def __call__(self, event: "Event") -> None:
        self._file.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
        self._file.flush()
        if self._then is not None:
            self._then(event)
