"""Same seed, same rows, same settings: the same program as DSPy by hand, for every shape of program and of rows.

DSPy's BootstrapFewShot, LabeledFewShot and random search have no seed: they get the rows in the order of ours.
"""

import hashlib
import random
import re

import dspy
import pytest
from learners import Two, run

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.programs.state import dump
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text
from dspy_toolkit.types import TaskData


class Steps(dspy.Module):
    """Chains of thought in a list, the second of which also gets what the first put out."""

    def __init__(self):
        super().__init__()
        self.steps = [dspy.ChainOfThought("question -> note"), dspy.ChainOfThought("question, note -> answer")]

    def forward(self, question):
        return self.steps[1](question=question, note=self.steps[0](question=question).note)


def rewarding(kind):
    def reward(inputs, prediction):
        return float(prediction.answer != "wrong")

    return kind(module=dspy.ChainOfThought("question -> answer"), N=3, reward_fn=reward, threshold=1.0)


PROGRAMS = {
    "predict": lambda: dspy.Predict("question -> answer"),
    "chain of thought": lambda: dspy.ChainOfThought("question -> answer"),
    "two steps": Two,
    "list of chains": Steps,
    "best of n": lambda: rewarding(dspy.BestOfN),
    "refine": lambda: rewarding(dspy.Refine),
}
FIELDS = {
    "answers": ("answer",),
    "answers and notes": ("note", "answer"),
    "everything": ("reasoning", "note", "answer"),
    "no labels": (),
}


def rows(fields):
    labels = {"reasoning": "Digits stay.", "note": "noted"}
    full = [{"question": f"question {n}", **labels, "answer": f"a{n % 5}"} for n in range(40)]
    part = [{name: row[name] for name in ("question", *fields)} for row in full]
    return TaskData(train=part[:16], validation=part[16:26], test=part[26:])


def answering(request):
    """Right in some cases, by question, demonstrations and instruction; fills whatever fields are requested."""
    text, question = prompt_text(request), request.messages[-1].text
    names = re.findall(r"`(\w+)`", text.partition("Your output fields are")[2].partition("All interactions")[0])
    drawn = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    number = re.search(r"question (\d+)", question)
    right = drawn % 5 > 1
    values = dict.fromkeys(names, f"t{drawn % 100}")
    if "answer" in values:
        values["answer"] = f"a{int(number[1]) % 5}" if right and number else "wrong"
    if "proposed_instruction" in values or "new_instruction" in values:
        values = dict.fromkeys(values, f"Variant {drawn % 1000}.")
    return {**values, **({"advice": {}} if "advice" in names else {})}


def correct(gold, pred, trace=None, pred_name=None, pred_trace=None):
    """Right or not by the question, since some rows have no label."""
    expected = f"a{int(gold.question.split()[1]) % 5}"
    right = pred.answer == expected
    if trace is not None and pred_name is None:
        return right
    return dspy.Prediction(score=float(right), feedback=f"expected {expected}") if pred_name else float(right)


def shuffled(data, seed):
    train = list(data.train)
    random.Random(seed).shuffle(train)
    return train


def bootstrap(program, data, seed, lm):
    return dspy.BootstrapFewShot(metric=correct, max_bootstrapped_demos=2, max_labeled_demos=5, max_rounds=2).compile(
        program, trainset=shuffled(data, seed)
    )


def labeled(program, data, seed, lm):
    return dspy.LabeledFewShot(k=3).compile(program, trainset=shuffled(data, seed), sample=False)


def random_search(program, data, seed, lm):
    return dspy.BootstrapFewShotWithRandomSearch(
        metric=correct, max_bootstrapped_demos=2, max_labeled_demos=4, num_candidate_programs=2, num_threads=1
    ).compile(program, trainset=shuffled(data, seed), valset=list(data.validation))


def mipro(program, data, seed, lm):
    return dspy.MIPROv2(
        metric=correct, prompt_model=lm, task_model=lm, auto=None, num_candidates=3, max_bootstrapped_demos=2,
        max_labeled_demos=2, seed=seed, init_temperature=1.0, num_threads=1,
    ).compile(
        program, trainset=list(data.train), valset=list(data.validation), num_trials=3, minibatch=False
    )  # fmt: skip


def gepa(program, data, seed, lm):
    return dspy.GEPA(metric=correct, max_metric_calls=60, reflection_lm=lm, seed=seed, num_threads=1).compile(
        program, trainset=list(data.train), valset=list(data.validation)
    )


BY_HAND = {
    "bootstrap": (bootstrap, {"max_bootstrapped_demos": 2, "max_labeled_demos": 5, "max_rounds": 2}),
    "labeled": (labeled, {"k": 3}),
    "random-search": (
        random_search,
        {"max_bootstrapped_demos": 2, "max_labeled_demos": 4, "num_candidate_programs": 2, "stop_at_score": None},
    ),
    "mipro": (mipro, {"num_candidates": 3, "num_trials": 3, "max_bootstrapped_demos": 2, "max_labeled_demos": 2}),
    "gepa": (gepa, {"max_metric_calls": 60, "stop_at_score": None}),
}


def state(program):
    return {name: value for name, value in dump(program).items() if name != "metadata"}


def both(plugins, name, kind, fields, seed):
    data = prepare(rows(FIELDS[fields]), PROGRAMS[kind]())
    compiled, parameters = BY_HAND[name]
    lm = ScriptedLM(answering)
    with dspy.context(lm=lm):
        theirs = compiled(PROGRAMS[kind](), data, seed, lm)
    model = ScriptedLM(answering)
    options = {"seed": seed, "metric": correct, "parameters": parameters, "splits": data}
    ours = run(plugins, model, name, program=PROGRAMS[kind](), **options)
    return ours, theirs, data


def prompts(program, row):
    lm = ScriptedLM(answering)
    with dspy.context(lm=lm):
        program(question=row.question)
    return [prompt_text(request) for request in lm.engine.requests]


SEEDS = {"answers": 1, "answers and notes": 2, "everything": 3}


@pytest.mark.parametrize("fields", SEEDS)
@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("name", BY_HAND)
def test_the_program_is_dspys(plugin_manager, name, kind, fields):
    ours, theirs, data = both(plugin_manager, name, kind, fields, SEEDS[fields])
    assert state(ours.program) == state(theirs)
    with dspy.context(lm=ScriptedLM(answering)):
        score = dspy.Evaluate(devset=list(data.test), metric=correct, display_progress=False)(theirs).score
    assert ours.optimized.score == pytest.approx(score, abs=0.01)


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("name", [name for name in BY_HAND if name != "labeled"])
def test_rows_without_labels_are_left_out_where_dspy_stores_them_and_its_prompts_do_not_have_them(
    plugin_manager, name, kind
):
    ours, theirs, data = both(plugin_manager, name, kind, "no labels", 1)
    assert prompts(ours.program, data.test[0]) == prompts(theirs, data.test[0])


def test_incomplete_rows_are_demonstrations(plugin_manager):
    """Of two predictors the rows have the last one's label only, and of a chain of thought not the reasoning."""
    ours, _, _ = both(plugin_manager, "labeled", "list of chains", "answers", 1)
    assert [len(predictor.demos) for predictor in ours.program.predictors()] == [3, 3]
    lm = ScriptedLM(answering)
    with dspy.context(lm=lm):
        ours.program(question="question 99")
    first, second = map(prompt_text, lm.engine.requests)
    assert "Not supplied for this particular example" not in first
    assert second.count("[[ ## answer ## ]]\na") == 3
    assert second.count("[[ ## reasoning ## ]]\nNot supplied for this particular example.") == 3


# --- feedback for GEPA, in every form that its documentation and its users have


def right(gold, pred):
    return float(pred.answer == f"a{int(gold.question.split()[1]) % 5}")


def only_for_predictors(gold, pred, trace=None, pred_name=None, pred_trace=None):
    """As in DSPy's documentation: a number for the row, feedback for a predictor."""
    if pred_name is None:
        return right(gold, pred)
    return dspy.Prediction(score=right(gold, pred), feedback=f"<<{pred_name}: digits modulo five>>")


def only_for_the_second(gold, pred, trace=None, pred_name=None, pred_trace=None):
    if pred_name != "second":
        return right(gold, pred)
    return dspy.Prediction(score=right(gold, pred), feedback="<<second: digits modulo five>>")


def by_predictors_trace(gold, pred, trace, pred_name, pred_trace):
    if pred_name is None:
        return right(gold, pred)
    ((predictor, inputs, outputs),) = pred_trace
    fields = f"{list(predictor.signature.output_fields)} from {inputs['question'][:8]} {type(outputs).__name__}"
    return {"score": right(gold, pred), "feedback": f"<<{pred_name}: {fields}>>"}


def bool_for_a_trace(gold, pred, trace=None):
    """Three arguments: it cannot tell GEPA's trace from bootstrapping's, and is given none."""
    score = right(gold, pred)
    return score > 0 if trace is not None else dspy.Prediction(score=score, feedback="<<digits modulo five>>")


@pytest.mark.parametrize(
    "metric",
    [only_for_predictors, only_for_the_second, by_predictors_trace, bool_for_a_trace],
    ids=lambda m: m.__name__,
)
def test_feedback_reaches_the_reflection(plugin_manager, metric):
    lm = ScriptedLM(answering)
    data = prepare(rows(("answer",)), Two())
    parameters = {"max_metric_calls": 60, "stop_at_score": None}
    result = run(plugin_manager, lm, "gepa", seed=1, metric=metric, program=Two(), parameters=parameters, splits=data)
    reflections = [
        prompt_text(request) for request in lm.engine.requests if "examples_with_feedback" in prompt_text(request)
    ]
    assert any("<<" in text for text in reflections)
    assert all("<<" in text or "This trajectory got a score of" in text for text in reflections)
    assert not result.errors


def test_gepa_is_dspys_where_only_one_predictor_has_feedback(plugin_manager):
    data = prepare(rows(("answer",)), Two())
    lm = ScriptedLM(answering)
    with dspy.context(lm=lm):
        theirs = dspy.GEPA(
            metric=only_for_the_second, max_metric_calls=60, reflection_lm=lm, seed=1, num_threads=1
        ).compile(Two(), trainset=list(data.train), valset=list(data.validation))
    ours = run(
        plugin_manager, ScriptedLM(answering), "gepa", seed=1, metric=only_for_the_second, program=Two(), splits=data,
        parameters={"max_metric_calls": 60, "stop_at_score": None},
    )  # fmt: skip
    assert state(ours.program) == state(theirs)


def test_a_metric_that_fails_for_every_predictor_ends_the_search(plugin_manager):
    def failing(gold, pred, trace=None, pred_name=None, pred_trace=None):
        if pred_name is not None:
            raise ValueError("no such predictor")
        return dspy.Prediction(score=right(gold, pred), feedback="digits")

    data = prepare(rows(("answer",)), Two())
    with pytest.raises(OptimizationError, match=r"The metric fails whenever GEPA asks for feedback.*no such predictor"):
        run(plugin_manager, ScriptedLM(answering), "gepa", seed=1, metric=failing, program=Two(), splits=data,
            parameters={"max_metric_calls": 60, "stop_at_score": None})  # fmt: skip
