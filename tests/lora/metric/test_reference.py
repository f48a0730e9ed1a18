"""No constant answer wins: the best of many is clearly below a rule that reads the scenario."""

import json
import random
from importlib import resources
from statistics import mean

import dspy
import pytest

from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.metric.reference import reference_config, reference_loss, rule_of_thumb, search, trained
from dspy_toolkit_lora.metric.training import feasibility, training
from dspy_toolkit_lora.scenarios.scenario import Scenario, splits

pytestmark = pytest.mark.usefixtures("runner")


def score(scenario, config, metric=training):
    return metric(dspy.Example(**scenario.row), dspy.Prediction(config=config)).score


def every():
    return [scenario for split in splits().values() for scenario in split]


def test_the_file_covers_the_task_and_every_reference_can_run():
    entries = json.loads(resources.files("dspy_toolkit_lora.metric").joinpath("references.json").read_text())
    assert [Scenario.of(entry["scenario"]) for entry in entries] == every()
    for scenario in every():
        config = reference_config(scenario)
        assert scenario.fits(config)
        assert config.batch_size <= scenario.rows
        assert config.iters <= scenario.affordable_steps(config)


def test_the_rule_of_thumb_can_always_run():
    assert all(score(scenario, rule_of_thumb(scenario), feasibility) == 1 for scenario in every())


def test_another_scenario_is_searched(scenario):
    small = Scenario.of({**scenario.row, "max_steps": 16})
    best = search(small)
    assert small.fits(best)
    assert trained(best, small).final_val_loss <= trained(rule_of_thumb(small), small).final_val_loss
    assert reference_loss(small) == trained(best, small).final_val_loss


@pytest.mark.slow
def test_no_constant_answer_wins():
    rng = random.Random(5)
    scenarios = rng.sample(splits()["test"], 10)
    constants = {rule_of_thumb(scenario) for scenario in every()}
    constants |= {
        LoRAConfig(rank=8, scale=10, learning_rate=0.001, batch_size=batch, iters=iters, grad_checkpoint=checkpoint)
        for batch in (1, 2, 4, 8)
        for iters in (24, 48, 72)
        for checkpoint in (False, True)
    }
    # Those that can run in most scenarios are the ones that could win: the cheap metric bounds the real one from above.
    bound = {config: mean(score(scenario, config, feasibility) for scenario in scenarios) for config in constants}
    likely = sorted(constants, key=lambda config: -bound[config] * config.batch_size**0.3)[:8]
    best = max(mean(score(scenario, config) for scenario in scenarios) for config in likely)
    adaptive = mean(score(scenario, rule_of_thumb(scenario)) for scenario in scenarios)
    assert adaptive > best + 0.15, (adaptive, best)
