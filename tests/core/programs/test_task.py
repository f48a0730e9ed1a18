"""A task checks what its plugin makes."""

import dspy
import pytest

from dspy_toolkit import PluginManager
from dspy_toolkit.errors import PluginError
from dspy_toolkit.plugins import Found
from dspy_toolkit.programs.task import Task
from dspy_toolkit.types import TaskEntry


def task_with(*names: str) -> Task:
    entry = TaskEntry(
        name="t",
        summary="s",
        program=lambda: dspy.Predict("a -> b"),
        data=lambda: None,
        metric="m",
        files=lambda inputs, prediction: dict.fromkeys(names, "text"),
    )
    return Task(Found(entry=entry, project="p", distribution="d"), PluginManager(entry_points=False))


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/passwd", "a/b.txt", "a\\b.txt", "..", ".", "", ".profile", "a\n", "~", "c:x", "-rf"]
)
def test_a_file_that_could_lead_out_of_its_folder_is_refused_before_any_is_written(name):
    with pytest.raises(PluginError, match="p/t makes a file called"):
        task_with("good.yaml", name).files({}, dspy.Prediction())


def test_plain_names_are_files():
    assert list(task_with("lora.yaml", "adapter_config.json", "é-1.txt").files({}, dspy.Prediction())) == [
        "lora.yaml",
        "adapter_config.json",
        "é-1.txt",
    ]
