"""What a plan says before a run, against what the run then takes, on scripted LMs."""

import dspy
import pytest
from learners import (
    EVERY,
    ROWS,
    SMALL,
    Two,
    answered,
    learner,
    optimized,
    optimizer_of,
    plan_of,
    split,
    steady,
)

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.optimize.planning.forecast import Rate, bootstrapped, distinct, until_score
from dspy_toolkit.optimize.selection import Situation, choose
from dspy_toolkit.runs.journal import Journal, read_journal
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import TaskData

PROGRAMS = {
    "one predictor": lambda: dspy.Predict("question -> answer"),
    "two predictors": Two,
    "chain of thought": lambda: dspy.ChainOfThought("question -> answer"),
}
EARLY = {"random-search": {"stop_at_score": None}, "gepa": {"stop_at_score": None}}


def rows(train, validation, test):
    made = [
        {"question": f"q{n}", "note": "noted", "reasoning": "Letters go, numbers stay.", "answer": f"a{n}"}
        for n in range(train + validation + test)
    ]
    return TaskData(train=made[:train], validation=made[train : train + validation], test=made[train + validation :])


def planned_and_run(plugins, name, script, *, program, data=None, parameters=None, lm=ScriptedLM, **options):
    asked = {
        "data": prepare(data or rows(20, 10, 20), program),
        "metric": answered,
        "optimizer": optimizer_of(plugins, name),
        "optimizer_name": name,
        "parameters": {**SMALL.get(name, {}), **(parameters or {})},
        **options,
    }
    planned = plan_of(program, lm=lm(script), **asked)
    model = lm(script)
    return planned, optimized(program, lm=model, **asked), model.engine.calls


def close(expected, real):
    return real / 1.5 <= expected <= real * 1.5


def check(planned, result, calls):
    total = planned.total()
    assert calls in total.calls
    assert close(total.calls.expected, calls)
    assert result.usage.input_tokens in total.read
    assert close(total.read.expected, result.usage.input_tokens)
    assert result.usage.output_tokens in total.written
    assert close(total.written.expected, result.usage.output_tokens)
    search = calls - result.baseline_evaluation.usage.lm_calls - result.optimized_evaluation.usage.lm_calls
    assert search in planned.total("search").calls


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_calls_and_tokens_are_what_was_planned(plugin_manager, name, kind):
    program = PROGRAMS[kind]()
    parameters = EARLY.get(name)
    check(*planned_and_run(
        plugin_manager, name, steady(0.5), program=program, parameters=parameters, num_threads=2,
    ))  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("train", "validation", "test", "threads"), [(40, 15, 12, 3), (7, 4, 9, 1)])
def test_for_other_rows_and_threads(plugin_manager, name, train, validation, test, threads):
    check(*planned_and_run(
        plugin_manager, name, steady(0.3), program=dspy.Predict("question -> answer"), num_threads=threads,
        data=rows(train, validation, test), parameters=EARLY.get(name),
    ))  # fmt: skip


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize(("train", "validation", "test"), [(24, 16, 30), (40, 15, 12)])
def test_a_search_as_auto_asks_for_it(plugin_manager, share, train, validation, test):
    """Which ends with no demonstrations, with sixteen, or with the three nearest."""
    choice = choose(Situation(train=train, validation=validation, billions=0.1))
    check(*planned_and_run(
        plugin_manager, choice.optimizer, steady(share), program=dspy.Predict("question -> answer"),
        data=rows(train, validation, test), parameters=choice.parameters,
    ))  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_of_a_model_that_learns_and_a_search_that_ends_early(plugin_manager, name):
    """An instruction that makes everything right cannot be foreseen: GEPA then ends within the range, below what was
    expected.
    """
    planned, result, calls = planned_and_run(
        plugin_manager, name, learner, program=dspy.Predict("question -> answer"), data=split(ROWS)
    )
    assert calls in planned.total().calls
    assert result.usage.input_tokens in planned.total().read
    assert close(planned.total().calls.expected, calls) or name == "gepa"


@pytest.mark.parametrize("name", ["bootstrap", "random-search", "knn", "ensemble"])
def test_answers_that_cannot_be_parsed_are_asked_for_again_and_counted(plugin_manager, name):
    """The plain adapter tries each of them once more, as JSON."""
    planned, _, calls = planned_and_run(
        plugin_manager, name, steady(0.5, fails=0.25), program=dspy.Predict("question -> answer"),
        adapter=dspy.ChatAdapter(), parameters=EARLY.get(name),
    )  # fmt: skip
    assert calls in planned.total().calls
    assert close(planned.total().calls.expected, calls)
    assert planned.total().calls.expected > 1.1 * planned_and_run(
        plugin_manager, name, steady(0.5), program=dspy.Predict("question -> answer"), parameters=EARLY.get(name)
    )[0].total().calls.low  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_with_a_cache_what_is_asked_again_costs_nothing(plugin_manager, lm_cache, name):
    seen = []

    def cached(script):
        seen.append(ScriptedLM(script, cache=True, model=f"scripted/{name}"))
        return seen[-1]

    data = TaskData(**{
        part: [{"question": row["question"], "answer": row["answer"]} for row in getattr(rows(12, 6, 8), part)]
        for part in ("train", "validation", "test")
    })  # fmt: skip
    planned, _, calls = planned_and_run(
        plugin_manager, name, steady(0.5), program=dspy.Predict("question -> answer"), data=data, lm=cached,
        parameters=EARLY.get(name),
    )  # fmt: skip
    assert planned.measured.lm_calls == seen[0].engine.calls
    assert calls in planned.total().calls
    assert close(planned.total().calls.expected, calls)


def test_a_plan_without_measuring_asks_no_lm_and_has_no_minutes(plugin_manager):
    for name in EVERY:
        lm = ScriptedLM(steady(0.5))
        program = Two()
        planned = plan_of(
            program, data=prepare(rows(20, 10, 20), program), metric=answered,
            optimizer=optimizer_of(plugin_manager, name), optimizer_name=name, parameters=SMALL.get(name), lm=lm,
            measure=False,
        )  # fmt: skip
        assert lm.engine.calls == 0
        assert planned.measured is None
        assert planned.total().seconds is None
        assert planned.total("baseline").calls.expected == 2 * 20


def test_an_optimizer_of_a_plugin_without_a_forecast_is_unknown(plugin_manager):
    def stranger(job):
        return job.program.deepcopy()

    program = dspy.Predict("question -> answer")
    planned = plan_of(
        program, data=prepare(rows(8, 4, 6), program), metric=answered, optimizer=stranger, lm=ScriptedLM(steady(0.5))
    )
    assert planned.unknown == "the optimizer 'stranger' does not say what it will ask for"
    assert planned.total("search").calls.high == 0
    assert planned.total("baseline").calls.expected == 6


def test_a_dead_model_is_said_and_what_can_be_known_without_it_is_planned(plugin_manager):
    program = dspy.Predict("question -> answer")
    dead = ScriptedLM(lambda request: ConnectionError("no key, no answer"))
    planned = plan_of(
        program, data=prepare(rows(8, 4, 6), program), metric=answered,
        optimizer=optimizer_of(plugin_manager, "bootstrap"), lm=dead,
    )  # fmt: skip
    assert any("no key, no answer" in note for note in planned.notes)
    assert planned.total().seconds is None
    assert planned.total("baseline").calls.expected == 6


def test_what_makes_a_run_pointless_is_refused_here_too(plugin_manager):
    program = dspy.Predict("question -> answer")
    lm = ScriptedLM(steady(0.5))
    with pytest.raises(OptimizationError, match="before the first new candidate"):
        plan_of(
            program, data=prepare(rows(8, 4, 6), program), metric=answered, lm=lm,
            optimizer=optimizer_of(plugin_manager, "gepa"), parameters={"max_metric_calls": 2},
        )  # fmt: skip
    assert lm.engine.calls == 0


def test_a_metric_that_asks_a_model_is_on_lines_of_its_own(plugin_manager):
    judge = ScriptedLM([{"verdict": "yes"}] * 200, model="scripted/judge")

    def judged(gold, pred):
        with dspy.context(lm=judge):
            dspy.Predict("text -> verdict")(text=pred.answer)
        return gold.answer == pred.answer

    program = dspy.Predict("question -> answer")
    asked = {
        "data": prepare(rows(8, 4, 6), program),
        "metric": judged,
        "optimizer": optimizer_of(plugin_manager, "bootstrap"),
    }
    planned = plan_of(program, lm=ScriptedLM(steady(0.5)), **asked)
    before = judge.engine.calls
    optimized(program, lm=ScriptedLM(steady(0.5)), **asked)
    of_judge = [line for line in planned.lines if line.model == "scripted/judge"]
    assert {line.stage for line in of_judge} == {"baseline", "search", "optimized"}
    assert close(sum(line.calls.expected for line in of_judge), judge.engine.calls - before)


def test_a_prompt_model_has_a_line_of_its_own(plugin_manager):
    program = dspy.Predict("question -> answer")
    planned = plan_of(
        program, data=prepare(rows(20, 10, 20), program), metric=answered, lm=ScriptedLM(steady(0.5)),
        optimizer=optimizer_of(plugin_manager, "copro"), parameters={"prompt_model": "other/model", "breadth": 3},
        connect=lambda model: ScriptedLM([], model=model),
    )  # fmt: skip
    (line,) = [line for line in planned.lines if line.model == "other/model"]
    assert line.calls.expected == 5
    assert line.seconds is None
    assert any("How long other/model takes was not measured" in note for note in planned.notes)


def test_a_run_tells_how_many_calls_were_planned_for_it(plugin_manager):
    events = []
    program = dspy.Predict("question -> answer")
    asked = {
        "data": prepare(rows(20, 10, 20), program), "metric": answered,
        "optimizer": optimizer_of(plugin_manager, "copro"), "parameters": SMALL["copro"],
    }  # fmt: skip
    result = optimized(program, lm=ScriptedLM(steady(0.5)), on_event=events.append, **asked)
    assert {event.planned_calls for event in events if event.stage != "baseline"} == {result.lm_calls}


# --- the arithmetic, against drawing lots


def test_bootstrapping_until_enough_pass_is_counted_right():
    tries, accepted = bootstrapped(20, 4, Rate(5000, 10000))
    assert tries.expected == pytest.approx(8, rel=0.05)
    assert accepted == pytest.approx(4, rel=0.05)
    assert (tries.low, tries.high) == (4, 20)
    tries, accepted = bootstrapped(6, 4, Rate(0, 10000), rounds=3)
    assert tries.expected == pytest.approx(18, rel=0.1)
    assert accepted == pytest.approx(0, abs=0.3)
    assert bootstrapped(10, 0, Rate(1, 2))[0].high == 0


def test_different_rows_of_several_draws():
    assert distinct(10, [10.0]) == 10
    assert distinct(10, [5.0, 5.0]) == pytest.approx(7.5)
    assert distinct(4, []) == 0


def test_candidates_until_one_is_good_enough():
    sure, never = Rate(10000, 10000), Rate(0, 10000)
    assert until_score([never, sure, sure], 10, 100).expected == pytest.approx(2, abs=0.2)
    assert until_score([never] * 5, 10, 100).expected == pytest.approx(5, abs=0.1)
    assert until_score([sure] * 5, 10, None).expected == 5
    half = Rate(5000, 10000)
    assert until_score([half] * 40, 2, 100).expected == pytest.approx(4, rel=0.1)


def test_the_plan_is_in_the_record_of_the_run(plugin_manager, tmp_path):
    program = dspy.Predict("question -> answer")
    asked = {
        "data": prepare(rows(20, 10, 20), program), "metric": answered,
        "optimizer": optimizer_of(plugin_manager, "copro"), "parameters": SMALL["copro"],
    }  # fmt: skip
    with Journal(tmp_path / "run") as journal:
        result = optimized(program, lm=ScriptedLM(steady(0.5)), journal=journal, **asked)
    (entry,) = read_journal(tmp_path / "run", "plan")
    assert entry.data["total"]["calls"]["expected"] == result.lm_calls
    planned = plan_of(program, lm=ScriptedLM(steady(0.5)), **asked)
    with Journal(tmp_path / "other") as journal:
        optimized(program, lm=ScriptedLM(steady(0.5)), journal=journal, plan=planned, **asked)
    (entry,) = read_journal(tmp_path / "other", "plan")
    assert entry.data["measured"]["lm_calls"] == 8
