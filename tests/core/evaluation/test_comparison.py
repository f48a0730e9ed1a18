"""Two programs on the same rows, against numpy and by hand."""

import threading

import dspy
import numpy as np
import pytest
from scipy.stats import binomtest

from dspy_toolkit import DSPyConfig, DSPyFramework, PluginManager, hookimpl
from dspy_toolkit.errors import DataError, OptimizationError, OptimizationInterrupted
from dspy_toolkit.evaluation.comparison import ProgramComparison, compare_evaluations
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.metrics import F1, Accuracy
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import ProviderEntry

SHORT = "n: int -> parity: Literal['odd', 'even']"
ROWS = [{"n": n, "parity": "odd" if n % 2 else "even"} for n in range(40)]


def asked(request):
    return int(request.messages[-1].text.partition("n ## ]]\n")[2].split()[0])


def answer(request):
    """`good` is wrong about multiples of 5, `bad` about multiples of 3, and `lost` says nothing that parses of 2."""
    n, model = asked(request), request.model
    if model.endswith("lost") and n == 2:
        return "?"
    wrong = n % 5 == 0 if model.endswith("good") else n % 3 == 0
    return {"parity": "odd" if (n % 2 == 1) != wrong else "even"}


class Models:
    def __init__(self, answer):
        self.answer = answer
        self.lms = {}

    @hookimpl
    def toolkit_providers(self):
        yield ProviderEntry(name="scripted", summary="Answers from a script.", connect=self.connect)

    def connect(self, model, **options):
        self.lms[model] = ScriptedLM(self.answer, model=model, **options)
        return self.lms[model]


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path / "cache"))

    def make(answer=answer):
        plugins = PluginManager(select="core")
        plugins.register(Models(answer), project="scripted", distribution="dspy-toolkit-scripted")
        config = DSPyConfig(model="scripted/bad", store=tmp_path / "programs", cache=tmp_path / "cache", num_threads=2)
        return DSPyFramework(config, plugins=plugins)

    return make


def test_two_models_on_one_program_row_by_row(make):
    found = make().compare(
        SHORT, SHORT, ROWS, ["exact-match", F1("parity")], model="scripted/bad", second_model="scripted/good"
    )
    first = np.array([n % 3 != 0 for n in range(40)]) * 100.0
    second = np.array([n % 5 != 0 for n in range(40)]) * 100.0
    each = found.comparison
    assert each.difference == pytest.approx((second - first).mean())
    assert (each.wins, each.losses, each.ties) == (
        (second > first).sum(), (second < first).sum(), (second == first).sum(),
    )  # fmt: skip
    assert each.p_value == pytest.approx(binomtest(each.wins, each.wins + each.losses).pvalue)
    assert each.low < each.difference < each.high
    weights = np.random.default_rng(0).dirichlet(np.ones(41), 40_000)
    for end, unseen, tail in ((each.low, -100, 0.025), (each.high, 100, 0.975)):
        assert end == pytest.approx(np.quantile(weights @ np.append(second - first, unseen), tail), abs=0.5)
    assert found.comparisons["F1(parity, macro)"].difference == pytest.approx(
        found.second.metrics["F1(parity, macro)"].score.score - found.first.metrics["F1(parity, macro)"].score.score
    )
    assert (found.first.model, found.second.model) == ("scripted/bad", "scripted/good")
    changed = {change.row: change.difference for change in found.changes}
    assert changed == {n + 1: second[n] - first[n] for n in range(40) if first[n] != second[n]}
    assert [abs(change.difference) for change in found.changes] == sorted(map(abs, changed.values()), reverse=True)
    assert found.to_dict()["cost_difference"]["lm_calls"] == 0
    assert found.noise_floors == {}


def test_an_answer_that_changed_without_its_score_is_a_change(make):
    rows = [{"n": 1, "parity": "a"}, {"n": 3, "parity": "b"}]
    found = make().compare("n: int -> parity", "n: int -> parity", rows, "exact-match", second_model="scripted/good")
    assert [(change.row, change.difference) for change in found.changes] == [(2, 0.0)]


def test_a_failed_row_counts_against_its_program(make):
    found = make().compare(SHORT, SHORT, ROWS, "exact-match", second_model="scripted/lost")
    assert [(change.row, change.difference) for change in found.changes] == [(3, -100.0)]
    assert found.changes[0].second.error is not None
    assert found.comparison.losses == 1


def test_the_same_program_twice_does_not_clear_itself(make):
    found = make().compare(SHORT, f"{SHORT}@plain", ROWS, "exact-match", repeats=2)
    assert (found.comparison.difference, found.clears, found.changes) == (0, False, ())
    assert found.noise_floors == {"core/exact-match": 0}


def test_the_optimized_program_clears_the_plain_one(make):
    def learner(request):
        return {"parity": ("even", "odd")[asked(request) % 2] if len(request.messages) > 1 else "odd"}

    framework = make(learner)
    framework.optimize_task(SHORT, dataset=ROWS, metrics="exact-match")
    found = framework.compare(f"{SHORT}@plain", SHORT, ROWS, ["exact-match", "macro-f1"], set="test")
    assert found.clears
    assert not framework.compare(SHORT, f"{SHORT}@plain", ROWS, "exact-match", set="test").clears
    with pytest.raises(DataError, match="demonstration"):
        framework.compare(f"{SHORT}@plain", SHORT, ROWS, "exact-match")


def test_programs_with_other_inputs_see_the_same_rows(make):
    class Hinted(dspy.Module):
        def __init__(self):
            super().__init__()
            self.ask = dspy.Predict("hint, n: int -> parity")

        def forward(self, n, hint):
            return self.ask(n=n, hint=hint)

    rows = [{**row, "hint": "divide"} for row in ROWS[:8]]
    plain = dspy.Predict("n: int -> parity")
    found = make().compare(plain, Hinted(), rows, Accuracy("parity"))
    assert found.comparison.ties == 8
    both = make().compare(plain, Hinted(), rows, "exact-match")
    assert both.comparison.ties == 8, "what is an input of the other only is no label"
    with pytest.raises(DataError, match="'hint'"):
        make().compare(plain, Hinted(), ROWS, "exact-match")


@pytest.mark.parametrize("at", [5, 25])
def test_an_interruption_compares_what_both_finished(make, stall, at):
    stop = threading.Event()
    seen = []

    def interrupted(request):
        if stop.is_set():
            stall()
        if request.model.endswith("good"):
            seen.append(1)
            if len(seen) == at:
                stop.set()
        return answer(request)

    with pytest.raises(OptimizationInterrupted) as caught:
        make(interrupted).compare(
            SHORT, SHORT, ROWS, ["exact-match", "macro-f1"], second_model="scripted/good", stop=stop
        )
    partial = caught.value.partial
    assert isinstance(partial, ProgramComparison)
    done = [result.row for result in partial.second.evaluation.results]
    assert [result.row for result in partial.first.evaluation.results] == done
    assert 0 < len(done) < 40
    assert partial.partial == f"{len(done)} of 40 rows"
    assert not partial.clears
    assert partial.cost_difference is None, "one did less than the other"
    whole = make().compare(SHORT, SHORT, ROWS, ["exact-match", "macro-f1"], second_model="scripted/good")
    rows = {result.row: result for result in whole.first.evaluation.results}
    assert partial.first.evaluation.scores == [rows[row].score for row in done]
    assert partial.comparison == compare_evaluations(partial.first.evaluation, partial.second.evaluation)


def test_an_interruption_before_b_has_a_row_leaves_a(make, stall):
    stop = threading.Event()

    def interrupted(request):
        if request.model.endswith("good"):
            stop.set()
            stall()
        return answer(request)

    with pytest.raises(OptimizationInterrupted) as caught:
        make(interrupted).compare(SHORT, SHORT, ROWS, "exact-match", second_model="scripted/good", stop=stop)
    assert isinstance(caught.value.partial, ProgramEvaluation)
    assert len(caught.value.partial.evaluation.results) == 40


def test_what_ends_b_leaves_what_was_finished(make):
    def failing(request):
        if request.model.endswith("good") and asked(request) % 4 == 0:
            return "?"
        return answer(request)

    with pytest.raises(OptimizationError, match="at most 3 may") as caught:
        make(failing).compare(SHORT, SHORT, ROWS, "exact-match", second_model="scripted/good", max_errors=3)
    assert isinstance(caught.value.partial, ProgramComparison)

    def dead(request):
        if request.model.endswith("good"):
            raise ConnectionError("nobody is there")
        return answer(request)

    with pytest.raises(OptimizationError, match="stopped answering") as caught:
        make(dead).compare(SHORT, SHORT, ROWS, "exact-match", second_model="scripted/good")
    assert isinstance(caught.value.partial, ProgramEvaluation)


def test_a_repeat_that_b_did_not_finish_is_left_out_of_both(make, stall):
    stop = threading.Event()
    seen = []

    def interrupted(request):
        if stop.is_set():
            stall()
        if request.model.endswith("good"):
            seen.append(1)
            if len(seen) == 60:
                stop.set()
        return answer(request)

    with pytest.raises(OptimizationInterrupted) as caught:
        make(interrupted).compare(SHORT, SHORT, ROWS, ["macro-f1"], second_model="scripted/good", stop=stop, repeats=3)
    partial = caught.value.partial
    assert (len(partial.first.repeats), len(partial.second.repeats)) == (1, 1)
    assert partial.partial == "1 of 3 repeats"
    assert len(partial.first.evaluation.results) == 40
