"""Real trainings in the worker process: they learn, they repeat, the proposal matters."""

import subprocess
import sys

import pytest

from dspy_toolkit.errors import TrialError
from dspy_toolkit_lora.config import TrainingPlan
from dspy_toolkit_lora.trial.training import TrainingTrial, train, training


def changed(config, **values):
    return config.model_copy(update=values)


@pytest.fixture
def trained(runner, scenario):
    """`trained(config)`: the training by this configuration on the scenario."""
    return lambda config: train(config, scenario)


def test_a_trial_learns_and_is_stored(runner, trained, config):
    first = trained(config)
    assert first.final_val_loss < first.untrained_loss
    assert first.tokens == 32 * 4 * 24
    assert first.peak_bytes > 0
    executed = runner.executed
    assert trained(config) == first
    assert runner.executed == executed


def test_the_same_trial_in_another_process_gives_the_same(fresh_runner, trained, config, scenario):
    first = trained(changed(config, iters=12))
    stages = []
    again = fresh_runner.run(
        training,
        TrainingTrial.of(changed(config, iters=12), scenario),
        on_progress=lambda progress: stages.append((progress.stage, progress.preparing)),
    )
    assert again.final_val_loss == pytest.approx(first.final_val_loss, rel=1e-4)
    assert ("pretraining", True) in stages


def test_the_proposal_matters(trained, config):
    steady = trained(config).final_val_loss
    timid = trained(changed(config, learning_rate=0.0001)).final_val_loss
    wild = trained(changed(config, learning_rate=0.01, scale=20.0)).final_val_loss
    short = trained(changed(config, iters=10)).final_val_loss
    assert steady < min(timid, wild, short)


def test_checkpointing_and_dora_train_too(trained, config):
    plain = trained(changed(config, iters=12))
    checkpointed = trained(changed(config, iters=12, grad_checkpoint=True))
    assert checkpointed.final_val_loss == pytest.approx(plain.final_val_loss, rel=1e-3)
    assert checkpointed.peak_bytes < plain.peak_bytes
    dora = trained(TrainingPlan.of(config, fine_tune_type="dora", iters=12, warmup=2))
    assert dora.final_val_loss < plain.initial_loss


def test_a_trial_that_mlx_lm_refuses_says_why_and_the_worker_lives(runner, trained, config, scenario):
    trained(changed(config, iters=11))
    pid = runner.worker_pid
    few = type(scenario).of({**scenario.row, "rows": 2})
    with pytest.raises(TrialError, match="batch_size=4"):
        train(config, few)  # mlx-lm refuses a batch that the data cannot fill
    assert runner.worker_pid == pid


def test_the_callers_process_loads_no_mlx():
    kinds = "dspy_toolkit_lora.trial.training, dspy_toolkit_lora.trial.peak_memory"
    source = f"import sys, {kinds}; assert not {{'mlx', 'mlx_lm', 'numpy', 'dspy'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
