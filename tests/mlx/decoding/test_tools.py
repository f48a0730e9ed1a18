"""Tool calls of a model with random weights: whatever it says, what comes back is a valid call or plain text."""

import asyncio
import json

import dspy
import jsonschema
import pytest
from dspy.lm15 import (
    Config,
    FunctionTool,
    InvalidRequestError,
    Message,
    Request,
    TextPart,
    ToolCallPart,
    ToolChoice,
    tool_result,
)

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.lm import MLXLM

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "units": {"enum": ["C", "F"]},
    },
    "required": ["city", "days"],
}
TOOLS = (
    FunctionTool(name="forecast", description="The weather to come.", parameters=SCHEMA),
    FunctionTool(name="finish", parameters={"type": "object", "properties": {}}),
)


@pytest.fixture(scope="module", params=["described", "native"])
def engine(tiny, request):
    """Once with a template that knows no tools, once with one in Qwen's way."""
    if request.param == "described":
        load = tiny.load("qwen3")
    else:
        load = tiny.dressed("qwen3", template=tiny.tools, added=("<tool_call>", "</tool_call>"), parser="json_tools")
    with MLXEngine(load, name="mlx/tiny", options=EngineOptions(check=True)) as engine:
        yield engine


@pytest.fixture
def lm(engine):
    return MLXLM(
        "mlx/tiny", engine=engine, async_engine=AsyncMLXEngine(engine), cache=False, max_tokens=150, temperature=1.0
    )


def ask(text="?", choice=None, tools=TOOLS, messages=None, **config):
    base = {"max_tokens": 120, "temperature": 1.0, "tool_choice": choice, **config}
    return Request(model="m", messages=messages or (Message.user(text),), tools=tools, config=Config(**base))


def check(calls):
    for call in calls:
        jsonschema.validate(dict(call.input), {tool.name: tool.parameters for tool in TOOLS}[call.name])


@pytest.mark.parametrize("budget", [1, 30, 200])
def test_a_required_call_is_valid_whatever_the_budget(engine, budget):
    required = ToolChoice(mode="required")
    tickets = [engine.submit(ask(str(seed), required, seed=seed, max_tokens=budget)) for seed in range(8)]
    names = set()
    for ticket in tickets:
        sequence = ticket.future.result()
        calls = sequence.transcript.calls
        assert calls
        check(calls)
        assert sequence.text == ""
        names |= {call.name for call in calls}
    assert budget == 1 or names == {"forecast", "finish"}


def test_a_named_tool_is_the_one_that_is_called_once(engine):
    choice = ToolChoice(mode="required", allowed=("finish",), parallel=False)
    response = engine.complete(ask("now", choice))
    assert [type(part) for part in response.message.parts] == [ToolCallPart]
    assert response.message.parts[0].name == "finish"
    assert response.finish_reason == "tool_call"


def test_auto_leaves_text_alone_and_none_offers_nothing(engine):
    options = {"seed": 1, "max_tokens": 20}
    none = engine.complete(ask("hello", ToolChoice(mode="none"), **options))
    assert none.message == engine.complete(ask("hello", tools=(), **options)).message
    assert engine.complete(ask("hello", **options)).usage.input_tokens > none.usage.input_tokens
    for seed in range(4):
        response = engine.complete(ask("hello", seed=seed, max_tokens=20))
        assert all(isinstance(part, TextPart) for part in response.message.parts) or response.tool_calls


def test_contradictory_tool_options_are_refused_by_name(engine):
    with pytest.raises(InvalidRequestError, match="declares no tools"):
        engine.complete(ask("x", ToolChoice(mode="required"), tools=()))
    bad = FunctionTool(name="odd", parameters={"type": "object", "properties": {"a": {"type": "no such type"}}})
    with pytest.raises(InvalidRequestError, match="odd"):
        engine.complete(ask("x", tools=(bad,)))


def test_a_stream_equals_the_answer(engine):
    request = ask("stream", ToolChoice(mode="required"), seed=5)
    whole = engine.complete(request)
    events = list(engine.stream(request))
    deltas = [event.delta for event in events if event.type == "delta"]
    assert [(d.name, json.loads(d.input)) for d in deltas] == [(c.name, dict(c.input)) for c in whole.tool_calls]
    assert [d.part_index for d in deltas] == list(range(len(deltas)))
    assert all(d.id for d in deltas)
    assert events[-1].finish_reason == whole.finish_reason


def test_stop_strings_are_for_text_and_not_for_calls(engine):
    request = ask("stop", ToolChoice(mode="required"), seed=2, stop=("forecast", "finish", "{", '"'))
    response = engine.complete(request)
    assert response.tool_calls
    check(response.tool_calls)


def test_a_call_and_its_result_are_in_the_next_prompt(engine):
    messages = (
        Message.user("Lima?"),
        Message.assistant([TextPart("I look."), ToolCallPart(id="abcdefghi", name="forecast", input={"city": "Lima"})]),
        Message(role="tool", parts=(tool_result("abcdefghi", "sunny", name="forecast"),)),
    )
    sequence = engine.submit(ask(messages=messages, max_tokens=4)).future.result()
    prompt = engine._ready().intake._renderer
    text = b"".join(engine._ready().intake._store.tokenizer.decode_bytes([token]) for token in sequence.prompt).decode()
    assert prompt
    assert '<tool_call>\n{"name": "forecast", "arguments": {"city": "Lima"}}\n</tool_call>' in text
    assert "sunny" in text
    assert text.index("I look.") < text.index('{"name": "forecast", "arguments": {"city"') < text.index("sunny")
    assert '"parameters"' in text


class Trip(dspy.Signature):
    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    answer: str = dspy.OutputField()
    rating: int = dspy.OutputField()
    calls: dspy.ToolCalls = dspy.OutputField()


class Next(dspy.Signature):
    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


def forecast(city: str, days: int = 3) -> str:
    """The weather to come."""
    return f"{city}: {days} days of sun"


def finish() -> str:
    """Done."""
    return "done"


@pytest.mark.parametrize("adapter", [GuidedChatAdapter, GuidedJSONAdapter])
def test_predict_answers_or_calls_and_always_parses(lm, adapter):
    tools = [dspy.Tool(forecast), dspy.Tool(finish)]
    seen = set()
    with dspy.context(lm=lm, adapter=adapter(use_native_function_calling=True)):
        for seed in range(10):
            prediction = dspy.Predict(Trip)(question=f"Lima {seed}?", tools=tools, config={"seed": seed})
            seen.add(prediction.calls is not None)
            if prediction.calls is None:
                assert isinstance(prediction.answer, str)
                assert isinstance(prediction.rating, int)
            for call in prediction.calls.tool_calls if prediction.calls else ():
                assert call.execute([*tools])
    assert seen


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter, GuidedChatAdapter])
def test_predict_with_nothing_but_calls(lm, adapter):
    tools = [dspy.Tool(forecast), dspy.Tool(finish)]
    required = {} if adapter is GuidedChatAdapter else {"tool_choice": "required"}
    with dspy.context(lm=lm, adapter=adapter(use_native_function_calling=True)):
        for seed in range(4):
            step = dspy.Predict(Next)(question="Lima?", tools=tools, config={"seed": seed, **required})
            assert step.calls.tool_calls
            for call in step.calls.tool_calls:
                assert call.execute(tools)
        again = asyncio.run(dspy.Predict(Next).acall(question="Lima?", tools=tools, config={"seed": 3, **required}))
        assert [(c.name, c.args) for c in again.calls.tool_calls] == [(c.name, c.args) for c in step.calls.tool_calls]


def test_react_runs_without_a_parse_error(lm):
    with dspy.context(lm=lm, adapter=GuidedChatAdapter()):
        prediction = dspy.ReAct("question -> answer", tools=[forecast], max_iters=2)(question="Lima?")
    assert isinstance(prediction.answer, str)
    assert prediction.trajectory["tool_name_0"] in ("forecast", "finish")
