"""Scripted LMs that learn from demonstrations and from instructions, and how the tests run optimizers on them."""

import dataclasses
import hashlib
import re
from collections import Counter

import dspy
import pytest

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.optimize.optimization import optimize
from dspy_toolkit.optimize.optimizer import find_optimizer, load_optimizer
from dspy_toolkit.optimize.planning.planner import plan
from dspy_toolkit.optimize.spec import RunControls, RunSpec
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text
from dspy_toolkit.types import TaskData

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
    return load_optimizer(find_optimizer(plugins, name).entry)


def optimized(program, **options):
    """`optimize` with the fields of its spec and its controls as keywords."""
    spec, controls = _parted(program, options)
    return optimize(spec, controls)


def plan_of(program, *, measure=True, **options):
    """The plan of `optimized` with the same keywords."""
    spec, controls = _parted(program, options)
    return plan(spec, controls, measure=measure)


def _parted(program, options):
    options["params"] = options.pop("parameters", None) or {}
    names = {field.name for field in dataclasses.fields(RunSpec)}
    spec = RunSpec(program=program, **{name: value for name, value in options.items() if name in names})
    return spec, RunControls(**{name: value for name, value in options.items() if name not in names})


def run(plugins, lm, name, *, parameters=None, rows=None, metric=None, data=ROWS, **options):
    program = options.pop("program", PROGRAM)
    return optimized(
        program,
        data=options.pop("splits", None) or prepare(split(data), program, rows=rows),
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


def exact(gold, pred, trace=None, pred_name=None, pred_trace=None):
    """As a user of DSPy writes it."""
    right = gold.answer == pred.answer
    if trace is not None and pred_name is None:
        return right
    feedback = "Right." if right else f"The answer is {gold.answer!r}."
    return dspy.Prediction(score=float(right), feedback=feedback)


def picky(request):
    """Instructions are numbered by what was asked; some are better than others, and so are some demonstrations."""
    question = question_of(request)
    if question is None:
        return written(request, f"Way {len(prompt_text(request)) % 7}.")
    way = re.search(r"Way (\d)", prompt_text(request))
    shown = sum(message.role == "assistant" for message in request.messages)
    right = int(question[1:]) % 7 <= (int(way[1]) if way else 1) or int(question[1:]) % 5 < shown
    return {"answer": question.replace("q", "a") if right else "no idea"}


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


def answered(gold, pred, trace=None, pred_name=None, pred_trace=None):
    right = gold.answer == pred.answer
    return dspy.Prediction(score=float(right), feedback="right" if right else f"expected {gold.answer}")


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


def steady(share, *, fails=0.0):
    """Right in so many cases, whatever it is shown or told, and unreadable in some.

    The prompt decides which; asked again at a temperature, it draws again.
    """
    asked = Counter()

    def script(request):
        text, question = prompt_text(request), question_of(request)
        if request.config.temperature:
            asked[text] += 1
        drawn = int(hashlib.sha256(f"{asked[text]}{text}".encode()).hexdigest(), 16) % 1000 / 1000
        if question is None:
            made = written(request, f"Way {drawn}.")
            return {**made, **({"module_advice": {"first": "x"}} if "module_advice" in made else {})}
        if "[[ ## answer ## ]]" not in text:
            return {"note": "noted"}
        if drawn >= 1 - fails:
            return "garbage"
        thought = {"reasoning": "Letters go, numbers stay."} if "[[ ## reasoning ## ]]" in text else {}
        return {**thought, "answer": question.replace("q", "a") if drawn < share else "no idea"}

    return script
