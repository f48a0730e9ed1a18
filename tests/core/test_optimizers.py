"""Every optimizer in the box, to the end, on a scripted LM that learns from demonstrations and from instructions."""

import random
import re
import signal
import threading
import time

import dspy
import pytest

from dspy_toolkit.errors import BundleError, OptimizationError, OptimizationInterrupted, SettingsError, UnknownNameError
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.optimize import find_optimizer, optimize, prepare
from dspy_toolkit.store import composite, load_program, read_bundle
from dspy_toolkit.store.bundle import write_bundle
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text
from dspy_toolkit.types import OptimizerEntry, TaskData, resolve

PROGRAM = dspy.Predict("question -> answer")
ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(50)]
EVERY = {
    "bootstrap": "BootstrapFewShot",
    "random-search": "BootstrapFewShotWithRandomSearch",
    "mipro": "MIPROv2",
    "gepa": "GEPA",
    "simba": "SIMBA",
    "copro": "COPRO",
    "knn": "KNNFewShot",
    "labeled": "LabeledFewShot",
    "ensemble": "Ensemble",
    "better-together": "BetterTogether",
}


def split(rows):
    return TaskData(train=rows[:20], validation=rows[20:30], test=rows[30:])


SMALL = {
    "simba": {"max_steps": 2, "bsize": 6, "num_candidates": 2},
    "mipro": {"num_candidates": 3, "num_trials": 4},
    "gepa": {"max_metric_calls": 90},
    "random-search": {"num_candidate_programs": 2},
    "copro": {"breadth": 3, "depth": 2},
    "better-together": {"parameters": {"random-search": {"num_candidate_programs": 2}, "copro": {"breadth": 2}}},
}
SEARCHING = [name for name in EVERY if name != "labeled"]


def question_of(request):
    """What the program is asked; None where the LM is asked to write an instruction or a summary."""
    text = prompt_text(request)
    if re.search(r"proposed_instruction|new_instruction|module_advice|observations|description", text):
        return None
    found = re.search(r"\[\[ ## question ## \]\]\n(q\d+)", request.messages[-1].text)
    return found and found[1]


def written(request, text):
    """`text` for every field that is asked for."""
    names = re.findall(r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`", request.messages[-1].text.split("Respond with")[-1])
    return {name: {"self": text} if name == "module_advice" else text for name in names if name != "completed"}


def learner(request):
    """Right on every third question; on more with demonstrations or the right instruction, on all with both or many."""
    question = question_of(request)
    if question is None:
        return written(request, "Replace q by a.")
    shown = sum(message.role == "assistant" for message in request.messages)
    hinted = "Replace q by a" in prompt_text(request)
    right = int(question[1:]) % 3 == 0 or (shown or hinted)
    return {"answer": question.replace("q", "a") if right else "no idea"}


def optimizer_of(plugins, name):
    return resolve(find_optimizer(plugins, name).entry.optimizer)


def run(plugins, lm, name, *, parameters=None, rows=None, metric=None, data=ROWS, **options):
    program = options.pop("program", PROGRAM)
    return optimize(
        program,
        data=prepare(split(data), program, rows=rows),
        metric=metric or ExactMatch(),
        optimizer=optimizer_of(plugins, name),
        optimizer_name=name,
        parameters={**SMALL.get(name, {}), **(parameters or {})},
        lm=lm,
        **options,
    )


def said(program):
    """What decides a program's prompts, as plain data."""
    inner = getattr(program, "programs", None) or [getattr(program, "module", program)]
    shown = [
        (name, predictor.signature.instructions, [dict(demo.items()) for demo in predictor.demos])
        for each in inner
        for name, predictor in each.named_predictors()
    ]
    pool = [(text, sorted(demos)) for text, demos in getattr(program, "entries", [])]
    return shown, pool


# --- every optimizer


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
    pressed = threading.Event()

    def press(event):
        best = event.kind == "candidate" and (event.score == 100 or name in ("bootstrap", "knn", "simba"))
        if best and not pressed.is_set():
            pressed.set()
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()

    lm = ScriptedLM(learner, seconds=0.02)
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


class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> note")
        self.second = dspy.Predict("question, note -> answer")

    def forward(self, question):
        return self.second(question=question, note=self.first(question=question).note)


def two_steps(request):
    question = question_of(request)
    if question is None:
        text = written(request, "Replace q by a.")
        return {**text, **({"module_advice": {"first": "x"}} if "module_advice" in text else {})}
    if "[[ ## answer ## ]]" not in prompt_text(request):
        return {"note": "noted"}
    return learner(request)


@pytest.mark.parametrize("name", SEARCHING)
def test_two_predictors(plugin_manager, name):
    result = run(plugin_manager, ScriptedLM(two_steps), name, program=Two(), metric=answered)
    assert result.optimized.score == 100


def answered(gold, pred, trace=None, pred_name=None, pred_trace=None):
    right = gold.answer == pred.answer
    return dspy.Prediction(score=float(right), feedback="right" if right else f"expected {gold.answer}")


# --- the same as DSPy by hand


def exact(gold, pred, trace=None, pred_name=None, pred_trace=None):
    """As a user of DSPy writes it."""
    right = gold.answer == pred.answer
    if trace is not None and pred_name is None:
        return right
    feedback = "Right." if right else f"The answer is {gold.answer!r}."
    return dspy.Prediction(score=float(right), feedback=feedback)


def test_bootstrap_is_dspys(plugin_manager):
    for seed in (0, 4):
        rows = list(prepare(split(ROWS), PROGRAM).train)
        random.Random(seed).shuffle(rows)
        with dspy.context(lm=ScriptedLM(learner)):
            by_hand = dspy.BootstrapFewShot(metric=exact, max_labeled_demos=6).compile(PROGRAM, trainset=rows)
        ours = run(
            plugin_manager,
            ScriptedLM(learner),
            "bootstrap",
            seed=seed,
            metric=exact,
            parameters={"max_labeled_demos": 6},
        )
        assert said(ours.program) == said(by_hand)


def test_random_search_is_dspys(plugin_manager):
    data = prepare(split(ROWS), PROGRAM)
    rows = list(data.train)
    random.Random(5).shuffle(rows)
    with dspy.context(lm=ScriptedLM(learner)):
        by_hand = dspy.BootstrapFewShotWithRandomSearch(
            metric=exact, max_labeled_demos=0, num_candidate_programs=3
        ).compile(PROGRAM, trainset=rows, valset=list(data.validation), restrict=[-3, -1, 0, 1, 2])
    ours = run(
        plugin_manager, ScriptedLM(learner), "random-search", seed=5, metric=exact,
        parameters={"max_labeled_demos": 0, "num_candidate_programs": 3},
    )  # fmt: skip
    assert said(ours.program) == said(by_hand)


def picky(request):
    """Instructions are numbered by what was asked; some are better than others, and so are some demonstrations."""
    question = question_of(request)
    if question is None:
        return written(request, f"Way {len(prompt_text(request)) % 7}.")
    way = re.search(r"Way (\d)", prompt_text(request))
    shown = sum(message.role == "assistant" for message in request.messages)
    right = int(question[1:]) % 7 <= (int(way[1]) if way else 1) or int(question[1:]) % 5 < shown
    return {"answer": question.replace("q", "a") if right else "no idea"}


@pytest.mark.parametrize("seed", [1, 7])
def test_mipro_is_dspys(plugin_manager, seed):
    data = prepare(split(ROWS), PROGRAM)
    script = ScriptedLM(picky)
    with dspy.context(lm=script):
        by_hand = dspy.MIPROv2(
            metric=exact, auto=None, num_candidates=4, max_bootstrapped_demos=2, max_labeled_demos=2, seed=seed,
            num_threads=1,
        ).compile(
            PROGRAM.deepcopy(), trainset=list(data.train), valset=list(data.validation), num_trials=8, minibatch=False
        )  # fmt: skip
    lm = ScriptedLM(picky)
    ours = run(
        plugin_manager, lm, "mipro", seed=seed, metric=exact,
        parameters={
            "num_candidates": 4, "num_trials": 8, "max_bootstrapped_demos": 2, "max_labeled_demos": 2,
        },
    )  # fmt: skip
    assert said(ours.program) == said(by_hand)
    assert "Way" in str(said(by_hand))
    assert lm.engine.calls == script.engine.calls + 2 * 20, "and at the same cost, the two evaluations apart"


@pytest.mark.parametrize("seed", [0, 7])
def test_gepa_is_dspys(plugin_manager, seed):
    data = prepare(split(ROWS), PROGRAM)
    script = ScriptedLM(picky)
    with dspy.context(lm=script):
        by_hand = dspy.GEPA(metric=exact, max_metric_calls=150, reflection_lm=script, seed=seed, num_threads=1).compile(
            PROGRAM.deepcopy(), trainset=list(data.train), valset=list(data.validation)
        )
    parameters = {"max_metric_calls": 150, "stop_at_score": None}
    ours = run(plugin_manager, ScriptedLM(picky), "gepa", seed=seed, metric=exact, parameters=parameters)
    assert said(ours.program) == said(by_hand)
    assert "Way" in str(said(by_hand))


# --- before any call is made


def refused(plugins, name, match, error=OptimizationError, **options):
    lm = ScriptedLM(learner)
    with pytest.raises(error, match=match):
        run(plugins, lm, name, **options)
    assert lm.engine.calls == 0


def clueless(request):
    question = question_of(request)
    return {"answer": "no idea"} if question and int(question[1:]) % 3 else learner(request)


def silent(gold, pred, trace=None):
    return gold.answer == pred.answer


def test_gepa_needs_feedback_and_says_so_first(plugin_manager):
    refused(plugin_manager, "gepa", r"'silent' gives none\. Return dspy\.Prediction\(score", metric=silent)
    together = {"strategy": "bootstrap -> gepa", "parameters": {}}
    refused(plugin_manager, "better-together", r"'silent' gives none", metric=silent, parameters=together)


def test_gepa_without_labels_notices_silence_while_it_runs(plugin_manager):
    rows = [{"question": f"q{n}"} for n in range(50)]
    with pytest.raises(OptimizationError, match="gives none") as caught:
        run(
            plugin_manager, ScriptedLM(clueless), "gepa", data=rows, metric=lambda gold, pred: pred.answer[0] == "a",
            parameters={"max_metric_calls": 400},
        )  # fmt: skip
    assert caught.value.partial.baseline.n == 20


def test_gepa_takes_one_budget_that_is_enough(plugin_manager):
    refused(plugin_manager, "gepa", "one budget; auto and max_metric_calls", parameters={"auto": "light"})
    refused(plugin_manager, "gepa", "before the first new candidate", parameters={"max_metric_calls": 12})


def test_a_second_model_needs_a_way_to_connect(plugin_manager):
    for name, parameter in {
        "gepa": "reflection_lm",
        "mipro": "prompt_model",
        "copro": "prompt_model",
        "simba": "prompt_model",
    }.items():
        refused(plugin_manager, name, "'other/model' cannot be connected", parameters={parameter: "other/model"})


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("gepa", "reflection_lm"), ("mipro", "prompt_model"), ("copro", "prompt_model"), ("simba", "prompt_model")],
)
def test_a_second_model_writes_and_its_death_is_noticed(plugin_manager, name, parameter):
    writer = ScriptedLM(learner, model="other/model")
    result = run(
        plugin_manager, ScriptedLM(lambda request: learner(request) if question_of(request) else "cannot write"), name,
        parameters={parameter: "other/model"}, connect={"other/model": writer}.__getitem__,
    )  # fmt: skip
    assert result.optimized.score == 100
    assert writer.engine.calls > 0 or name == "simba"
    if name != "gepa":
        return
    dead = ScriptedLM(lambda request: RuntimeError("out of memory"), model="other/model")
    with pytest.raises(OptimizationError, match="out of memory"):
        run(
            plugin_manager, ScriptedLM(learner), name, parameters={parameter: "other/model", "max_metric_calls": 400},
            connect={"other/model": dead}.__getitem__,
        )  # fmt: skip


def test_reflections_that_all_fail_are_told(plugin_manager):
    events = []
    lm = ScriptedLM(lambda request: learner(request) if question_of(request) else "I cannot write.")
    result = run(plugin_manager, lm, "gepa", on_event=events.append, parameters={"max_metric_calls": 200})
    assert result.comparison.difference == 0
    notes = [event.message for event in events if event.kind == "note"]
    assert any("All 3 reflections so far failed" in note and "AdapterParseError" in note for note in notes)


def test_labelled_demonstrations_need_labels(plugin_manager):
    rows = [{"question": f"q{n}"} for n in range(50)]
    starts = lambda gold, pred: pred.answer.startswith("a")  # noqa: E731
    refused(plugin_manager, "labeled", "Label them, or use 'bootstrap'", data=rows, metric=starts)
    refused(plugin_manager, "knn", "Label them", data=rows, metric=starts, parameters={"bootstrap": False})
    refused(plugin_manager, "better-together", "Label them", data=rows, metric=starts,
            parameters={"strategy": "labeled -> copro", "parameters": {}})  # fmt: skip
    for name in ("random-search", "mipro", "knn", "ensemble", "copro", "simba"):
        result = run(plugin_manager, ScriptedLM(learner), name, data=rows, metric=starts)
        assert result.optimized.score == 100, name


@pytest.mark.parametrize(
    ("name", "parameters", "match"),
    [
        ("mipro", {"num_candidates": 2}, r"mipro\.num_candidates is 2"),
        ("mipro", {"auto": "huge"}, r"mipro\.auto is 'huge'"),
        ("copro", {"breadth": 1}, r"copro\.breadth is 1"),
        ("simba", {"num_candidates": 1}, r"simba\.num_candidates is 1"),
        ("gepa", {"candidate_selection_strategy": "x"}, r"gepa\.candidate_selection_strategy is 'x'"),
        ("knn", {"k": 0}, r"knn\.k is 0"),
        ("labeled", {"k": "many"}, r"labeled\.k is 'many'"),
        ("ensemble", {"size": 1}, r"ensemble\.size is 1"),
        ("random-search", {"stop_at_score": 101}, r"random-search\.stop_at_score is 101"),
    ],
)
def test_bad_values_are_named(plugin_manager, name, parameters, match):
    refused(plugin_manager, name, match, SettingsError, parameters=parameters)


def test_bad_combinations_are_named(plugin_manager):
    only_labels = {"max_bootstrapped_demos": 0, "max_labeled_demos": 4}
    refused(plugin_manager, "mipro", "labelled demonstrations alone", parameters=only_labels)
    unknown = {"strategy": "bootstrap -> copor", "parameters": {}}
    refused(plugin_manager, "better-together", "Did you mean 'copro'", UnknownNameError, parameters=unknown)
    refused(plugin_manager, "better-together", r"copro\.depth is 0", SettingsError,
            parameters={"parameters": {"copro": {"depth": 0}}})  # fmt: skip


# --- particulars


def test_gepa_leaves_and_reads_no_files(plugin_manager, tmp_path, monkeypatch):
    """A gepa.stop left in a log folder makes DSPy's next run stop after its first evaluation."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gepa.stop").touch()
    assert run(plugin_manager, ScriptedLM(learner), "gepa").optimized.score == 100
    assert [path.name for path in tmp_path.iterdir()] == ["gepa.stop"]


def test_mipro_looks_for_instructions_only(plugin_manager):
    result = run(
        plugin_manager, ScriptedLM(learner), "mipro", parameters={"max_bootstrapped_demos": 0, "max_labeled_demos": 0}
    )
    assert result.program.demos == []
    assert result.program.signature.instructions == "Replace q by a."


def test_nearest_makes_one_call_per_question_and_shows_the_likest(plugin_manager):
    result = run(plugin_manager, ScriptedLM(learner), "knn", parameters={"k": 2, "bootstrap": False})
    train = prepare(split(ROWS), PROGRAM).train
    lm = ScriptedLM(learner)
    with dspy.context(lm=lm):
        assert result.program(question=train[0].question).answer == train[0].answer
    (request,) = lm.engine.requests
    shown = [question for message in request.messages for question in re.findall(r"\nq\d+", message.text)]
    assert len(shown) == 3
    assert shown[1] == shown[2] == f"\n{train[0].question}", "the likest last, next to the question itself"


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("predictors", [1, 2])
def test_stored_and_loaded_it_sends_the_same_prompts(plugin_manager, tmp_path, name, predictors):
    """DSPy's KNNFewShot saves nothing, and its Ensemble loads into an equal ensemble only."""
    factory = (lambda: dspy.Predict("question -> answer")) if predictors == 1 else Two
    data = [{**row, "note": "noted"} for row in ROWS]
    result = run(plugin_manager, ScriptedLM(two_steps), name, program=factory(), metric=answered, data=data)
    bundle = write_bundle(tmp_path / "bundle", result, example_inputs={"question": "q1"})
    again = load_program(read_bundle(bundle.path), factory)
    assert type(again) is type(result.program)

    def sent(program):
        lm = ScriptedLM(two_steps)
        with dspy.context(lm=lm):
            answers = [program(question=f"q{n}").answer for n in range(60, 66)]
        return answers, [prompt_text(request) for request in lm.engine.requests]

    assert sent(again) == sent(result.program)
    assert "question" in (bundle.path / "prompt.md").read_text()


@pytest.mark.parametrize("name", ["knn", "ensemble"])
def test_damage_to_what_stands_beside_the_state_is_named(plugin_manager, tmp_path, name):
    result = run(plugin_manager, ScriptedLM(learner), name)
    stored = composite.dump(result.program)
    broken = {"nearest": 2, "entries": [["q1", {"self": 99}]]} if name == "knn" else {"vote": [{"demos": 3}]}
    for extra in (broken, {"something": 1}, [], 7):
        stored["metadata"]["dspy_toolkit"] = extra
        with pytest.raises(BundleError):
            composite.load(stored, PROGRAM.deepcopy, PROGRAM.deepcopy())


def test_an_ensemble_asks_every_member_every_time(plugin_manager):
    result = run(plugin_manager, ScriptedLM(learner), "ensemble", parameters={"size": 3})
    lm = ScriptedLM(
        [{"answer": "Yes."}, {"answer": "no"}, {"answer": "yes"}] * 2 + ["garbage"] * 2 + [{"answer": "no"}] * 2
    )
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        assert result.program(question="q1").answer == "Yes."
        assert result.program(question="q1").answer == "Yes."
        assert lm.engine.calls == 6


def test_better_together_ends_with_the_error_of_its_step(plugin_manager):
    """DSPy's logs it and returns what it has."""

    def metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
        return 0.0

    together = {"strategy": "copro -> knn"}
    with pytest.raises(UnknownNameError):
        run(plugin_manager, ScriptedLM(learner), "better-together", parameters=together)
    rows = [{"question": f"q{n}"} for n in range(50)]
    steps = {"strategy": "copro -> gepa", "parameters": {"copro": {"breadth": 2, "depth": 1}}}
    with pytest.raises(OptimizationError, match="GEPA learns from the metric's feedback"):
        run(plugin_manager, ScriptedLM(lambda r: written(r, "Try.") if not question_of(r) else {"answer": "x"}),
            "better-together", data=rows, metric=metric, parameters=steps)  # fmt: skip


def test_an_optimized_program_can_be_optimized_again(plugin_manager):
    """DSPy's BootstrapFewShot refuses a program that it made."""
    first = run(plugin_manager, ScriptedLM(learner), "bootstrap")
    for name in ("bootstrap", "random-search", "copro"):
        assert run(plugin_manager, ScriptedLM(learner), name, program=first.program).optimized.score == 100


def test_an_optimizer_that_breaks_is_an_error_with_what_was_finished(plugin_manager):
    def broken(job):
        job.keep(job.program.deepcopy(), message="one")
        raise KeyError("oops")

    with pytest.raises(OptimizationError, match=r"'broken' failed: KeyError: 'oops'") as caught:
        optimize(
            PROGRAM, data=prepare(split(ROWS), PROGRAM), metric=ExactMatch(), optimizer=broken, lm=ScriptedLM(learner)
        )  # fmt: skip
    assert caught.value.partial.baseline.n == 20
    assert caught.value.partial.program is not None
