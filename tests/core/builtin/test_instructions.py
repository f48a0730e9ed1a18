"""Optimizers that write instructions: MIPROv2, GEPA, COPRO, SIMBA."""

import dspy
import pytest
from learners import (
    PROGRAM,
    ROWS,
    clueless,
    exact,
    learner,
    picky,
    question_of,
    refused,
    run,
    said,
    silent,
    split,
    steady,
)

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.testing import ScriptedLM


@pytest.mark.parametrize("seed", [1, 7])
def test_mipro_is_dspys(plugin_manager, seed):
    data = prepare(split(ROWS), PROGRAM)
    script = ScriptedLM(picky)
    with dspy.context(lm=script):
        by_hand = dspy.MIPROv2(
            metric=exact, auto=None, num_candidates=4, max_bootstrapped_demos=2, max_labeled_demos=2, seed=seed,
            num_threads=1,
        ).compile(
            PROGRAM.deepcopy(), trainset=list(data.train), valset=list(data.validation), num_trials=8, minibatch=False
        )  # fmt: skip
    lm = ScriptedLM(picky)
    ours = run(
        plugin_manager, lm, "mipro", seed=seed, metric=exact,
        parameters={
            "num_candidates": 4, "num_trials": 8, "max_bootstrapped_demos": 2, "max_labeled_demos": 2,
        },
    )  # fmt: skip
    assert said(ours.program) == said(by_hand)
    assert "Way" in str(said(by_hand))
    assert lm.engine.calls == script.engine.calls + 2 * 20, "and at the same cost, the two evaluations apart"


def test_mipro_looks_for_instructions_only(plugin_manager):
    result = run(
        plugin_manager, ScriptedLM(learner), "mipro", parameters={"max_bootstrapped_demos": 0, "max_labeled_demos": 0}
    )
    assert result.program.demos == []
    assert result.program.signature.instructions == "Replace q by a."


@pytest.mark.parametrize("seed", [0, 7])
def test_gepa_is_dspys(plugin_manager, seed):
    data = prepare(split(ROWS), PROGRAM)
    script = ScriptedLM(picky)
    with dspy.context(lm=script):
        by_hand = dspy.GEPA(metric=exact, max_metric_calls=150, reflection_lm=script, seed=seed, num_threads=1).compile(
            PROGRAM.deepcopy(), trainset=list(data.train), valset=list(data.validation)
        )
    parameters = {"max_metric_calls": 150, "stop_at_score": None}
    ours = run(plugin_manager, ScriptedLM(picky), "gepa", seed=seed, metric=exact, parameters=parameters)
    assert said(ours.program) == said(by_hand)
    assert "Way" in str(said(by_hand))


def test_gepa_needs_feedback_and_says_so_first(plugin_manager):
    refused(plugin_manager, "gepa", r"'silent' gives none\. Return dspy\.Prediction\(score", metric=silent)
    together = {"strategy": "bootstrap -> gepa", "parameters": {}}
    refused(plugin_manager, "better-together", r"'silent' gives none", metric=silent, parameters=together)


def first_is_a(gold, pred, trace=None, pred_name=None, pred_trace=None):
    return pred.answer.startswith("a")


def test_gepa_asks_a_metric_without_labels_by_what_it_makes_up(plugin_manager):
    rows = [{"question": f"q{n}"} for n in range(50)]
    refused(plugin_manager, "gepa", r"'first_is_a' gives none", data=rows, metric=first_is_a)
    same = [{"question": f"q{n}", "answer": "a"} for n in range(50)]
    refused(plugin_manager, "gepa", r"'first_is_a' gives none", data=same, metric=first_is_a)


def test_gepa_notices_silence_while_it_runs(plugin_manager):
    """What is made up shows nothing of a metric that does not stand it."""
    rows = [{"question": f"q{n}"} for n in range(50)]
    lm = ScriptedLM(clueless)
    with pytest.raises(OptimizationError, match=r"gives none\. Return dspy\.Prediction\(score") as caught:
        run(
            plugin_manager, lm, "gepa", data=rows, metric=lambda gold, pred: {"a": 1, "n": 0}[pred.answer[0]] == 1,
            parameters={"max_metric_calls": 400},
        )  # fmt: skip
    assert caught.value.partial.baseline.n == 20
    assert lm.engine.calls < 20 + 10 + 20, "noticed in its first minibatches"


def test_gepa_takes_silence_about_right_answers_for_what_it_is(plugin_manager):
    """Nine right answers in a minibatch of ten, and a word about the tenth only."""

    def terse(gold, pred, trace=None, pred_name=None, pred_trace=None):
        right = gold.answer == pred.answer
        return dspy.Prediction(score=float(right), feedback="" if right else f"expected {gold.answer}")

    result = run(
        plugin_manager, ScriptedLM(steady(0.9)), "gepa", metric=terse,
        parameters={"reflection_minibatch_size": 10, "max_metric_calls": 200, "stop_at_score": None},
    )  # fmt: skip
    assert result.optimized.n == 20


def test_gepa_takes_one_budget_that_is_enough(plugin_manager):
    refused(plugin_manager, "gepa", "one budget; auto and max_metric_calls", parameters={"auto": "light"})
    refused(plugin_manager, "gepa", "before the first new candidate", parameters={"max_metric_calls": 12})


def test_gepa_leaves_and_reads_no_files(plugin_manager, tmp_path, monkeypatch):
    """A gepa.stop left in a log folder makes DSPy's next run stop after its first evaluation."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gepa.stop").touch()
    assert run(plugin_manager, ScriptedLM(learner), "gepa").optimized.score == 100
    assert [path.name for path in tmp_path.iterdir()] == ["gepa.stop"]


def test_reflections_that_all_fail_are_told(plugin_manager):
    events = []
    lm = ScriptedLM(lambda request: learner(request) if question_of(request) else "I cannot write.")
    result = run(plugin_manager, lm, "gepa", on_event=events.append, parameters={"max_metric_calls": 200})
    assert result.comparison.difference == 0
    notes = [event.message for event in events if event.kind == "note"]
    assert any("All 3 reflections so far failed" in note and "AdapterParseError" in note for note in notes)


def test_a_second_model_needs_a_way_to_connect(plugin_manager):
    for name, parameter in {
        "gepa": "reflection_lm",
        "mipro": "prompt_model",
        "copro": "prompt_model",
        "simba": "prompt_model",
    }.items():
        refused(plugin_manager, name, "'other/model' cannot be connected", parameters={parameter: "other/model"})


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("gepa", "reflection_lm"), ("mipro", "prompt_model"), ("copro", "prompt_model"), ("simba", "prompt_model")],
)
def test_a_second_model_writes_and_its_death_is_noticed(plugin_manager, name, parameter):
    writer = ScriptedLM(learner, model="other/model")
    result = run(
        plugin_manager, ScriptedLM(lambda request: learner(request) if question_of(request) else "cannot write"), name,
        parameters={parameter: "other/model"}, connect={"other/model": writer}.__getitem__,
    )  # fmt: skip
    assert result.optimized.score == 100
    assert writer.engine.calls > 0 or name == "simba"
    if name != "gepa":
        return
    dead = ScriptedLM(lambda request: RuntimeError("out of memory"), model="other/model")
    with pytest.raises(OptimizationError, match="out of memory"):
        run(
            plugin_manager, ScriptedLM(learner), name, parameters={parameter: "other/model", "max_metric_calls": 400},
            connect={"other/model": dead}.__getitem__,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "most"), [("scripted/tiny-135m", 150), ("scripted/large-70b", None), ("scripted/unknown", None)]
)
def test_a_small_model_writes_instructions_of_bounded_length(plugin_manager, model, most):
    """One reflection of a 135M model went on for three minutes, to the end of what the engine allows."""
    for name in ("gepa", "copro", "mipro"):
        lm = ScriptedLM(learner, model=model)
        run(plugin_manager, lm, name)
        writing = [request for request in lm.engine.requests if question_of(request) is None]
        answering = [request for request in lm.engine.requests if question_of(request)]
        assert {request.config.max_tokens for request in writing} == {most}, name
        assert {request.config.max_tokens for request in answering} == {None}, name
