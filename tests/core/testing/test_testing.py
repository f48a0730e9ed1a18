"""The test kit: the scripted LM keeps the engine contract, and the conformance check finds what is wrong."""

import asyncio
import subprocess
import sys
import threading
import time

import dspy
import pydantic
import pytest

from dspy_toolkit.testing import ScriptedLM, check_plugin, problems_of
from dspy_toolkit.testing.scripted import prompt_text

QA = dspy.Predict("question -> answer, score: float")
REPLY = {"answer": "four\nlines", "score": 0.5}


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_field_values_are_written_as_the_adapter_asks(adapter):
    lm = ScriptedLM([REPLY])
    with dspy.context(lm=lm, adapter=adapter):
        pred = QA(question="2+2?")
    assert (pred.answer, pred.score) == ("four\nlines", 0.5)
    assert lm.engine.calls == 1
    assert "2+2?" in prompt_text(lm.engine.requests[0])


class Point(pydantic.BaseModel):
    x: int


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_typed_values(adapter):
    lm = ScriptedLM([{"points": [Point(x=1)], "flag": True, "names": ["a"]}])
    program = dspy.Predict(
        dspy.Signature({"q": (str, dspy.InputField()), "points": (list[Point], dspy.OutputField()),
                        "flag": (bool, dspy.OutputField()), "names": (list[str], dspy.OutputField())})
    )  # fmt: skip
    with dspy.context(lm=lm, adapter=adapter):
        pred = program(q="?")
    assert (pred.points, pred.flag, pred.names) == ([Point(x=1)], True, ["a"])


def test_replies_in_order_then_an_error_that_says_why():
    lm = ScriptedLM(["one", "two"])
    assert [lm("a"), lm("b")] == [["one"], ["two"]]
    with pytest.raises(dspy.LMError, match="no reply left"):
        lm("c")


def test_exceptions_are_raised_and_not_retried_unless_asked():
    from dspy.lm15 import ServerError

    lm = ScriptedLM([ValueError("broken"), "fine"])
    with pytest.raises(dspy.LMError, match="broken"):
        lm("a")
    assert lm("a") == ["fine"]
    assert lm.engine.calls == 2
    flaky = ScriptedLM([ServerError("busy"), "fine"], num_retries=1)
    assert flaky("a") == ["fine"]
    assert flaky.engine.calls == 2


def test_usage_counts_bytes_of_prompt_and_reply():
    lm = ScriptedLM(lambda request: "né")
    with dspy.track_usage() as usage:
        lm("abc")
    (counted,) = usage.get_total_tokens().values()
    assert (counted["prompt_tokens"], counted["completion_tokens"]) == (len("\n\nabc"), 3)


def test_it_can_be_slow_and_is_called_from_many_threads():
    together = threading.Barrier(8)

    def script(request):
        together.wait(60)
        return REPLY

    lm = ScriptedLM(script, seconds=0.2)
    started = time.monotonic()
    with dspy.context(lm=lm):
        dspy.Parallel(num_threads=8, disable_progress_bar=True)([(QA, {"question": f"q{n}"}) for n in range(8)])
    assert lm.engine.calls == 8
    assert lm.engine.most_at_once == 8
    assert time.monotonic() - started >= 0.2


async def test_async_and_streaming():
    lm = ScriptedLM(lambda request: {"answer": "a longer answer", "score": 1.0})
    with dspy.context(lm=lm):
        assert (await QA.acall(question="q")).answer == "a longer answer"
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        chunks, final = [], None
        async for item in dspy.streamify(QA, stream_listeners=[listener])(question="q"):
            if isinstance(item, dspy.Prediction):
                final = item
            else:
                chunks.append(item.chunk)
    assert "".join(chunks) == final.answer == "a longer answer"
    assert len(chunks) > 1
    await asyncio.sleep(0)


def test_a_program_with_its_own_scripted_lm_can_be_copied():
    program = dspy.Predict("question -> answer")
    program.lm = ScriptedLM([{"answer": "one"}, {"answer": "two"}])
    copy = program.deepcopy()
    assert [program(question="q").answer, copy(question="q").answer] == ["one", "two"]


def test_capabilities_are_declared():
    lm = ScriptedLM([], supports=["response_schema", "grammar"])
    assert lm.supports_response_schema
    assert not lm.supports_function_calling
    assert lm.engine.supports_grammar
    schema = ScriptedLM(lambda request: {"answer": "x", "score": 1}, supports=["response_schema"])
    with dspy.context(lm=schema, adapter=dspy.JSONAdapter()):
        QA(question="q")
    assert schema.engine.requests[0].config.response_format["type"] == "json_schema"


def test_the_pytest_plugin_costs_other_projects_nothing():
    source = "import sys, dspy_toolkit.testing; print('dspy' in sys.modules, 'dspy_toolkit.plugins' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- conformance

HOOKS = """
from dspy_toolkit import hookimpl
from dspy_toolkit.types import *

@hookimpl
def toolkit_signatures():
    yield SignatureEntry(name="Forecast", summary="Tomorrow.", signature="{package}.parts:Forecast")

@hookimpl
def toolkit_tasks():
    yield TaskEntry(name="forecast", summary="Forecast tomorrow.", program="{package}.parts:program",
                    data="{package}.parts:data", metric="rain", rows={{"test": 2}})

@hookimpl
def toolkit_metrics():
    yield MetricEntry(name="rain", summary="Did it rain?", metric="{package}.parts:rain")

@hookimpl
def toolkit_optimizers():
    yield OptimizerEntry(name="none", summary="Changes nothing.", optimizer="{package}.parts:none")

@hookimpl
def toolkit_providers():
    yield ProviderEntry(name="glass", summary="Barometers.", connect="{package}.parts:connect",
                        models="{package}.parts:models", doctor="{package}.parts:doctor")
"""

PARTS = """
import dspy
from dspy_toolkit.types import Check, TaskData

class Forecast(dspy.Signature):
    '''Forecast the weather of tomorrow from today's.'''
    today: str = dspy.InputField(desc="today's weather")
    tomorrow: str = dspy.OutputField(desc="tomorrow's weather")

def program():
    return dspy.Predict(Forecast)

def data():
    rows = [{"today": f"day {n}", "tomorrow": "rain"} for n in range(9)]
    return TaskData(train=rows[:3], validation=rows[3:6], test=rows[6:])

def rain(gold, pred, trace=None, pred_name=None, pred_trace=None):
    right = pred.get("tomorrow") == gold.tomorrow
    return dspy.Prediction(score=float(right), feedback="right" if right else "It should say rain.")

def none(job, *, count: int = 1):
    return job.program

def connect(model, **options):
    raise AssertionError("the check must not load a model")

def models():
    return ["glass/barometer"]

def doctor():
    return [Check(name="glass", ok=False, detail="cracked", remedy="buy another")]
"""


@pytest.fixture
def conforming(plugin_distribution):
    """Installs the plugin `weather` with some of its source replaced."""

    def install(*replacements):
        hooks, parts = HOOKS.format(package="dspy_toolkit_weather"), PARTS
        for old, new in replacements:
            assert old in hooks + parts
            hooks, parts = hooks.replace(old, new), parts.replace(old, new)
        plugin_distribution("weather", hooks, files={"parts.py": parts})

    return install


def test_a_conforming_plugin_passes(conforming):
    conforming()
    assert problems_of("weather") == []
    check_plugin("weather")


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (
            "from dspy_toolkit.types import *",
            "from dspy_toolkit.types import *\nimport dspy",
            "its hooks module imports dspy",
        ),
        ("parts:rain", "parts:snow", "has no attribute 'snow'"),
        ("parts:Forecast", "parts:program", "is not a dspy.Signature class"),
        ('summary="Did it rain?"', 'summary=""', "the summary is not one line"),
        ("return dspy.Predict(Forecast)", "return None", "program() returned NoneType; expected a dspy.Module"),
        ("def program():", "MADE = dspy.Predict(Forecast)\ndef program():\n    return MADE", "the same object twice"),
        ("return TaskData(train=rows[:3], validation=rows[3:6], test=rows[6:])", "return rows", "expected TaskData"),
        ("validation=rows[3:6]", "validation=rows[3:7]", "has the same inputs as row 4 of the validation set"),
        ("validation=rows[3:6]", "validation=[]", "validation set is empty"),
        ('{"today": f"day {n}", "tomorrow"', '{"day": f"day {n}", "tomorrow"', "Row 1 of the train set has no 'today'"),
        (
            '"tomorrow": "rain"}',
            '"tomorrow": ("rain",)}',
            "row 1 of the train set has a 'tomorrow' that is not plain JSON",
        ),
        ('pred.get("tomorrow")', "pred.tomorrow", "'rain' raised AttributeError"),
        ("float(right)", "5.0", "expected a score from 0 to 1"),
        ('"It should say rain."', '""', "gives no feedback for an empty prediction"),
        ('metric="rain", rows', 'metric="ran", rows', "No metric named 'ran'. Did you mean 'weather/rain'?"),
        ("count: int = 1", "count=1", "needs an annotation and a default"),
        ("count: int = 1", "count: int = 'one'", "none.count is 'one'"),
        ('["glass/barometer"]', '["barometer"]', "a model string starts with 'glass'"),
        ('remedy="buy another"', 'remedy=""', "not what to do"),
        ("return [Check(", "return [dict(", "expected dspy_toolkit.types.Check"),
    ],
)
def test_what_is_wrong_is_found(conforming, old, new, finding):
    conforming((old, new))
    problems = problems_of("weather")
    assert any(finding in problem for problem in problems), problems
    with pytest.raises(AssertionError, match="weather"):
        check_plugin("weather")


OPTIMIZER = """
from pydantic import Field
from dspy_toolkit.optimize.optimizer import Optimizer, OptimizerParams

class none(Optimizer):
    class Params(OptimizerParams):
        count: int = Field(1, description="How many.")

    def compile(self, job, params):
        return job.program
"""


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("", "", None),
        ("Field(1, ", "Field(", "its parameter 'count' has no default"),
        ('"How many."', "None", "its parameter 'count' has no description"),
        ("Field(1, ", "Field('one', ", "none.count is 'one'"),
        ("class Params(OptimizerParams)", "class Params", "expected a subclass of OptimizerParams"),
        ("compile(self, job, params)", "compile(self, job)", "compile(job, params) cannot be called"),
        (
            "    def compile",
            "    def forecast(self, job):\n        return None\n\n    def compile",
            "forecast(job, scores, params) cannot be called",
        ),
    ],
)
def test_an_optimizer_that_is_a_class_is_checked(conforming, old, new, finding):
    function = "def none(job, *, count: int = 1):\n    return job.program\n"
    conforming((function, OPTIMIZER.replace(old, new) if old else OPTIMIZER))
    problems = problems_of("weather")
    if finding is None:
        assert not problems
    else:
        assert any(finding in problem for problem in problems), problems


def test_a_plugin_that_is_not_there_or_blocked_or_broken(plugin_distribution, monkeypatch):
    assert "No entry point named 'weather'" in problems_of("weather")[0]
    plugin_distribution("weather", "import nothing_like_this")
    assert "ModuleNotFoundError" in problems_of("weather")[0]
    monkeypatch.setenv("DSPY_TOOLKIT_PLUGINS", "-weather")
    assert "is blocked" in problems_of("weather")[0]


def test_what_ships_in_the_box_conforms():
    check_plugin("core")


def test_the_scripted_lm_needs_no_pytest():
    source = """
import sys
sys.modules["pytest"] = None  # what an import sees where it is not installed
import dspy
from dspy_toolkit.testing import ScriptedLM, check_plugin
lm = ScriptedLM([{"answer": "Paris"}])
with dspy.context(lm=lm):
    print(dspy.Predict("question -> answer")(question="Capital?").answer)
"""
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert process.stdout.strip() == "Paris", process.stderr
