"""Prompts stay inside the model's context: counted by its tokenizer, trimmed by whole demonstrations, told."""

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import optimized

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.optimize.optimizer import find_optimizer
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text
from dspy_toolkit.types import TaskData, resolve

PROGRAM = dspy.Predict("question -> answer")
ROWS = [{"question": f"question {n} " + "x" * (n % 7) * 10, "answer": f"answer {n}"} for n in range(50)]
ANSWERS = {row["question"].strip(): row["answer"] for row in ROWS}


def split(rows):
    return TaskData(train=rows[:20], validation=rows[20:30], test=rows[30:])


def asked(request):
    return request.messages[-1].text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0].strip()


def learner(request):
    """Right on a third, and on everything with a demonstration. Writes when asked to."""
    question = asked(request)
    if question not in ANSWERS:
        return {"new_instruction": "Answer well. " * 5, "proposed_instruction": "Answer.",
                "proposed_prefix_for_output_field": "Answer:"}  # fmt: skip
    shown = sum(message.role == "assistant" for message in request.messages)
    right = shown or int(question.split()[1]) % 3 == 0
    return {"answer": ANSWERS[question] if right else "no idea"}


def prompt_bytes(demos):
    lm = ScriptedLM(learner)
    program = PROGRAM.deepcopy()
    program.demos = [dspy.Example(**max(ROWS, key=lambda row: len(row["question"]))) for _ in range(demos)]
    with dspy.context(lm=lm):
        program(question=max(ROWS, key=lambda row: len(row["question"]))["question"])
    return len(prompt_text(lm.engine.requests[0]).encode())


def run(plugins, name, context_length, events, **parameters):
    lm = ScriptedLM(learner, context_length=context_length, max_tokens=30)
    result = optimized(
        PROGRAM,
        data=prepare(split(ROWS), PROGRAM),
        metric=ExactMatch(),
        optimizer=resolve(find_optimizer(plugins, name).entry.optimizer),
        parameters=parameters,
        lm=lm,
        on_event=events.append,
    )
    return result, lm


def notes(events):
    return [event.message for event in events if event.kind == "note"]


@pytest.mark.parametrize("demos", [0, 1, 3])
def test_the_count_is_what_the_engine_is_sent(demos):
    window = ContextWindow.of(ScriptedLM(learner, context_length=9999))
    longest = max(ROWS, key=lambda row: len(row["question"]))
    shown = [dspy.Example(**longest)] * demos
    assert window.tokens(PROGRAM.signature, shown, longest) == prompt_bytes(demos)


def test_an_lm_without_a_tokenizer_is_left_alone():
    assert ContextWindow.of(ScriptedLM(learner)) is None
    assert ContextWindow.of(object()) is None


def test_room_is_kept_for_the_answer():
    assert ContextWindow.of(ScriptedLM(learner, context_length=1000, max_tokens=300)).limit == 700
    assert ContextWindow.of(ScriptedLM(learner, context_length=1000, max_tokens=5000)).limit == 500


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    limit=st.integers(600, 4000),
)
def test_a_trimmed_program_fits_and_one_more_demonstration_would_not(lengths, limit):
    data = prepare(split(ROWS), PROGRAM)
    program = PROGRAM.deepcopy()
    program.demos = [dspy.Example(question="y" * length, answer="z") for length in lengths]
    window = ContextWindow(limit=limit, count=ScriptedLM(learner).engine.count_tokens)
    told = []
    trimmed = window.fit(program, data, note=told.append)
    longest = {"question": max([*ROWS, *program.demos], key=lambda row: len(row["question"]))["question"]}
    count = len(trimmed.demos)
    assert trimmed.demos == program.demos[:count], "the last go first, and whole"
    assert len(program.demos) == len(lengths), "the program given is left as it was"
    assert count == 0 or window.tokens(program.signature, trimmed.demos, longest) <= limit
    if count < len(lengths):
        assert window.tokens(program.signature, program.demos[: count + 1], longest) > limit
        assert len(told) == 1
        assert f"{len(lengths) - count} of {len(lengths)} demonstrations" in told[0]
    else:
        assert trimmed is program
        assert told == []


@pytest.mark.parametrize("name", ["bootstrap", "random-search", "mipro", "labeled", "knn", "ensemble", "simba"])
def test_no_optimizer_sends_a_demonstration_too_many(plugin_manager, name):
    """With room for two; DSPy would try more, have those prompts refused, and score the rows as wrong."""
    events = []
    context = prompt_bytes(2) + 31
    parameters = (
        {"k": 9}
        if name in ("labeled", "knn")
        else {"max_demos": 9, "max_steps": 2, "bsize": 8}
        if name == "simba"
        else {"max_bootstrapped_demos": 9, "max_labeled_demos": 9}
    )
    result, lm = run(plugin_manager, name, context, events, **parameters)
    assert any(note.startswith("Lowered to 2:") for note in notes(events))
    assert result.optimized.score == 100
    rows = [request for request in lm.engine.requests if asked(request) in ANSWERS]
    most = max(sum(message.role == "assistant" for message in request.messages) for request in rows)
    assert most == 2 or (name == "simba" and most <= 2)
    if name == "mipro":
        assert any("proposed without the program's code" in note for note in notes(events))
    assert result.optimized_evaluation.errors == ()


def test_where_none_fits_it_is_said_before_any_call(plugin_manager):
    for name in ("bootstrap", "random-search", "labeled", "knn", "ensemble"):
        lm = ScriptedLM(learner, context_length=prompt_bytes(0) + 40, max_tokens=30)
        with pytest.raises(OptimizationError, match=r"Not one demonstration.*copro, gepa"):
            optimized(
                PROGRAM, data=prepare(split(ROWS), PROGRAM), metric=ExactMatch(), lm=lm,
                optimizer=resolve(find_optimizer(plugin_manager, name).entry.optimizer),
            )  # fmt: skip
        assert lm.engine.calls == 0


def test_reflection_prompts_fit_too(plugin_manager):
    whole, short = [], []
    _, free = run(plugin_manager, "gepa", 10**6, whole, max_metric_calls=150, reflection_minibatch_size=8)
    reflections = [request for request in free.engine.requests if asked(request) not in ANSWERS]
    longest = max(len(prompt_text(request).encode()) for request in reflections)
    assert not any("Reflection" in note for note in notes(whole))
    context = int(longest * 0.8) + 30
    _, tight = run(plugin_manager, "gepa", context, short, max_metric_calls=150, reflection_minibatch_size=8)
    sent = [len(prompt_text(request).encode()) for request in tight.engine.requests if asked(request) not in ANSWERS]
    assert sent
    assert max(sent) <= context - 30, "DSPy would have sent prompts that are refused"
    assert any("Reflection prompts hold" in note and "of 8 examples" in note for note in notes(short))


def test_an_optimizer_of_a_plugin_is_trimmed_as_well(plugin_manager):
    def greedy(job):
        program = job.program.deepcopy()
        program.demos = list(job.train)
        job.keep(program.deepcopy(), message="all of them")
        return program

    events = []
    lm = ScriptedLM(learner, context_length=prompt_bytes(3) + 31, max_tokens=30)
    result = optimized(
        PROGRAM,
        data=prepare(split(ROWS), PROGRAM),
        metric=ExactMatch(),
        optimizer=greedy,
        lm=lm,
        on_event=events.append,
    )
    assert 3 <= len(result.program.demos) < 20
    assert result.optimized.score == 100
    told = [note for note in notes(events) if "of 20 demonstrations left out" in note]
    assert len(told) == 1, "said once, not for every candidate"
