"""DSPyFramework as Python code uses it, with the example plugin and a scripted provider."""

import threading

import dspy
import pytest

from dspy_toolkit import DSPyConfig, DSPyFramework, PluginManager
from dspy_toolkit.errors import (
    BundleError,
    DataError,
    FingerprintError,
    OptimizationError,
    OptimizationInterrupted,
    UnknownNameError,
)
from dspy_toolkit.settings import ModelProfile
from dspy_toolkit.signatures import QASignature
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import ProviderEntry


class Scripted:
    """A plugin in memory: the provider `scripted`, whose models all answer the same."""

    def __init__(self, hookimpl, answer):
        @hookimpl
        def toolkit_providers():
            return [ProviderEntry(name="scripted", summary="Answers from a script.", connect=self.connect)]

        self.toolkit_providers = toolkit_providers
        self.answer = answer
        self.connected = []

    def connect(self, model, **options):
        self.connected.append((model, options))
        return ScriptedLM(self.answer, model=model, **options)


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path / "cache"))

    def make(answer, **settings):
        from dspy_toolkit import hookimpl

        plugins = PluginManager(entry_points=False)
        plugin = Scripted(hookimpl, answer)
        plugins.register(plugin, project="scripted", distribution="dspy-toolkit-scripted")
        config = DSPyConfig(
            model="scripted/one", store=tmp_path / "programs", cache=tmp_path / "cache", num_threads=2, **settings
        )
        framework = DSPyFramework(config, plugins=plugins)
        framework.plugin = plugin
        return framework

    return make


def test_a_signature_becomes_callable(make):
    framework = make(lambda request: {"answer": "Paris"})
    qa = framework.get_signature(QASignature)
    assert qa(question="What is the capital of France?").answer == "Paris"
    assert framework.get_signature("core/QASignature")(question="?").answer == "Paris"
    assert framework.get_signature("question -> answer")(question="?").answer == "Paris"
    assert dspy.settings.lm is None, "nothing is configured globally"


async def test_a_signature_is_callable_from_async_code(make):
    qa = make(lambda request: {"answer": "Paris"}).get_signature(QASignature)
    assert (await qa.acall(question="What is the capital of France?")).answer == "Paris"


def test_signatures_registered_by_a_project_are_shared(make):
    class Haiku(dspy.Signature):
        """Write a haiku."""

        topic: str = dspy.InputField(desc="what it is about")
        haiku: str = dspy.OutputField(desc="three lines")

    framework = make(lambda request: {"haiku": "an old pond"})
    framework.register_project_signatures("poetry", {"Haiku": Haiku})
    assert set(framework.signature_registry.get_project_signatures("poetry")) == {"Haiku"}
    assert "poetry/Haiku" in framework.signature_registry.get_all_signatures()
    assert "core/QASignature" in framework.signature_registry.get_all_signatures()
    assert framework.get_signature("poetry/Haiku")(topic="frogs").haiku == "an old pond"
    with pytest.raises(UnknownNameError, match="poetry/Haiku"):
        framework.get_signature("poetry/Haikuu")


def test_equal_models_share_an_lm_and_profiles_bring_their_options(make):
    framework = make(
        lambda request: {"answer": "x"}, models={"warm": ModelProfile(model="scripted/one", temperature=0.9)}
    )
    assert framework.lm() is framework.lm("scripted/one")
    warm = framework.lm("warm")
    assert warm is not framework.lm()
    assert warm.kwargs["temperature"] == 0.9
    assert framework.lm("warm", temperature=0.1).kwargs["temperature"] == 0.1
    assert len(framework.plugin.connected) == 3
    with pytest.raises(UnknownNameError, match=r"'scriptd'.*Did you mean 'scripted'"):
        framework.lm("scriptd/one")


ROWS = [{"question": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(40)]


def add(request):
    """Adds right once it has seen a demonstration; before, only even numbers."""
    words = request.messages[-1].text.partition("What is ")[2].partition("?")[0].split()
    n = int(words[0])
    return {"answer": str(2 * n) if n % 2 == 0 or len(request.messages) > 1 else "many"}


def test_optimize_module_with_dictionaries_and_with_examples(make):
    module = dspy.Predict("question -> answer")
    result = make(add).optimize_module(module, ROWS, "core/exact-match", task_type="sums", seed=3)
    assert result.baseline.score < 100
    assert result.optimized.score == 100
    assert result.promoted
    assert (result.task, result.seed, result.metric) == ("sums", 3, "core/exact-match")
    assert module.demos == [], "the module is left as it was"
    examples = [dspy.Example(**row) for row in ROWS]
    again = make(add).optimize_module(module, examples, ["core/exact-match", "core/token-f1"], seed=3)
    assert again.optimized.score == 100


@pytest.mark.parametrize("name", ["seed", "model", "rows", "stop", "save"])
def test_a_parameter_called_like_an_argument_is_the_optimizers_and_replaces_nothing(make, name):
    asked = {"dataset": ROWS, "metrics": "core/exact-match", "parameters": {name: 7}}
    with pytest.raises(UnknownNameError, match=f"parameter of the optimizer 'bootstrap' .*{name!r}"):
        make(add).optimize_task("question -> answer", **asked)
    with pytest.raises(UnknownNameError, match=f"parameter of the optimizer 'bootstrap' .*{name!r}"):
        make(add).plan_task("question -> answer", **asked)


def test_the_optimizer_may_be_an_instance_and_its_run_is_resumed_with_it(make):
    framework, stop = make(add), threading.Event()
    module, instance = dspy.Predict("question -> answer"), dspy.BootstrapFewShot(max_labeled_demos=6)

    def interrupt(event):
        if event.stage == "optimized":
            stop.set()

    arguments = (module, ROWS, "core/exact-match")
    with pytest.raises(OptimizationInterrupted) as interruption:
        framework.optimize_module(*arguments, optimizer=instance, on_event=interrupt, stop=stop)
    run, other = interruption.value.partial.run, dspy.BootstrapFewShot(max_labeled_demos=5)
    with pytest.raises(OptimizationError, match="max_labeled_demos"):
        framework.optimize_module(*arguments, optimizer=other, resume=run)
    result = framework.optimize_module(*arguments, optimizer=instance, resume=run)
    assert (result.optimizer, result.parameters["max_labeled_demos"]) == ("BootstrapFewShot", 6)
    assert len(result.program.demos) == 6
    assert framework.plan_module(*arguments, optimizer=instance, measure=False).unknown


def test_a_row_without_a_needed_field_is_named(make):
    rows = [*ROWS[:6], {"answer": "7"}, *ROWS[6:]]
    with pytest.raises(DataError, match=r"(?s)7.*question"):
        make(add).optimize_module(dspy.Predict("question -> answer"), rows, "core/exact-match")


def test_a_program_made_from_a_module_is_stored_and_loaded_by_its_factory(make, tmp_path):
    from dspy_toolkit.store.bundle import load_program

    framework = make(add)
    result = framework.optimize_module(dspy.Predict("question -> answer"), ROWS, "core/exact-match", task_type="sums")
    version = framework.store.save(result, example_inputs={"question": "What is 1 and 1?"})
    with pytest.raises(BundleError, match="not a task"):
        framework.load(str(version.bundle.path))
    loaded = framework.bind(load_program(version.bundle, lambda: dspy.Predict("question -> answer")))
    assert loaded(question="What is 3 and 3?").answer == "6"
    with pytest.raises(FingerprintError, match="context"):
        load_program(version.bundle, lambda: dspy.Predict("question, context -> answer"))


# --- which LM answers: the argument, the predictor's own, DSPy's settings, the toolkit's


def echo(model):
    return ScriptedLM(lambda request: {"answer": model}, model=f"scripted/{model}")


def answering(framework, program, **options):
    """The model that answered every row of an evaluation, and the one that it names."""
    rows = [{"question": f"q{n}", "answer": "x"} for n in range(4)]
    measured = framework.evaluate(program, rows, "core/exact-match", **options)
    (answer,) = {row.prediction.answer for row in measured.evaluation.results}
    return answer, measured.model


def test_the_argument_wins_then_the_predictors_own_lm_then_dspys_settings_then_ours(make):
    framework = make(lambda request: {"answer": "settings"})
    own = dspy.Predict("question -> answer")
    own.lm = echo("own")
    plain = dspy.Predict("question -> answer")
    assert answering(framework, plain)[0] == "settings"
    with dspy.context(lm=echo("context")):
        assert answering(framework, plain) == ("context", "scripted/context")
        assert answering(framework, own)[0] == "own"
        assert answering(framework, plain, model=echo("argument")) == ("argument", "scripted/argument")
        assert answering(framework, own, model=echo("argument")) == ("argument", "scripted/argument")
        assert framework.bind(plain)(question="q").answer == "context"
        assert framework.bind(own)(question="q").answer == "own"
        assert framework.bind(own, model=echo("argument"))(question="q").answer == "argument"
    assert own.lm.model == "scripted/own", "the program is left as it was"


@pytest.mark.parametrize("source", ["argument", "context"])
def test_an_optimization_uses_an_lm_in_hand_and_names_it(make, source):
    framework, lm = make(lambda request: {"answer": "never"}), ScriptedLM(add, model="scripted/in-hand")
    module = dspy.Predict("question -> answer")
    with dspy.context(lm=lm if source == "context" else None):
        options = {"model": lm} if source == "argument" else {}
        result = framework.optimize_module(module, ROWS, "core/exact-match", seed=3, **options)
    assert (result.model, result.optimized.score) == ("scripted/in-hand", 100)
    (run,) = framework.runs.all()
    assert run.options.model == "scripted/in-hand"


def test_a_model_in_the_call_replaces_those_of_the_predictors_and_says_so(make):
    framework, module = make(lambda request: {"answer": "never"}), dspy.Predict("question -> answer")
    module.lm, events = echo("own"), []
    result = framework.optimize_module(
        module, ROWS, "core/exact-match", seed=3, model=ScriptedLM(add, model="scripted/argument"),
        on_event=events.append,
    )  # fmt: skip
    assert (result.model, result.models, result.optimized.score) == ("scripted/argument", {}, 100)
    assert any("replaces the LMs of the program's predictors: self (scripted/own)" in event.message for event in events)


def test_what_was_not_better_is_used_by_its_name_only(make):
    framework = make(lambda request: {"answer": "no idea"})
    result, version = framework.optimize_task(
        "question -> answer", dataset=ROWS, metrics="core/exact-match", optimizer="labeled"
    )
    assert not result.promoted
    assert framework.target("question -> answer").version is None
    assert framework.target("question -> answer@latest").version == version.name
    with pytest.raises(BundleError, match="question -> answer@v1"):
        framework.load("question -> answer")
    assert framework.load("question -> answer@v1")(question="What is 1 and 1?").answer == "no idea"
    assert framework.load("question -> answer@plain")(question="What is 1 and 1?").answer == "no idea"
