"""What a verb prints: tables for people, or one JSON document and nothing else on stdout."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Output"]


class Output:
    """Where a verb's result goes.

    With `json=True`, stdout is moved to stderr for as long as the verb runs, for C libraries too, so that the document
    is all there is on stdout. Progress and warnings always go to stderr.
    """

    def __init__(self, *, as_json: bool):
        self.as_json = as_json
        self._documents = 0
        self._target: int | None = None

    @cached_property
    def stdout(self) -> "Console":
        from rich.console import Console

        return Console(stderr=self.as_json)

    @cached_property
    def stderr(self) -> "Console":
        from rich.console import Console

        return Console(stderr=True)

    @contextmanager
    def guard(self) -> Iterator["Output"]:
        """Keep stdout clean while the verb runs; restores it whatever happens."""
        if not self.as_json:
            yield self
            return
        sys.stdout.flush()
        self._target = os.dup(1)
        os.dup2(2, 1)
        try:
            yield self
        finally:
            sys.stdout.flush()
            os.dup2(self._target, 1)
            os.close(self._target)
            self._target = None

    def print(self, *renderables: Any, sep: str = "\n") -> None:
        """Show something to a person; says nothing on stdout in JSON mode."""
        if not self.as_json:
            self.stdout.print(*renderables, sep=sep)

    def note(self, text: str) -> None:
        """Tell a person something that is not the result, on stderr."""
        self.stderr.print(text, highlight=False, soft_wrap=True)

    @property
    def documented(self) -> bool:
        """Whether the document is written already, as by a run that was stopped and shows what it finished."""
        return self._documents > 0

    def document(self, document: Mapping[str, Any]) -> None:
        """Write the JSON document, if JSON was asked for. Called once per verb."""
        if not self.as_json:
            return
        assert self._documents == 0, "a verb writes one document"
        self._documents += 1
        text = json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"
        target = 1 if self._target is None else self._target
        data = text.encode()
        while data:
            data = data[os.write(target, data) :]
