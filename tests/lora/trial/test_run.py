"""Real trials in a real worker process, and what happens when it is killed, silent, interrupted or asked by many."""

import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dspy_toolkit.errors import MetricError
from dspy_toolkit_lora.config import TrainingPlan
from dspy_toolkit_lora.trial.run import TrialRunner


def changed(config, **values):
    return config.model_copy(update=values)


seeds = itertools.count(100)


def worker_of(runner, config, scenario):
    """The runner's process, certain to be running: it has just trained something new."""
    runner.run(TrainingPlan.of(config, iters=10, seed=next(seeds)), scenario)
    return runner._worker._process


def test_a_trial_learns_and_is_remembered(runner, config, scenario):
    first = runner.run(config, scenario)
    assert first.final_val_loss < first.untrained_loss
    assert first.tokens == 32 * 4 * 24
    assert first.peak_bytes > 0
    trained = runner.trained
    assert TrialRunner(runner.folder).run(config, scenario) == first
    assert runner.run(config, scenario) == first
    assert runner.trained == trained


def test_the_same_trial_anew_brings_the_same(runner, config, scenario):
    first = runner.run(changed(config, iters=12), scenario)
    for path in (runner.folder / "trials").iterdir():
        path.unlink()
    runner.close()
    again = runner.run(changed(config, iters=12), scenario)
    assert again.final_val_loss == pytest.approx(first.final_val_loss, rel=1e-4)


def test_the_proposal_matters(runner, config, scenario):
    steady = runner.run(config, scenario).final_val_loss
    timid = runner.run(changed(config, learning_rate=0.0001), scenario).final_val_loss
    wild = runner.run(changed(config, learning_rate=0.01, scale=20.0), scenario).final_val_loss
    short = runner.run(changed(config, iters=10), scenario).final_val_loss
    assert steady < min(timid, wild, short)


def test_checkpointing_and_dora_train_too(runner, config, scenario):
    plain = runner.run(changed(config, iters=12), scenario)
    checkpointed = runner.run(changed(config, iters=12, grad_checkpoint=True), scenario)
    assert checkpointed.final_val_loss == pytest.approx(plain.final_val_loss, rel=1e-3)
    assert checkpointed.peak_bytes < plain.peak_bytes
    dora = runner.run(TrainingPlan.of(config, fine_tune_type="dora", iters=12, warmup=2), scenario)
    assert dora.final_val_loss < plain.initial_loss


def test_threads_share_one_worker_and_one_training(runner, config, scenario):
    trained = runner.trained
    plans = [changed(config, iters=iters) for iters in (15, 16, 17)] * 3
    with ThreadPoolExecutor(9) as threads:
        results = list(threads.map(lambda plan: runner.run(plan, scenario), plans))
    assert results[:3] == results[3:6] == results[6:]
    assert runner.trained == trained + 3


def test_a_killed_worker_is_replaced(runner, config, scenario):
    dead = worker_of(runner, config, scenario)
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    assert runner.run(changed(config, iters=11), scenario).tokens == 11 * 4 * 24
    assert worker_of(runner, config, scenario).pid != dead.pid


def test_a_silent_worker_is_ended(runner, config, scenario):
    slow = TrialRunner(runner.folder, timeout=0.001)
    with pytest.raises(MetricError, match="said nothing"):
        slow.run(changed(config, iters=400, batch_size=16), scenario)
    assert slow._worker is None


def test_a_failed_trial_says_why_and_the_worker_lives(runner, config, scenario):
    process = worker_of(runner, config, scenario)
    few = type(scenario).of({**scenario.row, "rows": 2})
    with pytest.raises(MetricError, match="batch_size=4"):
        runner.run(config, few)  # mlx-lm refuses a batch that the data cannot fill
    assert runner._worker._process is process
    assert process.poll() is None


def test_an_interrupt_ends_the_worker(runner, config, scenario):
    process = worker_of(runner, config, scenario)
    main = threading.main_thread().ident

    def press():
        while not runner._lock.locked():  # until the trial has begun
            time.sleep(0.001)
        time.sleep(0.3)
        signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Thread(target=press, daemon=True)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        runner.run(changed(config, iters=500, batch_size=16, learning_rate=0.0001), scenario)
    timer.join()
    assert process.poll() is not None
    assert runner.run(changed(config, iters=13), scenario).tokens == 13 * 4 * 24


def test_the_worker_ends_with_its_parent(runner, config, scenario):
    process = worker_of(runner, config, scenario)
    process.stdin.close()  # as the system does when the parent dies
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() == 0
