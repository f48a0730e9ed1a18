"""One trial runner for the tests that train, with its own cache folder: the small base model is pretrained once."""

import pytest

from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.scenarios.scenario import Scenario
from dspy_toolkit_lora.trial.run import TrialRunner


@pytest.fixture(scope="session")
def lora_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def runner(lora_cache):
    runner = TrialRunner(lora_cache / "lora")
    yield runner
    runner.close()


@pytest.fixture
def own_cache(lora_cache, runner, monkeypatch):
    """Lets `run_trial` use the tests' cache folder."""
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(lora_cache))


@pytest.fixture
def scenario():
    return Scenario(model="SmolLM2-360M", memory_gb=8.0, max_steps=32, rows=128, row_tokens=256, shift=0.5, noise=0.0)


@pytest.fixture
def config():
    return LoRAConfig(rank=8, scale=10, learning_rate=0.001, batch_size=4, iters=32, grad_checkpoint=False)
