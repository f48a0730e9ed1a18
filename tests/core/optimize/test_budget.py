"""A budget is never exceeded, ends a search well, and pays for the last evaluation first."""

import json
import threading

import dspy
import pytest
from learners import EVERY, PROGRAM, ROWS, SMALL, learner, optimized, optimizer_of, said, split

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.runs.journal import Journal, read_journal
from dspy_toolkit.testing import ScriptedLM

TESTED = 20


def run(plugins, lm, name="random-search", *, limits=None, parameters=None, rows=None, **options):
    return optimized(
        PROGRAM,
        data=prepare(split(ROWS), PROGRAM, rows=rows),
        metric=options.pop("metric", None) or ExactMatch(),
        optimizer=optimizer_of(plugins, name),
        optimizer_name=name,
        parameters={**SMALL.get(name, {}), **(parameters or {})},
        lm=lm,
        limits=limits or Limits(),
        **options,
    )


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_never_more_calls_than_allowed_and_what_was_found_is_measured(plugin_manager, name, num_threads):
    last = 3 * TESTED if name == "ensemble" else TESTED
    for extra in (0, 5, 17):
        limit = TESTED + last + extra
        lm = ScriptedLM(learner, seconds=0.001)
        result = run(plugin_manager, lm, name, limits=Limits(calls=limit), num_threads=num_threads)
        assert lm.engine.calls <= limit
        assert result.lm_calls == lm.engine.calls
        assert result.comparison is not None
        assert result.optimized.n == TESTED
        if extra == 0:
            assert result.status == ("finished" if name == "labeled" else "budget")
        if result.status == "budget":
            assert result.note == f"its share of the budget is spent, {limit - last} of {limit} calls"


def test_a_budget_that_is_not_reached_changes_nothing(plugin_manager):
    without = run(plugin_manager, ScriptedLM(learner))
    within = run(plugin_manager, ScriptedLM(learner), limits=Limits(calls=without.lm_calls, tokens=10**9, seconds=3600))
    assert within.status == without.status == "finished"
    assert said(within.program) == said(without.program)
    assert within.optimized == without.optimized


def test_too_little_for_two_evaluations_is_refused_with_the_numbers_before_any_call(plugin_manager):
    lm = ScriptedLM(learner)
    with pytest.raises(OptimizationError, match=r"budget of 39 LM calls does not cover.*20 test rows.*20 after, 40"):
        run(plugin_manager, lm, limits=Limits(calls=39))
    with pytest.raises(OptimizationError, match="20 for the 20 test rows before and 60 after, 80 in all"):
        run(plugin_manager, lm, "ensemble", limits=Limits(calls=79))
    with pytest.raises(OptimizationError, match="'scripted/test' cannot be limited, for it has no list price"):
        run(plugin_manager, lm, limits=Limits(cost=1.0))
    with pytest.raises(OptimizationError, match=r"budget of 1000 tokens .* the prompts of the 20 test rows alone"):
        run(plugin_manager, lm, limits=Limits(tokens=1000))
    assert lm.engine.calls == 0


def test_nothing_better_found_is_the_program_as_it_was_and_not_promoted(plugin_manager):
    lm = ScriptedLM(learner)
    result = run(plugin_manager, lm, limits=Limits(calls=2 * TESTED))
    assert said(result.program) == said(PROGRAM)
    assert not result.promoted
    assert result.comparison.difference == 0
    assert result.baseline == result.optimized
    assert lm.engine.calls == TESTED, "the same program is not measured twice"


def test_the_best_so_far_is_measured_and_may_be_promoted(plugin_manager):
    lm = ScriptedLM(learner)
    # The program as it is, then rows as they are: 10 validation rows each.
    result = run(plugin_manager, lm, limits=Limits(calls=2 * TESTED + 25), parameters={"stop_at_score": None})
    assert result.status == "budget"
    assert result.optimized.score == 100
    assert result.promoted


def test_tokens_are_limited_and_longer_prompts_are_kept_back_for(plugin_manager):
    whole = run(plugin_manager, ScriptedLM(learner))
    tokens = whole.usage.input_tokens + whole.usage.output_tokens
    limit = tokens * 3 // 4
    lm = ScriptedLM(learner)
    result = run(plugin_manager, lm, limits=Limits(tokens=limit))
    spent = result.usage.input_tokens + result.usage.output_tokens
    longest = max(whole.usage.input_tokens // whole.lm_calls * 3, 2000)
    assert result.status == "budget"
    assert spent <= limit + longest, "the call that reaches the limit may end"
    assert result.optimized.n == TESTED, "the measurement of longer prompts was paid for"


def forever(job):
    """Asks until somebody ends it."""
    number = 0
    while True:
        number += 1
        job.program(question=f"q{number}")
        job.report(number)


def test_time_is_limited(plugin_manager):
    result = optimized(
        PROGRAM,
        data=prepare(split(ROWS), PROGRAM),
        metric=ExactMatch(),
        optimizer=forever,
        lm=ScriptedLM(learner),
        limits=Limits(seconds=5),
    )
    assert result.status == "budget"
    assert result.optimized.n == TESTED
    assert result.note.endswith("of 5 seconds")


def test_a_program_that_asks_more_often_than_it_has_predictors_is_measured_first(plugin_manager, tmp_path):
    class Twice(dspy.Module):
        def __init__(self):
            super().__init__()
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question):
            self.answer(question=question)
            return self.answer(question=question)

    def go(calls, folder):
        lm = ScriptedLM(learner)
        with Journal(folder) as journal:
            try:
                return lm, optimized(
                    Twice(),
                    data=prepare(split(ROWS), Twice()),
                    metric=ExactMatch(),
                    optimizer=optimizer_of(plugin_manager, "bootstrap"),
                    lm=lm,
                    limits=Limits(calls=calls),
                    journal=journal,
                )
            except OptimizationError as error:
                return lm, error

    lm, result = go(4 * TESTED + 6, tmp_path / "enough")
    assert lm.engine.calls <= 4 * TESTED + 6
    assert result.optimized.n == TESTED
    lm, error = go(2 * TESTED + 6, tmp_path / "little")
    assert isinstance(error, OptimizationError)
    assert "baseline alone needs more" in str(error)
    assert lm.engine.calls <= 2 * TESTED + 6
    (end,) = read_journal(tmp_path / "little", "end")
    assert end.data["status"] == "budget"


def test_a_run_that_its_budget_ended_goes_on_with_a_larger_one(plugin_manager, lm_cache, tmp_path):
    whole = {"stop_at_score": None}
    expected = run(plugin_manager, ScriptedLM(learner, cache=True, model="scripted/whole"), parameters=whole)
    made = []

    def again(calls):
        lm = ScriptedLM(learner, cache=True, model="scripted/parts")
        with Journal(tmp_path / "run") as journal:
            result = run(plugin_manager, lm, limits=Limits(calls=calls), journal=journal, parameters=whole)
        made.append(lm.engine.calls)
        assert sum(made) <= calls
        assert result.lm_calls == sum(made), "what the run asked in all its sessions"
        return result

    assert again(2 * TESTED + 5).status == "budget"
    assert again(2 * TESTED + 25).status == "budget"
    result = again(200)
    assert result.status == "finished"
    assert said(result.program) == said(expected.program)
    assert result.optimized == expected.optimized
    with Journal(tmp_path / "run") as journal, pytest.raises(OptimizationError, match="is finished"):
        run(plugin_manager, ScriptedLM(learner), journal=journal, parameters=whole)


# --- failing rows


@pytest.mark.parametrize("num_threads", [1, 3])
def test_one_failing_row_too_many_ends_the_run_with_the_table(plugin_manager, num_threads):
    lm = ScriptedLM(lambda request: "no format at all")
    with pytest.raises(OptimizationError, match=r"4 rows failed and 3 may \(max_errors\)") as caught:
        run(plugin_manager, lm, max_errors=3, num_threads=num_threads)
    (error,) = caught.value.partial.to_dict()["errors"]
    assert (error["stage"], error["type"], error["count"]) == ("baseline", "AdapterParseError", 4)
    assert error["completion"] == "no format at all"
    assert error["row"] >= 1


def test_failing_rows_of_the_search_count_and_are_named(plugin_manager):
    data = prepare(split(ROWS), PROGRAM)
    train = [row.question for row in data.train]
    lock = threading.Lock()
    seen = []

    def script(request):
        question = request.messages[-1].text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0]
        if question in train[::2]:
            with lock:
                seen.append(question)
            return "garbage"
        return learner(request)

    result = run(plugin_manager, ScriptedLM(script), "bootstrap")
    (group,) = result.errors
    assert group.type == "AdapterParseError"
    assert group.count >= 1
    assert group.completion == "garbage"
    assert group.row == f"row {train.index(seen[0]) + 1} of the train set"
    json.dumps(result.to_dict())
    failing = group.count
    assert run(plugin_manager, ScriptedLM(script), "bootstrap", max_errors=failing).optimized.score > 0
    with pytest.raises(OptimizationError, match=f"{failing} rows failed and") as caught:
        run(plugin_manager, ScriptedLM(script), "bootstrap", max_errors=failing - 1)
    assert caught.value.partial.baseline.n == TESTED
    assert caught.value.partial.errors[0].count == failing
