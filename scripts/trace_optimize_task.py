"""Counts the functions and files of this project that run in one `optimize_task`; prints them as JSON.

The task is the example plugin's `weather/forecast`, the model the scripted LM, the optimizer `bootstrap`: nothing is
random, no model is loaded, nothing leaves the machine. Functions are counted on every thread, from making the
framework to the stored result; module and class bodies, lambdas and comprehensions are not.

    python scripts/trace_optimize_task.py CHECKOUT        CHECKOUT's environment must be the one that runs this
"""

import importlib
import json
import os
import sys
import tempfile
import threading
from pathlib import Path


def main(checkout: Path) -> int:
    sources = [*checkout.glob("core/src"), *checkout.glob("plugins/*/src"), *checkout.glob("providers/*/src")]
    sys.path[:0] = [str(checkout / "examples/dspy-toolkit-weather/src"), *map(str, sources)]
    os.environ.update(DSPY_TOOLKIT_TRACKING__ENABLED="false", LITELLM_LOCAL_MODEL_COST_MAP="True", HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DSPY_TOOLKIT_CACHE"] = f"{folder}/cache"
        os.environ["DSPY_CACHEDIR"] = f"{folder}/dspy"
        executed = Executed(sources)
        with executed:
            optimize_task(Path(folder))
    json.dump(
        {"functions": sorted(executed.functions), "files": sorted({f for f, _ in executed.functions})}, sys.stdout
    )
    return 0


def optimize_task(folder: Path) -> None:
    from dspy_toolkit import DSPyConfig, DSPyFramework, PluginManager, hookimpl
    from dspy_toolkit.types import ProviderEntry

    class ScriptedProvider:
        @hookimpl
        def toolkit_providers(self):
            return [ProviderEntry(name="scripted", summary="Answers from a script.", connect=connect)]

    plugins = PluginManager(entry_points=False)
    plugins.register(importlib.import_module("dspy_toolkit_weather.hooks"), project="weather", distribution="weather")
    plugins.register(ScriptedProvider(), project="scripted", distribution="scripted")
    places = {name: folder / name for name in ("store", "cache", "runs") if name in DSPyConfig.model_fields}
    config = DSPyConfig(model="scripted/barometer", num_threads=2, **places)
    result, _ = DSPyFramework(config, plugins=plugins).optimize_task("weather/forecast", optimizer="bootstrap")
    if result.optimized.score <= result.baseline.score:
        raise RuntimeError("The demonstrations of the traced run did not help: it did not do what is measured here.")


def connect(model: str, **options: object) -> object:
    from dspy_toolkit.testing import ScriptedLM

    return ScriptedLM(answer, model=model, **options)


def answer(request: object) -> dict[str, str]:
    """Rain whatever the readings; once there are demonstrations, by the readings."""
    question = request.messages[-1].text
    pressure = int(question.partition("pressure ## ]]\n")[2].split()[0])
    falling = "falling ## ]]\nTrue" in question
    learned = len(request.messages) > 1
    return {"forecast": "rain" if not learned or (pressure < 1010 and falling) else "dry"}


class Executed:
    """The functions below `sources` that are called while this context lasts, as (file, qualified name)."""

    def __init__(self, sources: list[Path]):
        self._roots = [(str(source) + os.sep, source) for source in sources]
        self._seen: dict[object, None] = {}
        self.functions: set[tuple[str, str]] = set()

    def __enter__(self) -> None:
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        for code in list(self._seen):
            for prefix, root in self._roots:
                if code.co_filename.startswith(prefix) and _is_function(code):
                    self.functions.add((str(Path(code.co_filename).relative_to(root)), code.co_qualname))

    def _on_event(self, frame: object, event: str, _: object) -> None:
        if event == "call":
            self._seen[frame.f_code] = None


def _is_function(code: object) -> bool:
    is_body = not code.co_flags & 0x2  # CO_NEWLOCALS: modules and class bodies are run without it
    return not is_body and not code.co_name.startswith("<")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
