"""Optimization from data to result, with BootstrapFewShot on a scripted LM that learns from demonstrations."""

import json
import signal
import threading

import dspy
import pytest
from learners import optimized

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted, SettingsError, UnknownNameError
from dspy_toolkit.lm.cache import configure_cache
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.optimize.optimizer import find_optimizer
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import TaskData, resolve

PROGRAM = dspy.Predict("question -> answer")
ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(50)]
DATA = TaskData(train=ROWS[:20], validation=ROWS[20:30], test=ROWS[30:])


def asked(request):
    return request.messages[-1].text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0]


def learner(request):
    """Right on every third question, and on all of them once there is a demonstration in the prompt."""
    question = asked(request)
    shown = sum(message.role == "assistant" for message in request.messages)
    right = shown > 0 or int(question[1:]) % 3 == 0
    return {"answer": question.replace("q", "a") if right else "no idea"}


def bootstrap(plugins):
    return resolve(find_optimizer(plugins, "bootstrap").entry.optimizer)


def run(plugin_manager, lm, *, seed=0, rows=None, metric=None, parameters=None, **options):
    return optimized(
        PROGRAM,
        data=prepare(DATA, PROGRAM, rows=rows, seed=seed),
        metric=metric or ExactMatch(),
        optimizer=options.pop("optimizer", None) or bootstrap(plugin_manager),
        optimizer_name="bootstrap",
        parameters={"max_labeled_demos": 0, **(parameters or {})},
        lm=lm,
        seed=seed,
        task="core/questions",
        **options,
    )


def test_bootstrap_to_the_end_beats_the_baseline(plugin_manager, capfd):
    lm = ScriptedLM(learner)
    result = run(plugin_manager, lm)
    captured = capfd.readouterr()
    assert captured.out == captured.err == "", "DSPy's bars, prints and log lines stay inside"
    assert result.baseline.score < 60
    assert result.optimized.score == 100
    assert result.promoted
    assert result.comparison.wins > 0
    assert result.comparison.losses == 0
    assert result.baseline.n == result.optimized.n == result.rows["test"] == 20
    assert result.lm_calls == lm.engine.calls
    assert (result.task, result.model, result.optimizer, result.seed) == (
        "core/questions",
        "scripted/test",
        "bootstrap",
        0,
    )
    assert 1 <= len(result.program.demos) <= result.parameters["max_bootstrapped_demos"] == 4
    assert PROGRAM.demos == [], "the program that was given is left as it was"
    assert result.program.lm is None


def test_accepted_demonstrations_are_right_and_from_the_training_set(plugin_manager):
    data = prepare(DATA, PROGRAM)
    result = run(plugin_manager, ScriptedLM(learner))
    train = {row.question: row.answer for row in data.train}
    assert all(train[demo.question] == demo.answer for demo in result.program.demos)


def test_the_seed_decides_and_the_same_seed_gives_the_same_program(plugin_manager):
    def demos(seed):
        return [demo.question for demo in run(plugin_manager, ScriptedLM(learner), seed=seed).program.demos]

    assert demos(1) == demos(1)
    assert len({tuple(demos(seed)) for seed in range(4)}) > 1


def test_an_optimization_that_does_not_help_says_so(plugin_manager):
    lm = ScriptedLM(
        lambda request: {"answer": asked(request).replace("q", "a") if int(asked(request)[1:]) % 2 else "no"}
    )
    result = run(plugin_manager, lm)
    assert result.comparison.difference == 0
    assert not result.promoted


def test_the_result_is_json(plugin_manager):
    document = json.loads(json.dumps(run(plugin_manager, ScriptedLM(learner)).to_dict(), allow_nan=False))
    assert {"task", "model", "optimizer", "seed", "baseline", "optimized", "lm_calls", "seconds"} <= set(document)
    assert set(document["baseline"]) == {"score", "low", "high", "n"}
    assert document["promoted"] is True


def test_labelled_demonstrations_only_where_rows_have_labels(plugin_manager):
    filled = run(plugin_manager, ScriptedLM(learner), parameters={"max_labeled_demos": 8})
    assert len(filled.program.demos) == 8
    unlabelled = [{"question": f"q{n}"} for n in range(50)]
    result = optimized(
        PROGRAM,
        data=prepare(unlabelled, PROGRAM),
        metric=lambda gold, pred: pred.answer.startswith("a"),
        optimizer=bootstrap(plugin_manager),
        parameters={"max_labeled_demos": 8},
        lm=ScriptedLM(learner),
    )
    assert all("answer" in demo for demo in result.program.demos)
    assert len(result.program.demos) == 4


def test_events_frame_three_stages(plugin_manager):
    events = []
    run(plugin_manager, ScriptedLM(learner), on_event=events.append)
    framed = [(event.kind, event.stage) for event in events if event.kind.startswith("stage")]
    stages = ("baseline", "search", "optimized")
    assert framed == [(f"stage_{what}", stage) for stage in stages for what in ("started", "finished")]
    candidates = [event for event in events if event.kind == "candidate"]
    assert [event.message for event in candidates] == [f"{n} demonstrations accepted" for n in range(1, 5)]
    search = [event for event in events if event.stage == "search" and event.kind == "progress"]
    assert [event.done for event in search] == list(range(len(search)))
    assert {event.total for event in search} == {20}
    assert [event.lm_calls for event in events] == sorted(event.lm_calls for event in events)
    assert events[-1].best == 100


def test_the_same_command_again_makes_no_call_twice(plugin_manager, lm_cache):
    lm = ScriptedLM(learner, cache=True)
    first = run(plugin_manager, lm)
    calls = lm.engine.calls
    again = ScriptedLM(learner, cache=True)
    second = run(plugin_manager, again)
    assert again.engine.calls == 0
    assert second.lm_calls == 0
    assert first.lm_calls == calls
    assert second.optimized == first.optimized
    assert [demo.toDict() for demo in second.program.demos] == [demo.toDict() for demo in first.program.demos]


def test_an_interrupted_run_goes_on_where_it_was_from_disk(plugin_manager, lm_cache):
    whole = ScriptedLM(learner, cache=True, model="scripted/whole")
    expected = run(plugin_manager, whole)
    stop = threading.Event()

    def interrupt(event):
        if event.stage == "optimized" and event.done == 5:
            stop.set()

    first = ScriptedLM(learner, cache=True, model="scripted/parts")
    with pytest.raises(OptimizationInterrupted):
        run(plugin_manager, first, on_event=interrupt, stop=stop)
    configure_cache(lm_cache.parent / "elsewhere")  # forget what is in memory, as a new process would
    configure_cache(lm_cache)
    second = ScriptedLM(learner, cache=True, model="scripted/parts")
    result = run(plugin_manager, second)
    assert first.engine.calls + second.engine.calls == whole.engine.calls
    assert result.optimized == expected.optimized


def labelled(plugin_manager, lm, *, seed=0, rows=DATA):
    return optimized(
        PROGRAM,
        data=prepare(rows, PROGRAM),
        metric=ExactMatch(),
        optimizer=resolve(find_optimizer(plugin_manager, "LabeledFewShot").entry.optimizer),
        optimizer_name="labeled",
        parameters={"k": "3"},
        lm=lm,
        seed=seed,
    )


def test_labelled_demonstrations_alone(plugin_manager):
    result = labelled(plugin_manager, ScriptedLM(learner))
    assert result.optimized.score == 100
    assert result.usage.lm_calls == result.baseline.n + result.optimized.n, "the search itself calls nothing"
    train = {row.question: row.answer for row in prepare(DATA, PROGRAM).train}
    assert [train[demo.question] for demo in result.program.demos] == [demo.answer for demo in result.program.demos]
    assert len(result.program.demos) == 3
    assert PROGRAM.demos == []
    drawn = {
        tuple(demo.question for demo in labelled(plugin_manager, ScriptedLM(learner), seed=n).program.demos)
        for n in range(3)
    }
    assert len(drawn) > 1


def test_labelled_demonstrations_need_labels(plugin_manager):
    with pytest.raises(OptimizationError, match=r"have no output field of the program.*use 'bootstrap'"):
        labelled(plugin_manager, ScriptedLM(learner), rows=[{"question": f"q{n}", "label": f"a{n}"} for n in range(9)])


# --- stopping


def test_ctrl_c_in_the_search_keeps_the_demonstrations_found(plugin_manager, stall):
    second = threading.Event()

    def watch(event):
        if event.kind == "candidate" and event.message.startswith("2 "):
            second.set()

    def interrupted(request):
        if second.is_set():
            second.clear()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            stall()
        return learner(request)

    assert len(run(plugin_manager, ScriptedLM(learner)).program.demos) > 2
    with pytest.raises(OptimizationInterrupted) as caught:
        run(plugin_manager, ScriptedLM(interrupted), on_event=watch, rows={"test": 4})
    partial = caught.value.partial
    assert len(partial.program.demos) == 2
    assert partial.baseline.n == 4
    assert partial.optimized is None
    assert partial.comparison is None
    assert not partial.promoted
    json.dumps(partial.to_dict())


@pytest.mark.parametrize(("stage", "found"), [("baseline", False), ("search", True), ("optimized", True)])
def test_the_stop_event_ends_any_stage(plugin_manager, stall, stage, found):
    stop = threading.Event()

    def script(request):
        if stage == "baseline" and lm.engine.calls == 2:
            stall()
        return learner(request)

    lm = ScriptedLM(script)

    def sink(event):
        reached = event.kind == "candidate" if stage == "search" else event.done == 1
        if event.stage == stage and reached:
            stop.set()

    with pytest.raises(OptimizationInterrupted) as caught:
        run(plugin_manager, lm, on_event=sink, stop=stop)
    partial = caught.value.partial
    assert (partial.program is not None) is found
    assert partial.baseline.n == (1 if stage == "baseline" else 20)
    assert partial.optimized is None


# --- failures


def test_an_lm_that_dies_in_the_search_is_reported(plugin_manager):
    """DSPy's BootstrapFewShot returns normally then."""
    alive = iter(range(22))  # the baseline's 20 rows and two of the search
    lm = ScriptedLM(
        lambda request: learner(request) if next(alive, None) is not None else RuntimeError("out of memory")
    )
    with pytest.raises(
        OptimizationError, match=r"'scripted/test' stopped answering during the search.*out of memory"
    ) as caught:
        run(plugin_manager, lm)
    assert caught.value.partial.baseline.n == 20
    assert lm.engine.calls < 22 + 10


def test_a_row_that_cannot_be_parsed_costs_that_row(plugin_manager):
    def script(request):
        return "garbage" if asked(request) in {f"q{n}" for n in range(0, 50, 7)} else learner(request)

    result = run(plugin_manager, ScriptedLM(script))
    assert result.optimized.score > result.baseline.score
    assert {group.type for group in result.baseline_evaluation.errors} == {"AdapterParseError"}


def test_a_metric_that_fails_in_the_search_is_in_the_error_table(plugin_manager):
    train = {row.question for row in prepare(DATA, PROGRAM).train}

    def picky(gold, pred):
        return None if gold.question in train else gold.answer == pred.answer

    result = run(plugin_manager, ScriptedLM(learner), metric=picky)
    (group,) = result.errors
    assert group.type == "MetricError"
    assert group.count == 20
    assert result.program.demos == []
    assert any(row["stage"] == "search" for row in result.to_dict()["errors"])


def test_an_optimizer_must_return_a_program(plugin_manager):
    with pytest.raises(OptimizationError, match="returned a NoneType"):
        run(plugin_manager, ScriptedLM(learner), optimizer=gives_nothing)


def gives_nothing(job, *, max_labeled_demos: int = 0):
    return None


# --- names and parameters


@pytest.mark.parametrize("name", ["bootstrap", "core/bootstrap", "BootstrapFewShot", "bootstrapfewshot", "BOOTSTRAP"])
def test_optimizers_are_found_by_our_name_and_dspys(plugin_manager, name):
    assert find_optimizer(plugin_manager, name).qualified_name == "core/bootstrap"


def test_an_unknown_optimizer_lists_the_closest(plugin_manager):
    with pytest.raises(UnknownNameError, match=r"No optimizer named 'bootstrp'. Did you mean 'bootstrap'\?"):
        find_optimizer(plugin_manager, "bootstrp")


def test_the_cache_directory_must_be_usable(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SettingsError, match="cannot be used"):
        configure_cache(blocked / "cache")


def test_a_planted_cache_entry_runs_no_code(lm_cache, tmp_path):
    """DSPy's default cache executes pickles it finds on disk."""
    marker = tmp_path / "executed"
    lm = ScriptedLM([{"answer": "one"}], cache=True)
    with dspy.context(lm=lm):
        PROGRAM(question="q")
    import diskcache

    planted = diskcache.FanoutCache(str(lm_cache), shards=16)
    keys = list(planted)
    for key in keys:
        planted[key] = Planted(str(marker))
    planted.close()
    configure_cache(lm_cache.parent / "elsewhere")
    configure_cache(lm_cache)
    again = ScriptedLM([{"answer": "two"}], cache=True)
    with dspy.context(lm=again):
        assert PROGRAM(question="q").answer == "two"
    assert keys
    assert not marker.exists()


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")
