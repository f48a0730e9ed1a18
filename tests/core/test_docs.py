"""The docs name what there is."""

import inspect
from pathlib import Path

from dspy_toolkit import hookspecs

DOCS = Path(__file__).parents[2] / "docs"


def test_every_hook_has_a_heading_with_its_signature():
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    for name, hook in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("toolkit_"):
            entry = inspect.signature(hook).return_annotation.__args__[0].__name__
            assert f"### `{name}() -> Iterable[{entry}]`" in text
