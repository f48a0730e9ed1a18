"""What a verb prints: tables for people, or one JSON document and nothing else on stdout.

Text is shown as it is: `list[str]` in a signature and `[/INST]` in a model's answer are no markup. What is to be bold
says so with `styled`. Lines are broken between words where a terminal ends, and nowhere in a file or a pipe; a path or
a command is not broken, so that it can be copied.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Output", "styled"]

_WIDE = 200
"""Columns of tables where nobody's terminal sets a limit: in a file or a pipe."""


def styled(markup: str, *values: Any, whole: bool = False) -> "Text":
    """`markup`, as rich has it, with each `{}` replaced by a value as it is. `whole` is one line, however long."""
    from rich.markup import escape
    from rich.text import Text

    text = Text.from_markup(markup.format(*(escape(str(value)) for value in values)), emoji=False)
    text.no_wrap = whole
    return text


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
        return _console(stderr=self.as_json)

    @cached_property
    def stderr(self) -> "Console":
        return _console(stderr=True)

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

    def print(self, *renderables: Any) -> None:
        """Show something to a person, each on lines of its own; says nothing on stdout in JSON mode."""
        if not self.as_json:
            _print(self.stdout, renderables)

    def aside(self, *renderables: Any) -> None:
        """The same on stderr: what is not the result."""
        _print(self.stderr, renderables)

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


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, emoji=False)
    if not _ends(console):
        console.width = _WIDE
    return console


def _ends(console: "Console") -> bool:
    """Whether lines have an end that somebody set."""
    return console.is_terminal or "COLUMNS" in os.environ


def _print(console: "Console", renderables: Iterable[Any]) -> None:
    from rich.cells import cell_len
    from rich.text import Text

    for renderable in renderables:
        if not isinstance(renderable, str | Text):
            console.print(renderable)
            continue
        text = console.render_str(renderable) if isinstance(renderable, str) else renderable
        if not _ends(console) or text.no_wrap:
            console.print(text, soft_wrap=True)
            continue
        longest = max(map(cell_len, text.plain.split()), default=0)
        for line in text.wrap(console, max(console.width, longest)):
            line.rstrip()
            console.print(line, soft_wrap=True)
