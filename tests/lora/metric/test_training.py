"""The metric on real trials: order of good and bad proposals, feedback with numbers, errors only for bad rows."""

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.errors import DataError
from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.metric.training import feasibility, training
from dspy_toolkit_lora.scenarios.scenario import splits

pytestmark = pytest.mark.usefixtures("runner")


@pytest.fixture(scope="module")
def shipped():
    """A scenario of the task, whose reference configuration is in the package."""
    return next(scenario for scenario in splits()["test"] if scenario.rows >= 64 and scenario.max_steps <= 32)


def scored(scenario, config, metric=training):
    return metric(dspy.Example(**scenario.row), dspy.Prediction(config=config))


def test_the_reference_itself_scores_one(shipped):
    from dspy_toolkit_lora.metric.reference import reference_config

    assert scored(shipped, reference_config(shipped)).score == pytest.approx(1.0)


def test_a_step_too_many_costs_its_share(shipped):
    from dspy_toolkit_lora.metric.reference import reference_config

    best = reference_config(shipped)
    affordable = shipped.affordable_steps(best)
    result = scored(shipped, best.model_copy(update={"iters": 2 * affordable}))
    full = scored(shipped, best.model_copy(update={"iters": affordable}))
    assert result.score == pytest.approx(full.score / 2)
    assert f"{2 * affordable} steps where there is time for {affordable}" in result.feedback


def test_the_feedback_names_what_made_a_proposal_diverge(shipped):
    from dspy_toolkit_lora.metric.reference import reference_config

    wild = reference_config(shipped).model_copy(update={"scale": 20.0, "learning_rate": 0.01})
    result = scored(shipped, wild)
    assert result.score < 0.3
    assert "0.2, which is too strong" in result.feedback


def test_what_does_not_fit_is_not_trained(shipped, runner):
    config = LoRAConfig(rank=8, scale=10, learning_rate=0.001, batch_size=16, iters=12, grad_checkpoint=False)
    tight = type(shipped).of({**shipped.row, "memory_gb": shipped.peak_bytes(config) / 2e9})
    result = scored(tight, config)
    assert result.score == pytest.approx(0.05, rel=0.01)
    assert "100 % too much" in result.feedback
    assert "grad_checkpoint" in result.feedback
    assert scored(tight, config, feasibility).score == result.score


def test_a_batch_larger_than_the_data_scores_little(shipped):
    few = type(shipped).of({**shipped.row, "rows": 4})
    config = LoRAConfig(rank=8, scale=10, learning_rate=0.001, batch_size=16, iters=12, grad_checkpoint=False)
    assert "cannot be made from 4 rows" in scored(few, config).feedback


@pytest.mark.parametrize(
    "prediction",
    [
        dspy.Prediction(),
        dspy.Prediction(config=None),
        dspy.Prediction(config="rank 8"),
        dspy.Prediction(config={"rank": 8}),
        dspy.Prediction(config={"rank": 0, "scale": "x", "learning_rate": 1, "batch_size": 1, "iters": 1}),
        dspy.Prediction(answer="yes"),
    ],
)
def test_a_wrong_answer_scores_nothing_and_says_why(shipped, prediction):
    result = training(dspy.Example(**shipped.row), prediction)
    assert result.score == 0
    assert "config" in result.feedback


def test_a_config_as_plain_values_counts_like_the_typed_one(shipped):
    config = LoRAConfig(rank=8, scale=10, learning_rate=0.001, batch_size=2, iters=10, grad_checkpoint=True)
    assert scored(shipped, config.model_dump()).score == scored(shipped, config).score


def test_a_bad_row_is_an_error_of_the_data(shipped):
    row = {name: value for name, value in shipped.row.items() if name != "max_steps"}
    with pytest.raises(DataError, match="max_steps=None"):
        training(dspy.Example(**row), dspy.Prediction(config=None))


@given(
    config=st.builds(
        LoRAConfig,
        rank=st.integers(4, 64),
        scale=st.floats(2, 20),
        learning_rate=st.floats(0.0001, 0.01),
        batch_size=st.integers(1, 16),
        iters=st.integers(10, 500),
        grad_checkpoint=st.booleans(),
    ),
    scenario=st.sampled_from([scenario for split in splits().values() for scenario in split]),
)
@settings(deadline=None)
def test_feasibility_is_a_score_with_numbers(config, scenario):
    result = scored(scenario, config, feasibility)
    assert 0 <= result.score <= 1
    assert any(character.isdigit() for character in result.feedback)
