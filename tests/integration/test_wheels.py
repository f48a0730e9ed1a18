"""Each distribution, built as a wheel and installed on its own in a clean environment."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "core": ROOT / "core",
    "lora": ROOT / "plugins" / "lora",
    "mlx": ROOT / "providers" / "mlx",
    "weather": ROOT / "examples" / "dspy-toolkit-weather",
    "dice": ROOT / "examples" / "dspy-toolkit-dice",
}

pytestmark = [pytest.mark.registry, pytest.mark.slow]


def run(*command, **options):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    built = {}
    for name, source in SOURCES.items():
        run("uv", "build", "--quiet", "--wheel", "--out-dir", folder / name, source)
        built[name] = next((folder / name).glob("*.whl"))
    return built


class Environment:
    """A clean virtual environment with what is installed into it from wheels."""

    def __init__(self, folder):
        self.folder = folder
        run("uv", "venv", "--quiet", "--python", "3.11", folder)
        self.bin = folder / "bin"

    def install(self, *packages):
        constraints = ROOT / "constraints.txt"
        run("uv", "pip", "install", "--quiet", "--python", self.bin / "python", "-c", constraints, *packages)

    def uninstall(self, package):
        run("uv", "pip", "uninstall", "--quiet", "--python", self.bin / "python", package)

    def plugins(self):
        listed = json.loads(run(self.bin / "dspy-toolkit", "plugins", "--json", cwd=self.folder))["plugins"]
        for plugin in listed:
            assert set(plugin) == {"name", "distribution", "version", "hooks", "error", "blocked"}
            assert plugin["error"] is None
            assert plugin["blocked"] is False
        return {plugin["name"]: plugin["distribution"] for plugin in listed}


def test_plugins_come_and_go_with_their_wheels(wheels, tmp_path):
    environment = Environment(tmp_path / "environment")
    environment.install(wheels["core"])
    assert environment.plugins() == {"core": "dspy-toolkit"}

    environment.install(wheels["weather"])  # a plugin written outside the workspace
    assert environment.plugins() == {"core": "dspy-toolkit", "weather": "dspy-toolkit-weather"}
    tasks = json.loads(run(environment.bin / "dspy-toolkit", "tasks", "--json", cwd=tmp_path))["tasks"]
    assert [task["name"] for task in tasks] == ["weather/forecast"]

    environment.install(wheels["lora"])
    environment.install(wheels["mlx"])
    assert set(environment.plugins()) == {"core", "lora", "mlx", "weather"}

    environment.install(wheels["dice"])  # so is this provider; it answers by the grammar without a model
    code = (
        "import dspy; from dspy_toolkit import DSPyFramework; framework = DSPyFramework()\n"
        "with dspy.context(lm=framework.lm('dice/bytes', temperature=1.0), adapter=framework.adapter()):\n"
        "    print(type(dspy.Predict('question -> count: int')(question='?').count).__name__)\n"
    )
    assert run(environment.bin / "python", "-c", code, cwd=tmp_path).split() == ["int"]
    environment.uninstall("dspy-toolkit-dice")

    environment.uninstall("dspy-toolkit-lora")
    assert set(environment.plugins()) == {"core", "mlx", "weather"}


@pytest.mark.parametrize("name", ["lora", "mlx"])
def test_a_wheel_installs_alone(name, wheels, tmp_path):
    environment = Environment(tmp_path / "environment")
    environment.install(wheels[name], wheels["core"])
    assert set(environment.plugins()) == {"core", name}
    typed = list((environment.folder / "lib").rglob(f"dspy_toolkit_{name}/py.typed"))
    assert len(typed) == 1
