"""One cache folder for the tests that train: the small base model is pretrained once."""

import pytest

from dspy_toolkit.trials import TrialRunner, shared_runner
from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.scenarios.scenario import Scenario


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """The shared runner of `lora`, with a cache folder of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        runner = shared_runner("lora")
        yield runner
        runner.close()


@pytest.fixture
def fresh_runner(tmp_path):
    """A runner that nothing ran in, with an empty cache."""
    runner = TrialRunner("lora", folder=tmp_path)
    yield runner
    runner.close()


@pytest.fixture
def scenario():
    return Scenario(model="SmolLM2-360M", memory_gb=8.0, max_steps=32, rows=128, row_tokens=256, shift=0.5, noise=0.0)


@pytest.fixture
def config():
    return LoRAConfig(rank=8, scale=10, learning_rate=0.001, batch_size=4, iters=32, grad_checkpoint=False)
