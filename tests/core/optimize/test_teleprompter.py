"""An instance of one of DSPy's optimizers, configured as its documentation says, makes the program it makes by hand."""

import dspy
import pytest
from learners import ROWS, Two, answered, exact, optimized, picky, said, split, steady

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError, UnknownNameError
from dspy_toolkit.optimize.optimizer import as_optimizer
from dspy_toolkit.testing import ScriptedLM

INSTANCES = {
    "BootstrapFewShot": lambda lm: dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=2, max_labeled_demos=5),
    "LabeledFewShot": lambda lm: dspy.LabeledFewShot(k=3),
    "BootstrapFewShotWithRandomSearch": lambda lm: dspy.BootstrapFewShotWithRandomSearch(
        metric=exact, num_candidate_programs=2, num_threads=1
    ),
    "MIPROv2": lambda lm: dspy.MIPROv2(
        metric=exact, prompt_model=lm, task_model=lm, auto="light", num_threads=1, verbose=False
    ),
    "GEPA": lambda lm: dspy.GEPA(metric=exact, max_metric_calls=60, reflection_lm=lm, num_threads=1),
    "COPRO": lambda lm: dspy.COPRO(metric=exact, breadth=2, depth=1, prompt_model=lm),
    "SIMBA": lambda lm: dspy.SIMBA(
        metric=exact, bsize=6, num_candidates=2, max_steps=2, prompt_model=lm, num_threads=1
    ),
    "InferRules": lambda lm: dspy.InferRules(metric=exact, num_candidates=2, num_rules=2, num_threads=1),
}
WITH_VALIDATION = ("BootstrapFewShotWithRandomSearch", "MIPROv2", "GEPA", "InferRules")


def script(request):
    """Rules are asked for without a field that `picky` knows."""
    if "natural_language_rules" in request.messages[-1].text:
        return {"reasoning": "r", "natural_language_rules": "Way 4."}
    return picky(request)


@pytest.mark.parametrize("name", INSTANCES)
def test_the_program_is_the_one_made_by_hand(name):
    program = dspy.Predict("question -> answer")
    data = prepare(split(ROWS), program)
    lm = ScriptedLM(script)
    options = {"valset": list(data.validation)} if name in WITH_VALIDATION else {}
    options |= {"eval_kwargs": {"num_threads": 1}} if name == "COPRO" else {}
    with dspy.context(lm=lm):
        theirs = INSTANCES[name](lm).compile(program.deepcopy(), trainset=list(data.train), **options)
    lm = ScriptedLM(script)
    instance = INSTANCES[name](lm)
    attributes = dict(vars(instance))
    ours = optimized(program, data=data, metric=exact, optimizer=instance, lm=lm)
    assert said(ours.program) == said(theirs)
    assert ours.optimizer == name
    assert vars(instance) == attributes, "the instance is left as it was"
    assert ours.program.get_lm() is None


def test_the_metric_and_the_lm_it_has_none_of_are_the_runs():
    """DSPy takes the LM from its settings, where there is none when the instance is made."""
    program = Two()
    simba = dspy.SIMBA(metric=answered, bsize=6, num_candidates=2, max_steps=2, num_threads=1)
    for instance in (dspy.BootstrapFewShot(), simba):
        result = optimized(
            program, data=prepare(split(ROWS), program), metric=answered, optimizer=instance, lm=ScriptedLM(steady(0.5))
        )
        assert result.status == "finished"
        demos = [demo for predictor in result.program.predictors() for demo in predictor.demos if "augmented" in demo]
        assert demos or instance is simba
        assert all(demo.answer == demo.question.replace("q", "a") for demo in demos if "answer" in demo)


def test_its_plain_attributes_are_its_parameters():
    program = dspy.Predict("question -> answer")
    asked = {"data": prepare(split(ROWS), program), "metric": exact, "lm": ScriptedLM(picky)}
    instance = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=2, max_labeled_demos=5)
    result = optimized(program, optimizer=instance, parameters={"max_labeled_demos": 3}, **asked)
    assert (result.parameters["max_bootstrapped_demos"], result.parameters["max_labeled_demos"]) == (2, 3)
    assert len(result.program.demos) == 3
    assert instance.max_labeled_demos == 5
    with pytest.raises(UnknownNameError, match="'BootstrapFewShot' named 'max_demos'"):
        optimized(program, optimizer=instance, parameters={"max_demos": 3}, **asked)


def test_what_cannot_run_is_refused_before_any_call():
    program, lm = dspy.Predict("question -> answer"), ScriptedLM(picky)
    asked = {"data": prepare(split(ROWS), program), "metric": exact, "lm": lm}
    with pytest.raises(OptimizationError, match=r"Ensemble\.compile takes no training rows.*'ensemble'"):
        optimized(program, optimizer=dspy.Ensemble(size=2), **asked)
    with pytest.raises(OptimizationError, match="expected an Optimizer, an instance of one of DSPy's"):
        as_optimizer(dspy.BootstrapFewShot)
    assert lm.engine.calls == 0
