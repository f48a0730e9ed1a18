"""The engine contract, by the example provider: installed as a distribution, it gives all that a provider can give."""

import json
from pathlib import Path
from typing import Annotated, Literal

import dspy
import pydantic
import pytest
from dspy.lm15 import Config, InvalidRequestError, Message, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import validate

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.engine import (
    AnswerField,
    AnswerGrammar,
    CountingEngine,
    GuidedEngine,
    grammar_of,
    supports_grammar,
    thinking_tokens_of,
)
from dspy_toolkit.errors import ModelError
from dspy_toolkit.grammar import MaxTokens, compile_chat
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.testing import check_plugin
from dspy_toolkit.testing.distributions import write_distribution
from dspy_toolkit.types import resolve

SOURCE = Path(__file__).parents[2] / "examples" / "dspy-toolkit-dice" / "src" / "dspy_toolkit_dice"


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The example provider as an installer leaves it: its package, its metadata and its entry point."""
    files = {file.name: file.read_text(encoding="utf-8") for file in SOURCE.glob("*.py")}
    folder = write_distribution(tmp_path_factory.mktemp("site"), "dice", files.pop("hooks.py"), files=files)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def connect(**options):
    entry = PluginManager().provider("dice/bytes").entry
    return resolve(entry.connect)("dice/bytes", **{"temperature": 1.0, "cache": False, **options})


class Item(pydantic.BaseModel):
    name: str
    price: float = pydantic.Field(ge=0, le=100)


class Report(dspy.Signature):
    """Report on a question."""

    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    verdict: Literal["good", "bad"] = dspy.OutputField()
    items: list[Item] = dspy.OutputField()
    count: int = dspy.OutputField()


def test_it_is_a_plugin_without_a_problem():
    check_plugin("dice")
    entry = PluginManager().provider("dice/bytes").entry
    assert list(resolve(entry.models)()) == ["dice/bytes"]
    assert [check.ok for check in resolve(entry.doctor)()] == [True]
    with pytest.raises(ModelError, match="dice/bytes"):
        resolve(entry.connect)("dice/words")


def test_its_engine_is_what_the_contract_says():
    lm = connect()
    assert isinstance(lm.engine, GuidedEngine)
    assert isinstance(lm.engine, CountingEngine)
    assert supports_grammar(lm)
    assert not supports_grammar(dspy.LM("openai/gpt-4o-mini", api_key="none"))


@pytest.mark.parametrize("adapter", [GuidedChatAdapter, GuidedJSONAdapter])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), limit=st.sampled_from([1, 60, 200, 1000]), temperature=st.sampled_from([0.0, 1.0]))
def test_every_answer_parses(adapter, seed, limit, temperature):
    lm = connect(seed=seed, max_tokens=limit, temperature=temperature)
    with dspy.context(lm=lm, adapter=adapter()):
        prediction = dspy.Predict(Report)(question="?")
    assert prediction.verdict in ("good", "bad")
    assert all(isinstance(item, Item) for item in prediction["items"])


def test_same_seed_same_answer_and_rollouts_and_completions_differ():
    def answers(**config):
        with dspy.context(lm=connect(seed=3), adapter=GuidedChatAdapter()):
            prediction = dspy.Predict("question -> answer")(question="?", config=config)
        return prediction.completions.answer

    assert answers() == answers()
    rollouts = [answers(rollout_id=number)[0] for number in range(5)]
    assert rollouts == [answers(rollout_id=number)[0] for number in range(5)]
    assert len(set(rollouts)) == 5
    several = answers(n=4)
    assert len(set(several)) == 4
    assert several == answers(n=4)
    assert several[0] == answers()[0], "the first completion is the one that a call without n has"


async def test_awaited_it_answers_the_same():
    lm = connect(seed=3)
    with dspy.context(lm=lm, adapter=GuidedChatAdapter()):
        predict = dspy.Predict("question -> answer")
        assert (await predict.acall(question="?")).answer == predict(question="?").answer


@pytest.mark.parametrize("adapter", [GuidedChatAdapter, GuidedJSONAdapter])
@pytest.mark.parametrize("tokens", [5, 40])
def test_a_field_keeps_its_budget(adapter, tokens):
    class Short(dspy.Signature):
        question: str = dspy.InputField()
        thoughts: Annotated[str, MaxTokens(tokens)] = dspy.OutputField()
        answer: str = dspy.OutputField()

    for seed in range(20):
        with dspy.context(lm=connect(seed=seed), adapter=adapter()):
            assert len(dspy.Predict(Short)(question="?").thoughts.encode()) <= tokens


def forecast(city: str, days: Literal[1, 2, 3] = 1) -> str:
    """The weather of the next days."""
    return f"{days} days of sun in {city}"


@pytest.mark.parametrize("seed", range(10))
def test_tool_calls_name_a_tool_and_fit_its_schema(seed):
    class Ask(dspy.Signature):
        question: str = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        answer: str = dspy.OutputField()
        calls: dspy.ToolCalls = dspy.OutputField()

    tool = dspy.Tool(forecast)
    with dspy.context(lm=connect(seed=seed), adapter=GuidedChatAdapter(use_native_function_calling=True)):
        prediction = dspy.Predict(Ask)(question="?", tools=[tool])
    assert (prediction.calls is None) != (prediction.answer is None)
    for call in prediction.calls.tool_calls if prediction.calls else ():
        assert call.name == "forecast"
        assert set(call.args) <= {"city", "days"}
        validate(call.args["city"], {"type": "string"})


def test_an_agent_runs_on_it():
    with dspy.context(lm=connect(seed=1), adapter=GuidedChatAdapter()):
        prediction = dspy.ReAct("question -> answer", tools=[forecast], max_iters=2)(question="?")
    assert prediction.answer


def test_its_tokens_are_counted_and_demonstrations_trimmed_to_its_context():
    predict = dspy.Predict("question -> answer")
    rows = [dspy.Example(question="q" * 200, answer="a" * 200).with_inputs("question") for _ in range(8)]
    window = ContextWindow.of(connect(context_length=3000, max_tokens=500))
    fitting = window.demos_that_fit(predict, rows)
    assert 0 < fitting < len(rows)
    predict.demos = rows[:fitting]
    with dspy.context(lm=connect(context_length=3000, max_tokens=500), adapter=GuidedChatAdapter()):
        predict(question="q" * 200)
        predict.demos = rows
        with pytest.raises(dspy.ContextWindowExceededError):
            predict(question="q" * 200)


def request(metadata):
    return Request(model="m", messages=(Message.user("x"),), config=Config(extensions={"metadata": metadata}))


@given(
    st.builds(
        AnswerGrammar,
        lark=st.text(),
        minimal=st.none() | st.text(),
        markers=st.lists(st.text(min_size=1), max_size=3).map(tuple),
        quoted=st.booleans(),
        fields=st.lists(
            st.builds(AnswerField, st.text(), st.text(min_size=1), st.none() | st.integers(1, 10**6)), max_size=3
        ).map(tuple),
    )
)
def test_a_grammar_comes_out_of_a_request_as_it_went_in(grammar):
    carried = json.loads(json.dumps(grammar.to_metadata()))
    assert grammar_of(request({"grammar": carried})) == grammar


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"lark": None}, "lark"),
        ({"minimal": 5}, "minimal"),
        ({"markers": "ab"}, "markers"),
        ({"markers": [""]}, "markers"),
        ({"quoted": "yes"}, "quoted"),
        ({"fields": [{"opening": ""}]}, "fields"),
        ({"fields": [{"opening": "a", "tokens": 0}]}, "fields"),
        ({"fields": 5}, "fields"),
    ],
)
def test_a_malformed_grammar_is_refused_by_its_part(change, part):
    carried = compile_chat(Report).to_metadata() | change
    with pytest.raises(InvalidRequestError, match=part):
        grammar_of(request({"grammar": carried}))


def test_a_request_without_metadata_has_no_grammar_and_no_budget_of_thoughts():
    assert grammar_of(request({})) is None
    assert thinking_tokens_of(request({})) is None
    assert thinking_tokens_of(request({"thinking_tokens": 30})) == 30
