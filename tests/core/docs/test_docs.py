"""The docs name what there is."""

import inspect
import re
from pathlib import Path

from dspy_toolkit import hookspecs
from dspy_toolkit.optimize.optimizer import find_optimizer
from dspy_toolkit.types import OptimizerEntry

DOCS = Path(__file__).parents[3] / "docs"


def test_every_hook_has_a_heading_with_its_signature():
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    for name, hook in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("toolkit_"):
            entry = inspect.signature(hook).return_annotation.__args__[0].__name__
            assert f"### `{name}() -> Iterable[{entry}]`" in text


def test_every_optimizer_in_the_box_is_documented_by_both_names(plugin_manager):
    text = (DOCS / "optimizers.md").read_text(encoding="utf-8")
    ours = {found.entry.name for found in plugin_manager.entries(OptimizerEntry).values()}
    table = dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", text, re.MULTILINE))
    assert set(table) == ours
    for name, dspys in table.items():
        assert find_optimizer(plugin_manager, dspys).entry.name == name
