"""A command line with plugins on disk: the example plugin, and a provider whose model answers from a script."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dspy_toolkit.testing import write_distribution

EXAMPLE = Path(__file__).parents[2] / "examples" / "dspy-toolkit-weather" / "src" / "dspy_toolkit_weather"

PROVIDER_HOOKS = """
from dspy_toolkit import hookimpl
from dspy_toolkit.types import ProviderEntry

@hookimpl
def toolkit_providers():
    yield ProviderEntry(name="scripted", summary="Answers from a script.", connect="dspy_toolkit_scripted.lm:connect")
"""

# Without demonstrations the model says "rain" whatever the readings; with them it reads the readings.
PROVIDER = """
import os, re, threading
from dspy_toolkit.testing import ScriptedLM

def connect(model, **options):
    seconds = float(os.environ.get("SCRIPTED_SECONDS", "0"))
    return ScriptedLM(broken if model.endswith("broken") else answer, model=model, seconds=seconds, **options)

def broken(request):
    raise ConnectionError("the barometer fell off the wall")

def answer(request):
    with open(os.environ["SCRIPTED_LOG"], "a") as log:
        log.write("call\\n")
    with open(os.environ["SCRIPTED_LOG"]) as log:
        if len(log.readlines()) >= float(os.environ.get("SCRIPTED_STALLS", "inf")):
            threading.Event().wait(3600)  # so that what comes of a signal does not depend on when it comes
    if os.environ.get("SCRIPTED_BABBLES"):
        return "blah blah"
    asked = request.messages[-1].text
    pressure = int(re.search(r"pressure ## ]]\\n(\\d+)", asked)[1])
    falling = "falling ## ]]\\nTrue" in asked
    learned = len(request.messages) > 1
    return {"forecast": "rain" if not learned or (pressure < 1010 and falling) else "dry"}
"""


class CommandLine:
    """Runs `dspy-toolkit` as a process of its own; keeps its folders in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "calls.log"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DSPY_TOOLKIT_")},
            "DSPY_TOOLKIT_TRACKING__ENABLED": "false",
            "PYTHONPATH": str(folder / "site"),
            "DSPY_TOOLKIT_PLUGINS": "weather,scripted",
            "DSPY_TOOLKIT_STORE": str(folder / "programs"),
            "DSPY_TOOLKIT_CACHE": str(folder / "cache"),
            "SCRIPTED_LOG": str(self.log),
            "COLUMNS": "200",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from dspy_toolkit.cli import main; main()", *arguments],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    @property
    def calls(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def command_line(tmp_path):
    site = tmp_path / "site"
    write_distribution(
        site,
        "weather",
        (EXAMPLE / "hooks.py").read_text(),
        files={"forecast.py": (EXAMPLE / "forecast.py").read_text()},
    )
    write_distribution(site, "scripted", PROVIDER_HOOKS, files={"lm.py": PROVIDER})
    return CommandLine(tmp_path)


@pytest.fixture
def stall():
    """Has a call of an LM stay away until the test is over (or a minute, where somebody waits for it): what a run
    has finished when it is stopped then does not depend on who is faster.
    """
    over = threading.Event()
    yield lambda: over.wait(60)
    over.set()
