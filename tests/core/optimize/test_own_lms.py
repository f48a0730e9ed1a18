"""Programs whose predictors bring LMs of their own: one binding for baseline, search, result and the stored program."""

import dspy
import pytest
from learners import EVERY, SMALL, optimized, optimizer_of

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.evaluation.evaluate import evaluate
from dspy_toolkit.metrics import ExactMatch, Metric
from dspy_toolkit.programs import state
from dspy_toolkit.programs.own_lms import model_names, own_lms, pinned, unpinned
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text

ROWS = [{"question": f"q{n}", "answer": "right"} for n in range(50)]


def good(request):
    """Writes good drafts; asked for anything else, it says who it is."""
    return {"draft": "good"}


def bad(request):
    """Answers right where the draft is good, and writes bad drafts and instructions."""
    names = [name for name in ("draft", "answer") if f"[[ ## {name} ## ]]" in prompt_text(request)]
    if not names or "proposed_instruction" in prompt_text(request):
        return dict.fromkeys(_fields(request), "Answer.")
    return {"draft": "bad", "answer": "right" if "good" in request.messages[-1].text else "wrong"}


def _fields(request):
    import re

    names = re.findall(r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`", request.messages[-1].text.split("Respond with")[-1])
    return [name for name in names if name != "completed"]


class Two(dspy.Module):
    """Brings a model for its first step."""

    def __init__(self, large):
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.answer = dspy.Predict("question, draft -> answer")
        self.draft.set_lm(large)

    def forward(self, question):
        return self.answer(question=question, draft=self.draft(question=question).draft)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "gepa"])
def test_search_and_result_use_the_models_of_the_baseline(plugin_manager, name):
    large, small = ScriptedLM(good, model="scripted/large"), ScriptedLM(bad, model="scripted/small")
    program = Two(large)
    rows = [{**row, "draft": "good"} for row in ROWS] if name == "labeled" else ROWS
    result = optimized(
        program, data=prepare(rows, program, rows={"train": 8, "validation": 6, "test": 10}),
        metric=ExactMatch("answer"),
        optimizer=optimizer_of(plugin_manager, name), optimizer_name=name, parameters=SMALL.get(name, {}), lm=small,
    )  # fmt: skip
    assert (result.baseline.score, result.optimized.score) == (100, 100)
    assert result.models == {"draft": "scripted/large"}
    assert result.to_dict()["models"] == {"draft": "scripted/large"}
    assert "bad" not in {demo.get("draft") for predictor in result.program.predictors() for demo in predictor.demos}
    assert all(predictor.lm in (None, large) for predictor in result.program.predictors())
    assert own_lms(program) == {"draft": large}, "the program is left as it was"


def test_a_state_is_loaded_beside_the_models_that_the_class_sets():
    large = ScriptedLM(good, model="scripted/large")
    stored = state.dump(Two(large))
    assert stored["draft"]["lm"] is None
    program = Two(large)
    state.load_plain(program, stored)
    assert own_lms(program) == {"draft": large}
    small = ScriptedLM(bad, model="scripted/small")
    rows = prepare(ROWS, program).test
    assert evaluate(program, rows, Metric(ExactMatch("answer")), lm=small).score.score == 100


def test_a_pinned_predictor_keeps_its_model_and_unpinning_leaves_no_trace():
    large = ScriptedLM(good, model="scripted/large")
    program = Two(large)
    copy = pinned(program)
    for changed in (copy.reset_copy(), copy.deepcopy(), copy.deepcopy().reset_copy()):
        changed.set_lm(None)
        assert own_lms(changed) == {"draft": large}
        changed.set_lm(ScriptedLM(bad, model="scripted/small"))
        assert own_lms(changed)["draft"] is large
        changed.set_lm(ScriptedLM(bad, model="scripted/small").copy(rollout_id=3, temperature=1.0))
        rollout = changed.draft.lm
        assert (rollout.model, rollout.kwargs["rollout_id"]) == ("scripted/large", 3)
        plain = unpinned(changed)
        assert [type(predictor) for predictor in plain.predictors()] == [dspy.Predict, dspy.Predict]
        assert plain.draft.lm is large
        plain.set_lm(None)
        assert own_lms(plain) == {}
    assert model_names(program) == {"draft": "scripted/large"}


def test_a_program_without_models_of_its_own_is_not_copied():
    program = dspy.Predict("question -> answer")
    assert pinned(program) is program
