"""Optimizers made of several programs or of others, Ensemble and BetterTogether, and how such are stored."""

import dspy
import pytest
from learners import EVERY, PROGRAM, ROWS, Two, answered, learner, question_of, run, two_steps, written

from dspy_toolkit.errors import BundleError, OptimizationError, UnknownNameError
from dspy_toolkit.programs import state
from dspy_toolkit.store.bundle import load_program, read_bundle, write_bundle
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text


def test_an_ensemble_asks_every_member_every_time(plugin_manager):
    result = run(plugin_manager, ScriptedLM(learner), "ensemble", parameters={"size": 3})
    lm = ScriptedLM(
        [{"answer": "Yes."}, {"answer": "no"}, {"answer": "yes"}] * 2 + ["garbage"] * 2 + [{"answer": "no"}] * 2
    )
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        assert result.program(question="q1").answer == "Yes."
        assert result.program(question="q1").answer == "Yes."
        assert lm.engine.calls == 6


def test_better_together_ends_with_the_error_of_its_step(plugin_manager):
    """DSPy's logs it and returns what it has."""

    def metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
        return 0.0

    together = {"strategy": "copro -> knn"}
    with pytest.raises(UnknownNameError):
        run(plugin_manager, ScriptedLM(learner), "better-together", parameters=together)
    rows = [{"question": f"q{n}"} for n in range(50)]
    steps = {"strategy": "copro -> gepa", "parameters": {"copro": {"breadth": 2, "depth": 1}}}
    with pytest.raises(OptimizationError, match="GEPA learns from the metric's feedback"):
        run(plugin_manager, ScriptedLM(lambda r: written(r, "Try.") if not question_of(r) else {"answer": "x"}),
            "better-together", data=rows, metric=metric, parameters=steps)  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("predictors", [1, 2])
def test_stored_and_loaded_it_sends_the_same_prompts(plugin_manager, tmp_path, name, predictors):
    """DSPy's KNNFewShot saves nothing, and its Ensemble loads into an equal ensemble only."""
    factory = (lambda: dspy.Predict("question -> answer")) if predictors == 1 else Two
    data = [{**row, "note": "noted"} for row in ROWS]
    result = run(plugin_manager, ScriptedLM(two_steps), name, program=factory(), metric=answered, data=data)
    bundle = write_bundle(tmp_path / "bundle", result, example_inputs={"question": "q1"})
    again = load_program(read_bundle(bundle.path), factory)
    assert type(again) is type(result.program)

    def sent(program):
        lm = ScriptedLM(two_steps)
        with dspy.context(lm=lm):
            answers = [program(question=f"q{n}").answer for n in range(60, 66)]
        return answers, [prompt_text(request) for request in lm.engine.requests]

    assert sent(again) == sent(result.program)
    assert "question" in (bundle.path / "prompt.md").read_text()


@pytest.mark.parametrize("name", ["knn", "ensemble"])
def test_damage_to_what_stands_beside_the_state_is_named(plugin_manager, tmp_path, name):
    result = run(plugin_manager, ScriptedLM(learner), name)
    stored = state.dump(result.program)
    broken = {"nearest": 2, "entries": [["q1", {"self": 99}]]} if name == "knn" else {"vote": [{"demos": 3}]}
    for extra in (broken, {"something": 1}, [], 7):
        stored["metadata"]["dspy_toolkit"] = extra
        with pytest.raises(BundleError):
            state.load(stored, PROGRAM.deepcopy, PROGRAM.deepcopy())
