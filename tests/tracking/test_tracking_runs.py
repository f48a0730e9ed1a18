"""Runs of the framework that are tracked as they go, from a real optimization to what MLflow shows of it."""

import threading

import dspy
import pytest
from filelock import FileLock

from dspy_toolkit import DSPyFramework, PluginManager, hookimpl
from dspy_toolkit.errors import OptimizationInterrupted
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.tracking.state import read_state
from dspy_toolkit.types import ProviderEntry

ROWS = [{"question": f"Capital number {n}?", "answer": f"City {n}"} for n in range(24)]


class Provider:
    """Models that know the answer once they have been shown one."""

    @hookimpl
    def toolkit_providers(self):
        return [ProviderEntry(name="scripted", summary="Answers from a script.", connect=self.connect)]

    def connect(self, model, **options):
        return ScriptedLM(self.answer, model=model, **{**options, "cache": False})

    def answer(self, request):
        number = int("".join(each for each in request.messages[-1].text.partition("?")[0] if each.isdigit()))
        shown = any(message.role == "assistant" for message in request.messages)
        return {"answer": f"City {number}" if shown or number % 3 == 0 else "no idea"}


@pytest.fixture
def framework(config, monkeypatch, target):
    monkeypatch.delenv("DSPY_TOOLKIT_CACHE", raising=False)
    plugins = PluginManager(entry_points=False)
    plugins.register(Provider(), project="scripted", distribution="dspy-toolkit-scripted")
    return DSPyFramework(config(), plugins=plugins)


def optimize(framework, **options):
    return framework.optimize_module(
        dspy.Predict("question -> answer"),
        ROWS,
        "core/exact-match",
        task_type="quiz/capitals",
        model="scripted/quiz",
        seed=1,
        **options,
    )


def sent(run, waited):
    assert waited(lambda: read_state(run.folder).closed)
    with FileLock(run.folder / "tracking.lock", timeout=60):
        return run.id


def test_a_run_shows_what_its_result_says(framework, target, found, waited):
    result = optimize(framework)
    (run,) = framework.runs.all()
    there = found(target.uri, sent(run, waited))
    assert there.status == "FINISHED"
    assert there.metrics["baseline/score"] == result.baseline.score
    assert there.metrics["optimized/score"] == result.optimized.score
    assert there.metrics["difference/p_value"] == result.comparison.p_value
    assert there.metrics["usage/lm_calls"] == result.lm_calls == len(there.traces)
    assert there.metrics["usage/input_tokens"] == result.usage.input_tokens
    assert len(there.table("optimized.json")) == result.optimized.n
    assert (there.params["optimizer"], there.params["rows.test"]) == ("bootstrap", str(result.rows["test"]))
    stages = {trace.info.tags["dspy-toolkit.stage"] for trace in there.traces}
    assert stages == {"baseline", "search", "optimized"}
    assert there.traces[0].data.spans[0].inputs["messages"][-1]["role"] == "user"


def test_a_run_that_is_stopped_and_gone_on_with_is_one_run(framework, target, found, waited):
    stop = threading.Event()

    def stop_in_the_search(event):
        if event.stage == "search":
            stop.set()

    with pytest.raises(OptimizationInterrupted):
        optimize(framework, on_event=stop_in_the_search, stop=stop)
    (run,) = framework.runs.all()
    first = found(target.uri, sent(run, waited))
    assert (first.status, first.tags["dspy-toolkit.status"]) == ("KILLED", "interrupted")

    result = optimize(framework, resume=run.id)
    assert waited(lambda: found(target.uri, run.id).status == "FINISHED")
    second = found(target.uri, sent(run, waited))
    assert second.id == first.id
    assert second.metrics["optimized/score"] == result.optimized.score
    assert len(second.table("baseline.json")) == result.baseline.n


def test_an_evaluation_is_a_run_too(framework, target, found, waited):
    measured = framework.evaluate(
        dspy.Predict("question -> answer"), ROWS, ["core/exact-match", "core/token-f1"], model="scripted/quiz"
    )
    (run,) = framework.runs.all()
    there = found(target.uri, sent(run, waited), run.task.partition("/")[0] if "/" in run.task else "dspy-toolkit")
    assert (there.status, there.tags["dspy-toolkit.kind"]) == ("FINISHED", "evaluate")
    assert there.metrics["score"] == measured.evaluation.score.score
    assert {there.metrics[f"parts/{name}"] for name in measured.metrics} == {
        each.score.score for each in measured.metrics.values()
    }
    assert len(there.table("evaluate.json")) == len(ROWS) == len(there.traces)


def test_what_cannot_start_leaves_nothing(framework, target, tmp_path):
    from mlflow import MlflowClient

    with pytest.raises(Exception, match="max_demos"):
        optimize(framework, optimizer="bootstrap", max_demos="many")
    assert framework.runs.all() == []
    assert [each.name for each in MlflowClient(tracking_uri=target.uri).search_experiments()] == ["Default"]
