"""Every optimizer in the box, to the end, on a scripted LM that learns from demonstrations and from instructions."""

import signal
import threading
import time

import dspy
import pytest
from learners import (
    EVERY,
    PROGRAM,
    ROWS,
    SEARCHING,
    Two,
    answered,
    learner,
    optimized,
    picky,
    question_of,
    run,
    said,
    split,
    two_steps,
)

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.optimize.optimizer import find_optimizer
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import OptimizerEntry


def test_the_box_holds_all_of_dspys(plugin_manager):
    assert {found.entry.name for found in plugin_manager.entries(OptimizerEntry).values()} == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_found_by_our_name_and_dspys(plugin_manager, name):
    assert find_optimizer(plugin_manager, EVERY[name]).qualified_name == f"core/{name}"
    assert find_optimizer(plugin_manager, EVERY[name].lower()).qualified_name == f"core/{name}"
    assert hasattr(dspy, EVERY[name])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_to_the_end_better_and_silent(plugin_manager, capfd, name, num_threads):
    lm = ScriptedLM(learner)
    events = []
    result = run(plugin_manager, lm, name, on_event=events.append, num_threads=num_threads)
    captured = capfd.readouterr()
    assert captured.out == captured.err == "", "DSPy's bars, prints and log lines stay inside"
    assert result.baseline.score == 35
    assert result.optimized.score == 100
    assert result.promoted
    assert result.lm_calls == lm.engine.calls
    assert PROGRAM.demos == []
    assert PROGRAM.signature.instructions == dspy.Predict("question -> answer").signature.instructions
    assert all(predictor.lm is None for predictor in result.program.predictors())
    assert not {"candidate_programs", "trial_logs", "detailed_results"} & set(vars(result.program))
    search = [event for event in events if event.stage == "search"]
    done = [event.done for event in search if event.kind == "progress"]
    assert done == sorted(done)
    assert done[-1] > 0
    totals = [event.total for event in search if event.kind == "progress" and event.done > 0]
    assert all(total is None or done <= total for done, total in zip(done[-len(totals) :], totals, strict=True))
    assert None not in totals or name == "better-together", "there is time left to show"
    assert any(event.kind == "candidate" for event in search) or name == "ensemble"


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_program(plugin_manager, name):
    one, same = (run(plugin_manager, ScriptedLM(learner), name, seed=3, num_threads=n) for n in (1, 2))
    assert said(one.program) == said(same.program)
    assert one.lm_calls == same.lm_calls


@pytest.mark.parametrize("name", ["bootstrap", "random-search", "mipro", "labeled", "ensemble"])
def test_seeds_differ_zero_included(plugin_manager, name):
    def demos(seed):
        parameters = {"stop_at_score": None} if name == "random-search" else None
        result = run(plugin_manager, ScriptedLM(picky), name, seed=seed, parameters=parameters)
        return str(said(result.program))

    assert len({demos(seed) for seed in (0, 1, 9)}) > 1
    assert demos(0) != demos(9), "DSPy's MIPROv2 takes seed 0 for its default, 9"


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_lm_that_dies_in_the_search_is_reported(plugin_manager, capfd, name, num_threads):
    """DSPy's GEPA, MIPROv2, SIMBA and BootstrapFewShot return normally then."""
    lock, alive = threading.Lock(), iter(range(22))  # the baseline's 20 rows and two calls of the search

    def script(request):
        with lock:
            dead = next(alive, None) is None
        return RuntimeError("out of memory") if dead else learner(request)

    lm = ScriptedLM(script)
    with pytest.raises(OptimizationError, match="out of memory") as caught:
        run(plugin_manager, lm, name, num_threads=num_threads)
    assert not isinstance(caught.value, OptimizationInterrupted)
    assert caught.value.partial.baseline.n == 20
    assert lm.engine.calls < 22 + 15
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("name", SEARCHING)
def test_only_right_demonstrations_are_shown(plugin_manager, name):
    """`bool(Prediction(score=0.0))` is True: DSPy would accept every one."""
    result = run(plugin_manager, ScriptedLM(learner), name)
    right = {row["question"]: row["answer"] for row in ROWS}
    program = result.program
    inner = getattr(program, "programs", None) or [getattr(program, "module", program)]
    demos = [demo for each in inner for predictor in each.predictors() for demo in predictor.demos]
    demos += [demo for _, made in getattr(program, "entries", []) for demo in made.values()]
    assert all(demo["answer"] == right[demo["question"]] for demo in demos)
    assert demos or name in ("gepa", "copro", "better-together", "mipro")


@pytest.mark.parametrize("name", SEARCHING)
def test_validation_rows_decide_and_test_rows_are_never_seen(plugin_manager, name):
    data = prepare(split(ROWS), PROGRAM)
    tested = {row.question for row in data.test}
    seen, stage = set(), [None]

    def script(request):
        question = question_of(request)
        if stage[0] == "search" and question:
            seen.add(question)
        return learner(request)

    run(plugin_manager, ScriptedLM(script), name, on_event=lambda event: stage.__setitem__(0, event.stage))
    assert not seen & tested
    if name not in ("bootstrap", "knn"):
        assert {row.question for row in data.validation} <= seen


@pytest.mark.parametrize("name", SEARCHING)
def test_ctrl_c_keeps_the_best_so_far(plugin_manager, name):
    pressed, lock, sent = threading.Event(), threading.Lock(), []

    def press(event):
        best = event.kind == "candidate" and (event.score == 100 or name in ("bootstrap", "knn", "simba"))
        if best and not pressed.is_set():
            pressed.set()

    def interrupted(request):
        with lock:
            first = pressed.is_set() and not sent
            sent.extend([1] * first)
        if first:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return learner(request)

    lm = ScriptedLM(interrupted, seconds=0.02)
    slow = {"stop_at_score": None} if name in ("random-search", "gepa") else {}
    with pytest.raises(OptimizationInterrupted) as caught:
        run(plugin_manager, lm, name, on_event=press, rows={"test": 2}, num_threads=2, parameters=slow)
    calls = lm.engine.calls
    time.sleep(0.2)
    assert lm.engine.calls <= calls + 1, "no thread goes on behind the back of an interrupted run"
    partial = caught.value.partial
    assert partial.baseline.n == 2
    assert partial.optimized is None
    assert partial.program is not None or name == "ensemble"
    if partial.program is not None:
        assert all(predictor.lm is None for predictor in partial.program.predictors())


@pytest.mark.parametrize("name", SEARCHING)
def test_what_an_event_sink_raises_ends_the_run(plugin_manager, name):
    """DSPy and GEPA log what a callback raises, and go on."""

    def sink(event):
        if event.stage == "search" and event.done == 3:
            raise ZeroDivisionError("in the sink")

    with pytest.raises(ZeroDivisionError, match="in the sink"):
        run(plugin_manager, ScriptedLM(learner), name, on_event=sink)


@pytest.mark.parametrize("name", SEARCHING)
def test_rows_that_fail_cost_those_rows(plugin_manager, name):
    """DSPy ends most searches at the tenth failure."""

    def script(request):
        question = question_of(request)
        return "garbage" if question and int(question[1:]) % 2 else learner(request)

    result = run(plugin_manager, ScriptedLM(script), name)
    assert result.optimized.score > result.baseline.score


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("rows", [{"train": 1, "validation": 1}, {"train": 2, "validation": 3}])
def test_sizes_are_bounded_by_the_rows(plugin_manager, name, rows):
    parameters = {"max_metric_calls": None} if name == "gepa" else {"bsize": 50} if name == "simba" else {}
    if name == "mipro":
        parameters = {"minibatch": True, "minibatch_size": 25}
    if name == "knn":
        parameters = {"bootstrap": False}
    result = run(plugin_manager, ScriptedLM(learner), name, rows=rows, parameters=parameters)
    assert result.optimized.score >= result.baseline.score


@pytest.mark.parametrize("name", SEARCHING)
def test_two_predictors(plugin_manager, name):
    result = run(plugin_manager, ScriptedLM(two_steps), name, program=Two(), metric=answered)
    assert result.optimized.score == 100


def test_an_optimizer_that_breaks_is_an_error_with_what_was_finished(plugin_manager):
    def broken(job):
        job.keep(job.program.deepcopy(), message="one")
        raise KeyError("oops")

    with pytest.raises(OptimizationError, match=r"'broken' failed: KeyError: 'oops'") as caught:
        optimized(
            PROGRAM, data=prepare(split(ROWS), PROGRAM), metric=ExactMatch(), optimizer=broken, lm=ScriptedLM(learner)
        )  # fmt: skip
    assert caught.value.partial.baseline.n == 20
    assert caught.value.partial.program is not None
