"""Tools and agents on a real model of 135M parameters, which on its own would not get a call right."""

import dspy
import pytest

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit_mlx.provider import connect

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]


@pytest.fixture(scope="module")
def lm():
    return connect("mlx/smollm2-135m", temperature=0.0, max_tokens=200, cache=False)


def forecast(city: str, days: int = 1) -> str:
    """The weather of the next days in a city."""
    return f"{days} days of sun in {city}"


class Ask(dspy.Signature):
    """Find out with a tool."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


@pytest.mark.parametrize("adapter", [GuidedChatAdapter, GuidedJSONAdapter])
def test_smollm2_calls_the_tool_with_the_city(lm, adapter):
    tools = [dspy.Tool(forecast)]
    with dspy.context(lm=lm, adapter=adapter(use_native_function_calling=True)):
        prediction = dspy.Predict(Ask)(question="What is the weather in Lima?", tools=tools)
    assert prediction.calls.tool_calls
    assert all(call.name == "forecast" for call in prediction.calls.tool_calls)
    assert "Lima" in prediction.calls.tool_calls[0].args["city"]
    assert prediction.calls.tool_calls[0].execute(tools)


@pytest.mark.parametrize("adapter", [GuidedChatAdapter, GuidedJSONAdapter])
def test_react_runs_to_its_end(lm, adapter):
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"It is sunny in {city}."

    agent = dspy.ReAct("question -> answer", tools=[weather], max_iters=2)
    budgets = {"next_thought": 20, "next_tool_args": 30, "reasoning": 20, "answer": 20}
    with dspy.context(lm=lm, adapter=adapter(field_tokens=budgets)):
        prediction = agent(question="What is the weather in Lima?")
    assert isinstance(prediction.answer, str)
    steps = [key for key in prediction.trajectory if key.startswith("tool_name_")]
    assert 1 <= len(steps) <= 2
    assert {prediction.trajectory[key] for key in steps} <= {"weather", "finish"}
