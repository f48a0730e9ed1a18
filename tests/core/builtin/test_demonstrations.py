"""Optimizers of demonstrations: bootstrap, random search, labeled, knn."""

import hashlib
import random
import re

import dspy
from learners import PROGRAM, ROWS, exact, learner, optimized, optimizer_of, refused, run, said, split

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.evaluation.evaluate import evaluate
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.programs.nearest import Nearest
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text
from dspy_toolkit.types import TaskData


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


def test_an_optimized_program_can_be_optimized_again(plugin_manager):
    """DSPy's BootstrapFewShot refuses a program that it made."""
    first = run(plugin_manager, ScriptedLM(learner), "bootstrap")
    for name in ("bootstrap", "random-search", "copro"):
        assert run(plugin_manager, ScriptedLM(learner), name, program=first.program).optimized.score == 100


def nearest_label(request):
    """Right only where a demonstration with the same first digit is in the prompt."""
    question = re.search(r"\[\[ ## question ## \]\]\n(q\d+)", request.messages[-1].text)[1]
    shown = [found for message in request.messages[:-1] for found in re.findall(r"\nq(\d)", message.text)]
    return {"answer": f"a{question[1:]}" if question[1] in shown else "?"}


def test_random_search_can_compare_the_nearest_rows_too(plugin_manager):
    """Ten kinds of question and three demonstrations: no fixed set serves, each call's own does."""
    rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(100, 1000, 9)]
    random.Random(2).shuffle(rows)
    options = {"num_candidate_programs": 2, "max_labeled_demos": 3, "max_bootstrapped_demos": 1}
    scores = {}
    for nearest in (False, True):
        result = run(
            plugin_manager, ScriptedLM(nearest_label), "random-search", data=rows,
            parameters={**options, "nearest": nearest},
        )  # fmt: skip
        scores[nearest] = result.optimized.score
        assert isinstance(result.program, Nearest) == nearest
    assert scores[True] > scores[False]


def by_chance(request, share):
    """Right in so many of a hundred prompts, whatever is in them."""
    question = re.search(r"\[\[ ## question ## \]\]\n(q\d+)", request.messages[-1].text)[1]
    draw = hashlib.sha256(prompt_text(request).encode()).digest()[0] % 100
    return {"answer": f"a{question[1:]}" if draw < share else "?"}


def like_digits(request):
    """Demonstrations help where all have the question's first digit; what else is in the prompt changes luck only."""
    question = re.search(r"\[\[ ## question ## \]\]\n(q\d+)", request.messages[-1].text)[1]
    shown = [found for message in request.messages[:-1] for found in re.findall(r"\nq(\d)", message.text)]
    return by_chance(request, 80 if set(shown) == {question[1]} else 40)


def chosen_by_auto(plugins, script, rows, **options):
    """A search as `auto` asks for it; also all that was told of it."""
    told = []
    data = prepare(TaskData(train=rows[:24], validation=rows[24:40], test=rows[40:]), PROGRAM)
    result = optimized(
        PROGRAM, data=data, metric=ExactMatch(), optimizer=optimizer_of(plugins, "random-search"),
        parameters={"num_candidate_programs": 16, "max_labeled_demos": 16, "nearest": True},
        lm=ScriptedLM(script), on_event=told.append, **options,
    )  # fmt: skip
    return result, data, told


def test_the_luckiest_of_many_sets_does_not_win_over_the_nearest_rows(plugin_manager):
    rows = [{"question": f"q{digit}{n:02}", "answer": f"a{digit}{n:02}"} for digit in range(1, 5) for n in range(30)]
    random.Random(3).shuffle(rows)
    result, data, told = chosen_by_auto(plugin_manager, like_digits, rows[2:102], seed=2)
    assert isinstance(result.program, Nearest)
    shown = [text.removeprefix("question: ") for text, _ in result.program.entries]
    assert shown == [row.question for row in [*data.train, *data.validation]], "done with choosing, all but test rows"
    best = max(event.score for event in told if event.kind == "candidate")
    before = Nearest(result.program.module, result.program.entries[:24], k=result.program.k)
    assert evaluate(before, data.validation, ExactMatch(), lm=ScriptedLM(like_digits)).score.score <= best
    assert result.optimized.score > result.baseline.score + 15


def test_no_demonstrations_are_shown_where_chance_explains_what_they_do(plugin_manager):
    rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(80)]
    result, _, told = chosen_by_auto(plugin_manager, lambda request: by_chance(request, 50), rows, seed=1)
    assert said(result.program) == said(PROGRAM)
    scores = [event.score for event in told if event.kind == "candidate"]
    assert scores == sorted(set(scores)), "each better than the one before"
    assert len(scores) > 1, "a set scored best"
    assert any(event.message.startswith("Shown will be: no demonstrations") for event in told)
