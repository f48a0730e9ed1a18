"""A machine that lacks what trials need: said by the metric ahead of any call, and by `doctor`, with the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx
import pytest

from dspy_toolkit_lora.trial.needs import INSTALL, doctor

CHECK = """
import json, os, sys
sys.path[:] = json.loads(os.environ["TEST_PATH"])
import dspy
from dspy_toolkit_lora.metric.training import training
from dspy_toolkit_lora.scenarios.scenario import splits
from dspy_toolkit_lora.trial.needs import doctor
try:
    training.check([dspy.Example(**splits()["test"][0].row)])
except Exception as error:
    print(json.dumps([type(error).__name__, str(error), *((check.ok, check.remedy) for check in doctor())]))
"""


def checked(path: list[str], cache: Path):
    environment = {**os.environ, "TEST_PATH": json.dumps(path), "DSPY_TOOLKIT_CACHE": str(cache)}
    process = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture
def path_without_mlx(tmp_path):
    """The import path of this environment with everything but mlx."""
    packages = Path(mlx.__path__[0]).parent
    (tmp_path / "site").mkdir()
    for entry in packages.iterdir():
        if not entry.name.startswith("mlx"):
            (tmp_path / "site" / entry.name).symlink_to(entry)
    return [str(tmp_path / "site") if entry == str(packages) else entry for entry in sys.path]


def test_without_mlx_the_metric_refuses_and_doctor_says_what_to_install(path_without_mlx, tmp_path):
    kind, message, check = checked(path_without_mlx, tmp_path / "cache")
    assert kind == "TrialError"
    assert message == f"The trial lora/ready cannot run: mlx and mlx-lm are not installed. Do: {INSTALL}"
    assert check == [False, INSTALL]


def test_mlx_without_its_library_is_named_with_the_command(tmp_path):
    broken = tmp_path / "broken" / "mlx"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    (broken / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object file')")
    kind, message, check = checked([str(tmp_path / "broken"), *sys.path], tmp_path / "cache")
    assert kind == "TrialError"
    assert "libmlx.so: cannot open shared object file" in message
    assert message.endswith(f"Do: {INSTALL}")
    assert check == [False, INSTALL]


def test_doctor_is_content_here():
    (check,) = doctor()
    assert check.ok, check
    assert "CPU" in check.detail
