"""Choosing an optimizer: a stated reason, parameters it takes, and what framework and engine make of it."""

import threading

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted, PluginError, UnknownNameError
from dspy_toolkit.framework.framework import DSPyFramework
from dspy_toolkit.framework.modules import ModuleRegistry, ProjectSignatureConfig
from dspy_toolkit.framework.optimizer_engine import OptimizerEngine
from dspy_toolkit.hookspecs import hookimpl
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.metrics import ExactMatch, Metric
from dspy_toolkit.optimize.feedback import gives_feedback
from dspy_toolkit.optimize.optimizer import find_optimizer, load_optimizer, parse_params
from dspy_toolkit.optimize.selection import OptimizerType, Situation, billions_of, choose, select_optimizer
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import OptimizerEntry, ProviderEntry

PROGRAM = dspy.Predict("question -> answer")
ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(60)]
SITUATIONS = st.builds(
    Situation,
    train=st.integers(1, 2000),
    validation=st.integers(1, 1000),
    predictors=st.integers(1, 5),
    complexity=st.sampled_from(["low", "medium", "high"]),
    feedback=st.sampled_from([None, True, False]),
    billions=st.none() | st.floats(0.1, 400),
    demos_that_fit=st.none() | st.integers(0, 50),
    max_calls=st.none() | st.integers(1, 20_000),
)


@given(SITUATIONS)
def test_every_choice_exists_takes_its_parameters_and_has_one_sentence(situation):
    plugins = PluginManager(entry_points=False, select="")
    choice = choose(situation)
    optimizer = load_optimizer(find_optimizer(plugins, choice.optimizer).entry)
    assert parse_params(optimizer, choice.parameters, name=choice.optimizer)
    assert choice.reason.endswith(".")
    assert choice.reason.count(". ") == 0
    assert choice == choose(situation)


@given(SITUATIONS)
def test_gepa_only_with_feedback_and_demonstrations_only_where_they_fit(situation):
    optimizer = choose(situation).optimizer
    if optimizer == OptimizerType.GEPA:
        assert situation.feedback
    if situation.demos_that_fit == 0:
        assert optimizer in (OptimizerType.GEPA, OptimizerType.COPRO)


@given(SITUATIONS.filter(lambda each: each.max_calls is not None and each.demos_that_fit != 0))
def test_what_is_chosen_fits_the_budget(situation):
    """By the lowest that each can cost: validation rows times candidates, each predictor one call."""
    choice = choose(situation)
    least = {
        OptimizerType.BOOTSTRAP_FEW_SHOT: 0,
        OptimizerType.BOOTSTRAP_FEW_SHOT_WITH_RANDOM_SEARCH: 3 + choice.parameters.get("num_candidate_programs", 0),
        OptimizerType.MIPRO_V2: 11,
        OptimizerType.GEPA: 8,
    }[choice.optimizer]
    assert least * situation.validation * situation.predictors <= situation.max_calls


def test_no_more_demonstrations_are_asked_for_than_fit():
    for fit, shown in [(None, 16), (40, 16), (5, 5)]:
        choice = choose(Situation(train=30, validation=15, billions=0.5, demos_that_fit=fit))
        assert choice.parameters["max_labeled_demos"] == shown


def test_the_specification_form():
    assert select_optimizer("qa", 10).optimizer == OptimizerType.BOOTSTRAP_FEW_SHOT
    assert select_optimizer("qa", 60, "low").optimizer == OptimizerType.BOOTSTRAP_FEW_SHOT_WITH_RANDOM_SEARCH
    assert select_optimizer("qa", 500, "medium").optimizer == OptimizerType.MIPRO_V2
    assert OptimizerEngine.select_optimizer("qa", 500) == select_optimizer("qa", 500)
    with pytest.raises(OptimizationError, match="has 2 rows; expected at least 3"):
        select_optimizer("qa", 2)
    with pytest.raises(OptimizationError, match="expected 'low', 'medium' or 'high'"):
        select_optimizer("qa", 20, "hard")


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("mlx/smollm2-135m", 0.135),
        ("mlx/mlx-community/Qwen2.5-7B-Instruct-4bit", 7),
        ("mlx/org/name_1.7B_q4", 1.7),
        ("openai/gpt-5", None),
        ("mlx/org/mixtral-8x7b", None),
        ("scripted/test", None),
    ],
)
def test_the_size_of_a_model_from_its_name(model, billions):
    assert billions_of(model) == billions


def test_the_names_are_those_of_the_box(plugin_manager):
    box = {found.entry.name for found in plugin_manager.entries(OptimizerEntry).values()}
    assert {each.value for each in OptimizerType} == box | {"auto"}


# --- whether a metric gives feedback


def quiet(gold, pred):
    return gold.answer == pred.answer


def only_when_wrong(gold, pred, trace=None, pred_name=None, pred_trace=None):
    right = gold.answer == pred.answer
    return dspy.Prediction(score=float(right), feedback="" if right else f"expected {gold.answer}")


def test_feedback_is_found_out_without_the_program():
    rows = prepare(ROWS, PROGRAM).train
    unlabelled = prepare([{"question": row["question"]} for row in ROWS], PROGRAM).train
    asking = [Metric(metric) for metric in (quiet, only_when_wrong, ExactMatch())]
    assert [gives_feedback(metric, rows, PROGRAM) for metric in asking] == [False, True, True]
    assert [gives_feedback(metric, unlabelled, PROGRAM) for metric in asking] == [None, None, None]
    same = prepare([{**row, "answer": "yes"} for row in ROWS], PROGRAM).train
    assert [gives_feedback(metric, same, PROGRAM) for metric in asking] == [False, True, True], "by made-up answers"
    numbered = dspy.Predict("question -> answer: list[str]")
    assert gives_feedback(asking[1], same, numbered) is None, "a list is not made up"
    broken = Metric(lambda gold, pred: pred.nothing)
    assert gives_feedback(broken, rows, PROGRAM) is None


def test_a_metric_that_asks_an_lm_is_not_let_to():
    lm = ScriptedLM([])
    rows = prepare(ROWS, PROGRAM).train

    def judge(gold, pred):
        with dspy.context(lm=lm):
            return dspy.Predict("answer -> grade: float")(answer=pred.answer).grade

    assert gives_feedback(Metric(judge), rows, PROGRAM) is None
    assert lm.engine.calls == 0


# --- framework and engine


def learner(request):
    text = request.messages[-1].text
    question = text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0]
    shown = sum(message.role == "assistant" for message in request.messages)
    return {"answer": question.replace("q", "a") if shown or int(question[1:]) % 3 == 0 else "no idea"}


class Provider:
    @hookimpl
    def toolkit_providers(self):
        yield ProviderEntry(
            name="scripted", summary="Scripted.", connect=lambda model, **_: ScriptedLM(learner, model=model)
        )


@pytest.fixture
def framework(tmp_path, lm_cache, plugin_manager):
    plugin_manager.register(Provider(), project="scripted", distribution="scripted")
    config = DSPyConfig(store=tmp_path / "programs", cache=lm_cache, model="scripted/test")
    return DSPyFramework(config, plugins=plugin_manager)


def test_auto_chooses_and_says_why_in_result_and_events(framework):
    events = []
    result = framework.optimize_module(PROGRAM, ROWS, ExactMatch(), optimizer="auto", on_event=events.append)
    assert result.optimizer == "random-search"
    assert "validation rows choose" in result.reason
    assert result.to_dict()["reason"] == result.reason
    assert result.optimized.score == 100
    first = events[0]
    assert (first.kind, first.message) == ("note", f"random-search: {result.reason}")
    assert first.lm_calls == 0


def test_auto_lets_the_model_and_parameters_count(framework):
    result = framework.optimize_module(
        PROGRAM, ROWS, ExactMatch(), optimizer=OptimizerType.AUTO, model="scripted/tiny-135m", num_candidate_programs=2
    )
    assert "135M parameters" in result.reason
    assert result.parameters["num_candidate_programs"] == 2
    few = framework.optimize_module(PROGRAM, ROWS, ExactMatch(), optimizer="AUTO", rows={"validation": 3})
    assert (few.optimizer, few.reason) == (
        "bootstrap",
        "with 3 validation rows, differences between candidates would be luck.",
    )


def test_auto_knows_the_budget(framework):
    result = framework.optimize_module(PROGRAM, ROWS, ExactMatch(), optimizer="auto", limits=Limits(calls=60))
    assert result.optimizer == "bootstrap"
    assert "do not pay for comparing candidates" in result.reason


def test_named_optimizers_have_no_reason(framework):
    assert framework.optimize_module(PROGRAM, ROWS, ExactMatch(), optimizer="labeled").reason == ""


def test_the_engine_remembers_what_it_ran(framework):
    engine = OptimizerEngine(framework)
    first = engine.optimize(PROGRAM, ROWS, ExactMatch())
    second = engine.optimize(PROGRAM, ROWS, ExactMatch(), optimizer="labeled", k=2)
    assert engine.history == (first, second)
    assert [result.optimizer for result in engine.history] == ["random-search", "labeled"]

    def broken(gold, pred):
        raise ValueError("no")

    with pytest.raises(OptimizationError):
        engine.optimize(PROGRAM, ROWS, broken)
    assert len(engine.history) == 3
    assert engine.history[2].optimized is None
    with pytest.raises(UnknownNameError):
        engine.optimize(PROGRAM, ROWS, ExactMatch(), optimizer="nothing")
    assert len(engine.history) == 3


def test_history_is_that_of_all_processes_with_rows_and_errors(framework, plugin_manager):
    def picky(gold, pred):
        if gold.question.endswith("3"):
            raise ValueError("no threes")
        return gold.answer == pred.answer

    made = OptimizerEngine(framework).optimize(PROGRAM, ROWS, picky)
    (told,) = OptimizerEngine(DSPyFramework(framework.config, plugins=plugin_manager)).history
    assert told.program is None
    assert told.to_dict() == made.to_dict()
    assert told.baseline_evaluation.scores == made.baseline_evaluation.scores
    assert [row.error for row in told.baseline_evaluation.results] == [
        row.error for row in made.baseline_evaluation.results
    ]


def test_the_engine_goes_on_with_the_newest_run_that_was_asked_the_same(framework):
    def stopped(**options):
        stop = threading.Event()
        with pytest.raises(OptimizationInterrupted) as caught:
            engine.optimize(PROGRAM, ROWS, ExactMatch(), stop=stop, on_event=lambda event: stop.set(), **options)
        return caught.value.partial.run

    engine = OptimizerEngine(framework)
    with pytest.raises(OptimizationError, match="It has no runs yet"):
        engine.optimize(PROGRAM, ROWS, ExactMatch(), resume=True)
    first = stopped(seed=1)
    second = stopped(seed=2)
    assert engine.optimize(PROGRAM, ROWS, ExactMatch(), seed=1, resume=True).run == first
    with pytest.raises(OptimizationError, match=rf"The newest, {second}, .* seed was 2 and is now 3"):
        engine.optimize(PROGRAM, ROWS, ExactMatch(), seed=3, resume=True)
    assert engine.optimize(PROGRAM, ROWS, ExactMatch(), seed=2, resume=second).run == second
    assert [result.status for result in engine.history] == ["finished", "finished"]


# --- modules by name


class Question(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def test_a_project_of_signatures_with_its_optimizer(framework):
    framework.register(
        ProjectSignatureConfig(
            project="quiz", signatures={"Question": Question}, optimizer="labeled", optimizer_params={"k": 2}
        )
    )
    assert framework.signature_registry.get("quiz/Question") is Question
    assert framework.modules.names == ("quiz/Question",)
    result = framework.optimize_module("quiz/Question", ROWS, ExactMatch())
    assert (result.optimizer, result.parameters) == ("labeled", {"k": 2})
    assert framework.optimize_module("quiz/Question", ROWS, ExactMatch(), k=3).parameters == {"k": 3}
    assert (
        framework.optimize_module("quiz/Question", ROWS, ExactMatch(), optimizer="bootstrap").optimizer == "bootstrap"
    )


def test_modules_are_fresh_and_unknown_ones_are_named():
    registry = ModuleRegistry()
    registry.register("answerer", lambda: dspy.ChainOfThought("question -> answer"))
    assert registry.get("answerer") is not registry.get("answerer")
    with pytest.raises(UnknownNameError, match="Did you mean 'answerer'"):
        registry.get("answrer")
    registry.register("wrong", lambda: "text")
    with pytest.raises(PluginError, match=r"made .text.; expected a dspy\.Module"):
        registry.get("wrong")
    assert registry.names == ("answerer", "wrong")
