"""Evaluations are runs: recorded with rows, calls and result, listed, never gone on with."""

import json

import dspy
import pytest

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.framework.framework import DSPyFramework
from dspy_toolkit.framework.optimizer_engine import OptimizerEngine
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.runs.journal import read_journal
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.testing import ScriptedLM

PROGRAM = dspy.Predict("question -> answer")
ROWS = [{"question": f"q{n}", "answer": f"a{n % 2}"} for n in range(6)]


@pytest.fixture
def framework(tmp_path, monkeypatch):
    framework = DSPyFramework(DSPyConfig(store=tmp_path / "programs", cache=tmp_path / "cache"))
    lm = ScriptedLM(lambda request: {"answer": "a1"}, cache=False)
    monkeypatch.setattr(framework, "lm", lambda *_, **__: lm)
    return framework


def test_an_evaluation_is_recorded_with_its_rows_and_calls(framework):
    found = framework.evaluate(PROGRAM, ROWS, [ExactMatch(), "core/token-f1"])
    (run,) = framework.runs.all()
    assert (run.kind, run.status, run.resumable) == ("evaluate", "finished", False)
    assert run.result.score.score == found.evaluation.score.score == 50
    assert set(run.result.parts) == set(found.metrics)
    assert run.result.lm_calls == 6
    kinds = [entry.kind for entry in read_journal(run.folder)]
    assert (kinds.count("row"), kinds.count("call")) == (6, 6)
    calls = [entry.data for entry in read_journal(run.folder, "call")]
    assert {call["stage"] for call in calls} == {"evaluate"}
    assert kinds[0] == "run"
    assert kinds[-1] == "end"
    json.dumps(dict(run.identity))


def test_a_comparison_is_two_and_none_of_them_is_in_the_history(framework):
    framework.compare(PROGRAM, dspy.Predict("question -> answer"), ROWS, ExactMatch())
    assert [run.kind for run in framework.runs.all()] == ["evaluate", "evaluate"]
    assert OptimizerEngine(framework).history == ()
    with pytest.raises(OptimizationError, match="No run of"):
        framework.runs.find(framework.runs.all()[0].task)


def test_one_that_fails_says_so(framework):
    def never(gold, pred, trace=None):
        raise ValueError("no")

    with pytest.raises(OptimizationError):
        framework.evaluate(PROGRAM, ROWS, never)
    (run,) = framework.runs.all()
    assert run.status == "failed"


def test_without_a_folder_to_write_it_is_measured_all_the_same(framework, tmp_path):
    (tmp_path / "runs").write_text("a file is in the way")
    told = []
    found = framework.evaluate(PROGRAM, ROWS, ExactMatch(), on_event=told.append)
    assert found.evaluation.score.score == 50
    assert any("Not recorded" in event.message for event in told)


def test_rows_and_programs_that_cannot_be_written_down_are_measured(framework):
    class Plain(dspy.Module):
        def forward(self, question, extra):
            return dspy.Prediction(answer="a1" if extra is not None else "?")

    rows = [{**row, "extra": object()} for row in ROWS]
    found = framework.evaluate(Plain(), rows, ExactMatch())
    assert found.evaluation.score.score == 50
    (run,) = framework.runs.all()
    assert run.status == "finished"
