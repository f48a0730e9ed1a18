"""Programs measured by name: several metrics in one pass, repeats, rows, what is refused."""

import json
import threading
from collections import Counter
from dataclasses import astuple

import dspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit import DSPyConfig, DSPyFramework, PluginManager, hookimpl
from dspy_toolkit.errors import (
    BundleError,
    DataError,
    MetricError,
    OptimizationError,
    OptimizationInterrupted,
    PluginError,
    SignatureError,
    UnknownNameError,
)
from dspy_toolkit.evaluation.evaluate import EvaluationControls, evaluate
from dspy_toolkit.evaluation.repeats import Noise, combined
from dspy_toolkit.evaluation.results import Evaluation, MetricResult, RowResult
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics import F1, Accuracy, Metric, TokenF1
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.stats.intervals import ScoreEstimate, estimate
from dspy_toolkit.stats.set_intervals import estimate_set
from dspy_toolkit.store.bundle import write_bundle
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import MetricEntry, ProviderEntry, TaskData, TaskEntry

SHORT = "n: int -> parity: Literal['odd', 'even']"


class Parity(dspy.Signature):
    """Say whether a number is odd."""

    n: int = dspy.InputField(desc="a number")
    parity: str = dspy.OutputField(desc="odd or even")


def row(n):
    return {"n": n, "parity": "odd" if n % 2 else "even"}


def asked(request):
    """The number that a prompt asks about."""
    return int(request.messages[-1].text.partition("n ## ]]\n")[2].split()[0])


def mostly_right(request):
    """Says "odd" of every number but those that 4 divides, and nothing that parses of 7."""
    n = asked(request)
    return "I do not know." if n == 7 else {"parity": "even" if n % 4 == 0 else "odd"}


class Numbers:
    """A plugin in memory, whose models answer with a function."""

    def __init__(self, answer):
        self.answer = answer
        self.lms = []

    @hookimpl
    def toolkit_providers(self):
        yield ProviderEntry(name="scripted", summary="Answers from a script.", connect=self.connect)

    @hookimpl
    def toolkit_metrics(self):
        yield MetricEntry(name="right", summary="Right.", metric=lambda gold, pred: gold.parity == pred.parity)

    @hookimpl
    def toolkit_tasks(self):
        yield TaskEntry(
            name="parity", summary="Odd or even.", program=lambda: dspy.Predict(Parity), metric="right",
            data=lambda: TaskData(
                train=list(map(row, range(20, 30))), validation=list(map(row, range(30, 40))),
                test=list(map(row, range(20))),
            ),
            rows={"test": 12},
        )  # fmt: skip

    def connect(self, model, **options):
        self.lms.append(ScriptedLM(self.answer, model=model, **options))
        return self.lms[-1]

    @property
    def calls(self):
        return sum(lm.engine.calls for lm in self.lms)


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path / "cache"))

    def make(answer, **settings):
        plugins = PluginManager(select="core")
        plugin = Numbers(answer)
        plugins.register(plugin, project="numbers", distribution="dspy-toolkit-numbers")
        config = DSPyConfig(
            model="scripted/one", store=tmp_path / "programs", cache=tmp_path / "cache", num_threads=3, **settings
        )
        framework = DSPyFramework(config, plugins=plugins)
        framework.plugin = plugin
        framework.signature_registry.register_project("numbers", {"Parity": Parity})
        return framework

    return make


# --- several metrics over one pass


def test_a_task_is_measured_on_its_test_set_with_its_metric(make):
    framework = make(lambda request: {"parity": "odd"})
    measured = framework.evaluate("numbers/parity", rows=20)
    assert (measured.name, measured.model, measured.metric) == (
        "numbers/parity (not optimized)",
        "scripted/one",
        "numbers/right",
    )
    assert measured.evaluation.score.score == 50
    assert measured.rows.shown == "the test set of numbers/parity"
    assert framework.plugin.calls == 20
    assert len(framework.evaluate("parity").rows.examples) == 12, "as many as an optimization measures on"
    same = framework.evaluate("numbers/parity", set="validation").rows.examples
    assert {example.n for example in same} == set(range(30, 40))


def test_each_metric_has_the_evaluation_it_would_have_alone_from_one_pass(make):
    framework = make(mostly_right)
    metrics = [Accuracy(), TokenF1(), F1("parity")]
    measured = framework.evaluate(SHORT, list(map(row, range(20))), metrics)
    assert framework.plugin.calls <= 21, "one call for each row, and DSPy's second try for the one that did not parse"
    program = framework.target(SHORT).module
    for metric, (name, got) in zip(metrics, measured.metrics.items(), strict=True):
        alone = evaluate(
            program,
            measured.rows.examples,
            metric,
            lm=framework.lm(),
            adapter=framework.adapter(),
            controls=EvaluationControls(num_threads=2),
        )
        assert name == Metric(metric).name
        assert (got.score, got.row_score, got.observations) == (alone.score, alone.row_score, alone.observations)
        assert got.errors == alone.errors
        assert [(r.row, r.score, r.feedback, r.error) for r in got.results] == [
            (r.row, r.score, r.feedback, r.error) for r in alone.results
        ]


def test_a_metric_that_fails_on_a_row_costs_only_that_metric(make):
    def fussy(gold, pred):
        if gold.n == 3:
            raise ZeroDivisionError("three")
        return 1.0

    framework = make(lambda request: {"parity": "odd"})
    measured = framework.evaluate(SHORT, list(map(row, range(8))), ["exact_match", fussy, fussy])
    assert list(measured.metrics) == ["core/exact-match", "fussy", "fussy #2"]
    assert measured.evaluation.errors == ()
    failed = measured.metrics["fussy"]
    assert failed.score.score == 100 * 7 / 8
    assert [(group.type, group.count, group.row) for group in failed.errors] == [("MetricError", 1, 4)]
    with pytest.raises(OptimizationError, match="fussy failed on all 1 rows"):
        framework.evaluate(SHORT, [row(3)], ["exact-match", fussy])


def test_an_error_brings_what_the_model_said(make):
    framework = make(mostly_right)
    measured = framework.evaluate(SHORT, list(map(row, range(12))), "exact-match")
    (group,) = measured.to_dict()["metrics"]["core/exact-match"]["errors"]
    assert (group["count"], group["row"], group["completion"]) == (1, 8, "I do not know.")
    records = list(measured.records())
    assert [record["completion"] for record in records if record["completion"]] == ["I do not know."]
    assert records[7]["prediction"] is None
    assert records[8] == {
        "row": 9, "repeat": 1, "inputs": {"n": 8}, "labels": {"parity": "even"}, "prediction": {"parity": "even"},
        "scores": {"core/exact-match": 100.0}, "feedback": {"core/exact-match": "'parity' is right."}, "errors": {},
        "completion": None, "seconds": records[8]["seconds"],
    }  # fmt: skip
    assert json.loads(json.dumps(records)) == records


def test_too_many_errors_end_the_run_with_what_was_finished(make):
    def often_lost(request):
        return "?" if asked(request) % 3 == 0 else {"parity": "odd"}

    framework = make(often_lost)
    rows = list(map(row, range(30)))
    with pytest.raises(OptimizationError, match="at most 4 may") as caught:
        framework.evaluate(SHORT, rows, "exact-match", max_errors=4)
    partial = caught.value.partial
    assert partial.partial.endswith("of 30 rows")
    assert 5 <= sum(result.error is not None for result in partial.evaluation.results) <= 10
    assert framework.evaluate(SHORT, rows, "exact-match", max_errors=10).partial == ""
    strict = make(often_lost, max_errors=4)
    with pytest.raises(OptimizationError, match="at most 4 may"):
        strict.evaluate(SHORT, rows, "exact-match")
    with pytest.raises(OptimizationError, match="at most 4 may"):
        strict.compare(SHORT, SHORT, rows, "exact-match")
    assert strict.evaluate(SHORT, rows, "exact-match", max_errors=10).partial == "", "an argument is stronger"


def test_an_interrupted_run_has_the_finished_rows(make, stall):
    stop = threading.Event()

    def answer(request):
        if stop.is_set():
            stall()
        if asked(request) == 9:
            stop.set()
        return {"parity": "odd"}

    with pytest.raises(OptimizationInterrupted) as caught:
        make(answer).evaluate(SHORT, list(map(row, range(60))), "exact-match", stop=stop)
    partial = caught.value.partial
    done = len(partial.evaluation.results)
    assert 0 < done < 60
    assert partial.partial == f"{done} of 60 rows"
    assert partial.evaluation.score.n == done


# --- repeats


def noisy(seed=0):
    """Answers that are drawn at each call: wrong in a share of the calls that depends on the number."""
    draws = np.random.default_rng(seed)
    lock = threading.Lock()

    def answer(request):
        n = asked(request)
        with lock:
            wrong = draws.random() < (n % 5) / 8
        return {"parity": row(n + wrong)["parity"]}

    return answer


def test_repeats_are_rollouts_and_show_the_noise(make):
    framework = make(noisy(), models={})
    rows = list(map(row, range(40)))
    measured = framework.evaluate(SHORT, rows, ["exact-match", "macro-f1"], repeats=6)
    assert framework.plugin.calls == 240, "the cache answered none of the repeats"
    scores = np.array([repeat.by("core/exact-match").scores for repeat in measured.repeats])
    noise = measured.noise["core/exact-match"]
    deviation = np.sqrt(scores.var(axis=0, ddof=1).sum()) / 40
    assert noise.deviation == pytest.approx(deviation)
    assert noise.floor == pytest.approx(1.96 * np.sqrt(2) * deviation)
    assert noise.scores == pytest.approx(tuple(scores.mean(axis=1)))
    assert measured.deterministic is False
    assert astuple(measured.evaluation.score) == pytest.approx(astuple(estimate(list(scores.mean(axis=0)))))
    assert measured.evaluation.scores == pytest.approx(list(scores.mean(axis=0)))
    worst = measured.evaluation.results[scores.mean(axis=0).argmin()]
    assert "expected" in worst.feedback, "of the answers to a row the worst is shown"
    of_sets = measured.metrics["core/macro-f1"]
    each = [repeat.metrics["core/macro-f1"].score.score for repeat in measured.repeats]
    assert of_sets.score.score == pytest.approx(np.mean(each))
    assert measured.noise["core/macro-f1"].deviation == pytest.approx(np.std(each, ddof=1))
    assert measured.usage.lm_calls == 240
    assert sum(map(sum, measured.confusions[0].matrix)) == 240


def test_the_noise_floor_holds_what_two_runs_of_one_program_differ_by():
    """Simulated: 95 % of the differences between runs are within the floor that a few repeats estimate."""
    draws = np.random.default_rng(5)
    chances = draws.random(60)
    within = []
    for _ in range(400):
        runs = draws.random((6, 60)) < chances
        noise = Noise.of([_evaluation(100.0 * run) for run in runs[:4]])
        within.append(abs(100 * (runs[4].mean() - runs[5].mean())) <= noise.floor)
    assert 0.91 <= np.mean(within) <= 0.985


def test_a_deterministic_model_is_told(make):
    framework = make(lambda request: {"parity": "odd"})
    rows = list(map(row, range(6)))
    measured = framework.evaluate(SHORT, rows, "exact-match", repeats=3)
    assert measured.deterministic is True
    assert measured.noise["core/exact-match"].floor == 0
    assert framework.plugin.calls == 18
    cold = make(lambda request: {"parity": "odd"}, models={"cold": {"model": "scripted/cold", "temperature": 0}})
    assert cold.evaluate(SHORT, rows, "exact-match", model="cold", repeats=2).deterministic is True
    assert cold.plugin.calls == 12, "determinism is seen, not read from the cache"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(0, 100), min_size=4, max_size=4), min_size=2, max_size=5))
def test_repeats_combined_have_the_mean_of_each_row(runs):
    whole = combined([_evaluation(run) for run in runs], seed=0)
    assert whole.scores == pytest.approx(list(np.mean(runs, axis=0)))
    assert whole.usage.lm_calls == 4 * len(runs)
    assert whole.seconds == pytest.approx(len(runs))


def _evaluation(scores):
    results = tuple(
        RowResult(row=number, inputs={}, prediction=None, scores={"mean": Score(score=score / 100)}, seconds=0.1)
        for number, score in enumerate(scores, start=1)
    )
    score = ScoreEstimate(score=float(np.mean(scores)), low=0.0, high=100.0, n=len(scores))
    metrics = {"mean": MetricResult(score=score)}
    return Evaluation(results=results, metrics=metrics, usage=Usage(lm_calls=len(scores)), seconds=1.0)


def test_the_score_of_a_set_over_repeats_is_the_mean_with_an_interval(make):
    framework = make(noisy(3))
    measured = framework.evaluate(SHORT, list(map(row, range(30))), F1("parity"), repeats=3)
    evaluation = measured.evaluation
    pairs = [Counter(repeat.observations) for repeat in measured.repeats]
    assert evaluation.score.score == pytest.approx(np.mean([100 * F1("parity").over(each) for each in pairs]))
    assert evaluation.score.low < evaluation.score.score < evaluation.score.high
    once = estimate_set(F1("parity").score_of, measured.repeats[0].observations)
    assert evaluation.score.high - evaluation.score.low < once.high - once.low, "repeats narrow the interval"


# --- names


def test_what_a_name_stands_for(make, tmp_path, monkeypatch):
    (tmp_path / "own_numbers.py").write_text(
        "import dspy\n\n"
        "class Own(dspy.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.ask = dspy.Predict('n: int -> parity')\n"
        "    def forward(self, n):\n        return self.ask(n=n)\n\n"
        "def factory():\n    return Own()\n\nready = Own()\nNumber = dspy.Signature('n: int -> parity')\nnothing = 3\n"
        "def strict(gold, pred):\n    return gold.parity == pred.parity\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    framework = make(lambda request: {"parity": "odd"})
    rows = list(map(row, range(4)))
    names = ["numbers/Parity", SHORT, *(f"own_numbers:{name}" for name in ("Own", "factory", "ready", "Number"))]
    for name in names:
        measured = framework.evaluate(name, rows, "own_numbers:strict")
        assert (measured.name, measured.evaluation.score.score) == (f"{name} (not optimized)", 50)
    import own_numbers

    assert framework.target("own_numbers:ready").module is not own_numbers.ready, "a module of yours is left alone"
    with pytest.raises(PluginError, match=r"expected a dspy\.Module"):
        framework.target("own_numbers:nothing")
    with pytest.raises(PluginError, match="no attribute 'lost'"):
        framework.target("own_numbers:lost")
    with pytest.raises(SignatureError, match="n -> -> x"):
        framework.target("n -> -> x")
    with pytest.raises(UnknownNameError, match="Did you mean 'numbers/Parity'"):
        framework.target("numbers/Partiy")
    with pytest.raises(MetricError, match="own_numbers:lenient"):
        framework.evaluate(SHORT, rows, "own_numbers:lenient")


def test_rows_and_metric_must_come_from_somewhere(make):
    framework = make(lambda request: {"parity": "odd"})
    with pytest.raises(DataError, match="--data"):
        framework.evaluate(SHORT, None, "exact-match")
    with pytest.raises(MetricError, match="core/exact-match"):
        framework.evaluate(SHORT, [row(1)])
    with pytest.raises(UnknownNameError, match="Did you mean 'core/exact-match'"):
        framework.evaluate(SHORT, [row(1)], "exact_mach")
    with pytest.raises(OptimizationError, match="repeats is 0"):
        framework.evaluate(SHORT, [row(1)], "exact-match", repeats=0)
    assert framework.plugin.calls == 0


def test_what_was_optimized_from_a_file_is_found_by_its_name_and_refuses_its_training_rows(make, tmp_path):
    def learner(request):
        return {"parity": row(asked(request))["parity"] if len(request.messages) > 1 else "odd"}

    framework = make(learner)
    file = tmp_path / "numbers.jsonl"
    file.write_text("\n".join(json.dumps(row(n)) for n in range(60)))
    result, version = framework.optimize_task(SHORT, dataset=file, metrics="exact_match", seed=1)
    assert result.promoted
    assert version.task == SHORT
    assert framework.store.tasks() == (SHORT,)
    spaced = SHORT.replace("->", " ->  ").replace(": ", ":")
    assert framework.load(spaced)(n=2).parity == "even"
    folder = str(version.bundle.path)
    assert framework.load(folder)(n=2).parity == "even"
    assert [framework.target(each).version for each in (folder, f"{folder}@plain")] == [folder, None]
    assert framework.target(folder).shown == folder
    with pytest.raises(DataError, match="--set test"):
        framework.evaluate(spaced, file, "exact-match")
    measured = framework.evaluate(spaced, file, "exact-match", set="test", seed=1)
    assert measured.evaluation.score == result.optimized
    assert (
        framework.evaluate(f"{SHORT}@plain", file, "exact-match", set="test", seed=1).evaluation.score
        == result.baseline
    )
    assert len(framework.evaluate(f"{SHORT}@plain", file, "exact-match").rows.examples) == 60
    assert framework.evaluate(f"{SHORT}@v1", file, "exact-match", set="train").evaluation.score.score == 100
    with pytest.raises(UnknownNameError, match="v2"):
        framework.target(f"{SHORT}@v2")
    with pytest.raises(BundleError, match="leave out @v1"):
        framework.optimize_task(f"{SHORT}@v1", dataset=file, metrics="exact_match")


@pytest.mark.parametrize(
    "name",
    [
        "trap:program",
        "n: int -> parity: trap",
        "n: list[trap.Number] -> parity",
        "n: print -> parity",  # a name that Python has, but no type of DSPy's
        "n: input -> parity",
    ],
)
def test_code_that_a_bundle_names_is_not_imported(make, tmp_path, monkeypatch, name):
    for module in ("trap", "print", "input"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported because a file said so')\n")
    monkeypatch.syspath_prepend(tmp_path)
    framework = make(lambda request: {"parity": "odd"})
    rows = list(map(row, range(12)))
    result = framework.optimize_module(dspy.Predict(Parity), rows, "exact-match", optimizer="labeled", task_type=name)
    write_bundle(tmp_path / "bundle", result, example_inputs={"n": 1})
    with pytest.raises(BundleError, match="Name it yourself"):
        framework.target(str(tmp_path / "bundle"))


def test_a_folder_called_like_a_name_is_meant_only_when_it_is_written_as_a_path(make, tmp_path, monkeypatch):
    framework = make(lambda request: {"parity": "odd"})
    rows = list(map(row, range(12)))
    result = framework.optimize_module(dspy.Predict(SHORT), rows, "exact-match", optimizer="labeled", task_type=SHORT)
    write_bundle(tmp_path / "core" / "QASignature", result, example_inputs={"n": 1})
    write_bundle(tmp_path / "mine" / "own", result, example_inputs={"n": 1})
    monkeypatch.chdir(tmp_path)
    assert framework.target("core/QASignature").version is None, "the signature, not the folder"
    assert framework.target("./core/QASignature").version == "core/QASignature"
    with pytest.raises(UnknownNameError, match=r"write \./mine/own"):
        framework.target("mine/own")


def test_confusions_are_made_of_classes_not_of_free_text(make):
    rows = [{"n": n, "parity": f"the number {n}"} for n in range(30)]
    framework = make(lambda request: {"parity": "odd"})
    assert framework.evaluate("n: int -> parity", rows, "exact-match").confusions == ()
    (text,) = framework.evaluate("n: int -> parity", list(map(row, range(30))), "exact-match").confusions
    assert text.labels == ("even", "odd")
    (literal,) = framework.evaluate(SHORT, [row(2)], "exact-match").confusions
    assert (literal.labels, literal.matrix) == (("odd", "even"), [[0, 0], [1, 0]])


def test_several_at_once_without_a_framework():
    rows = [dspy.Example(n=n, parity=row(n)["parity"]).with_inputs("n") for n in range(6)]
    lm = ScriptedLM(lambda request: {"parity": "odd" if asked(request) == 1 else "even"})
    evaluation = evaluate(dspy.Predict(Parity), rows, [Accuracy(), F1()], lm=lm)
    assert {name: result.score.n for name, result in evaluation.metrics.items()} == {"Accuracy": 6, "F1(macro)": 6}
    assert lm.engine.calls == 6
