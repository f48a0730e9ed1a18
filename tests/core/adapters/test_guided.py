"""The oracle is DSPy: the same prompts byte for byte, the same results, the same number of calls."""

import copy
import datetime
import enum
import gc
import weakref
from typing import Any, Literal

import dspy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.engine import grammar_of
from dspy_toolkit.errors import GrammarError
from dspy_toolkit.grammar import compile_chat, compile_json
from dspy_toolkit.testing import ScriptedLM

PAIRS = {
    "chat": (GuidedChatAdapter, dspy.ChatAdapter),
    "json": (GuidedJSONAdapter, dspy.JSONAdapter),
}
both = pytest.mark.parametrize("kind", PAIRS)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(pydantic.BaseModel):
    name: str
    count: int = 0
    tags: list[str] = []


class Everything(dspy.Signature):
    """Look at everything.

    Then decide.
    """

    text: str = dspy.InputField(desc="a text")
    number: int | None = dspy.InputField()
    ratio: float = dspy.InputField(default=0.5)
    items: list[Item] = dspy.InputField(desc="some items")
    anything: Any = dspy.InputField()
    reasoning: dspy.Reasoning = dspy.OutputField()
    color: Color = dspy.OutputField(desc="a color")
    messages_of_call: Item = dspy.OutputField()
    score: float = dspy.OutputField(ge=0, le=1)


class Talk(dspy.Signature):
    """Go on talking."""

    history: dspy.History = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Look(dspy.Signature):
    """Describe the picture."""

    picture: dspy.Image = dspy.InputField()
    code: dspy.Code = dspy.InputField()
    caption: str = dspy.OutputField()


_ITEMS = st.builds(Item, name=st.text(max_size=5), count=st.integers(0, 9), tags=st.lists(st.text(max_size=3)))
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0]) | st.text(max_size=5)
    | st.sampled_from(Color) | st.dates() | _ITEMS | st.builds(object),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    | st.tuples(inner, inner),
    max_leaves=4,
)  # fmt: skip
_INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text() | st.lists(st.text(max_size=4), max_size=3),
        "number": st.none() | st.integers() | st.booleans(),
        "ratio": st.floats(allow_nan=False) | st.integers(),
        "items": st.lists(_ITEMS, max_size=2),
        "anything": _ANYTHING,
    },
)
_DEMOS = st.builds(
    lambda inputs, outputs, extra: {**inputs, **outputs, **extra},
    _INPUTS,
    st.fixed_dictionaries(
        {},
        optional={
            "reasoning": st.text() | st.builds(dspy.Reasoning, content=st.text()),
            "color": st.sampled_from(Color) | st.text(max_size=4),
            "found": _ITEMS | st.dictionaries(st.text(max_size=3), st.integers()),
            "score": st.floats(0, 1) | st.integers(0, 1),
        },
    ),
    st.sampled_from([{}, {"augmented": True}]),
)


def outcome(adapter: dspy.Adapter, *arguments: Any) -> Any:
    """The messages, or the error that DSPy's rendering ends in (a list in a text field may hold only texts)."""
    try:
        return adapter.format(*arguments)
    except TypeError as error:
        return str(error)


@both
@settings(max_examples=60, deadline=None)
@given(demos=st.lists(_DEMOS, max_size=4), inputs=_INPUTS, as_examples=st.booleans(), data=st.data())
def test_prompts_are_dspys_byte_for_byte(
    kind: str, demos: list[dict[str, Any]], inputs: dict[str, Any], as_examples: bool, data: st.DataObject
) -> None:
    """Also after everything they are made of was edited in place."""
    guided, plain = PAIRS[kind][0](), PAIRS[kind][1]()
    signature = Everything.with_instructions("Other words.") if data.draw(st.booleans()) else Everything
    given_demos: list[Any] = [dspy.Example(**demo) for demo in demos] if as_examples else demos
    for _ in range(3):
        expected = outcome(plain, signature, given_demos, inputs)
        assert outcome(guided, signature, given_demos, inputs) == expected
        assert outcome(guided, signature, given_demos, inputs) == expected
        for demo in given_demos:
            name = data.draw(st.sampled_from(["text", "number", "anything", "score", "found"]))
            value = demo.get(name)
            if isinstance(value, list):
                value.append("one more")
            elif isinstance(value, Item):
                value.tags.append("one more")
            else:
                demo[name] = data.draw(st.sampled_from([1, True, 1.0, "1", None, [1], [True], Color.RED, "red"]))


@both
def test_values_that_are_equal_but_look_different(kind: str) -> None:
    guided, plain = PAIRS[kind][0](), PAIRS[kind][1]()
    noon = datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.UTC)
    later = noon.astimezone(datetime.timezone(datetime.timedelta(hours=2)))
    assert noon == later
    for value in (1, True, 1.0, 0.0, -0.0, 0, noon, later, [1], [True], (1,), {"a": 1, "b": 2}, {"b": 2, "a": 1}):
        demos = [{"text": "t", "anything": value, "score": value}]
        assert guided.format(Everything, demos, {}) == plain.format(Everything, demos, {})


@both
def test_a_signature_edited_in_place_is_rendered_anew(kind: str) -> None:
    guided, plain = PAIRS[kind][0](), PAIRS[kind][1]()
    signature = dspy.Signature("question: str -> answer: int", "First.")

    def same() -> bool:
        return guided.format(signature, [], {"question": "?"}) == plain.format(signature, [], {"question": "?"})

    assert same()
    signature.instructions = "Second."
    assert same()
    signature.fields["answer"].json_schema_extra["desc"] = "a number"
    assert same()
    signature.fields["answer"].annotation = float
    assert same()
    assert "float" in guided.format(signature, [], {"question": "?"})[-1]["content"]


@both
def test_history_and_custom_types(kind: str) -> None:
    guided, plain = PAIRS[kind][0](), PAIRS[kind][1]()
    history = dspy.History(messages=[{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}])
    demos = [{"question": "q", "answer": "a", "history": dspy.History(messages=[])}]
    for inputs in ({"question": "e", "history": history}, {"question": "e"}):
        for _ in range(2):
            assert guided.format(Talk, demos, inputs) == plain.format(Talk, demos, inputs)
    picture = dspy.Image("data:image/png;base64,AAAA")
    inputs = {"picture": picture, "code": dspy.Code(code="x = 1")}
    demos = [{**inputs, "caption": "a dot"}]
    for _ in range(2):
        assert guided.format(Look, demos, inputs) == plain.format(Look, demos, inputs)
    assert isinstance(guided.format(Look, demos, inputs)[1]["content"], list)


@both
def test_returned_messages_belong_to_the_caller(kind: str) -> None:
    guided = PAIRS[kind][0]()
    demos = [{"picture": dspy.Image("data:image/png;base64,AAAA"), "code": dspy.Code(code="x"), "caption": "a dot"}]
    first = guided.format(Look, demos, demos[0])
    expected = copy.deepcopy(first)
    for message in first:
        if isinstance(message["content"], list):
            message["content"][0].clear()
        message["content"] = "spoiled"
    assert guided.format(Look, demos, demos[0]) == expected


@pytest.mark.parametrize("inputs", ["history: dspy.History, question", "question"])
def test_signatures_are_not_kept_alive(inputs: str) -> None:
    adapter = GuidedChatAdapter()
    signature = dspy.Signature(f"{inputs} -> answer")
    adapter.format(signature, [{"question": "q", "answer": "a"}], {"question": "q"})
    compile_chat(signature)
    alive = weakref.ref(signature)
    del signature
    gc.collect()
    assert alive() is None


def test_an_adapter_can_be_copied() -> None:
    adapter = copy.deepcopy(GuidedChatAdapter(compact=True))
    assert adapter.compact
    assert adapter.format(Talk, [], {"question": "q"})


@both
def test_compact_moves_the_reminder_into_the_system_message(kind: str) -> None:
    guided, plain = PAIRS[kind][0](compact=True), PAIRS[kind][1]()
    reminder = plain.user_message_output_requirements(Talk)
    history = dspy.History(messages=[{"question": "a", "answer": "b"}])
    inputs = {"question": "e", "history": history}
    compact, usual = guided.format(Talk, [], inputs), plain.format(Talk, [], inputs)
    assert compact[0]["content"] == f"{usual[0]['content']}\n\n{reminder}"
    for one, other in zip(compact[1:], usual[1:], strict=True):
        assert one["content"] == other["content"].replace(f"\n\n{reminder}", "")


# --- calls


class Label(dspy.Signature):
    """Label the text."""

    text: str = dspy.InputField()
    label: Literal["good", "bad"] = dspy.OutputField()


def grammars_of(lm: dspy.LM) -> list[Any]:
    return [(request.config.extensions or {}).get("metadata", {}).get("grammar") for request in lm.engine.requests]


@both
def test_an_lm_that_speaks_grammar_gets_one(kind: str) -> None:
    lm = ScriptedLM(lambda _: {"label": "good"}, supports=["grammar", "response_schema"], cache=False)
    grammar = (compile_chat if kind == "chat" else compile_json)(Label)
    with dspy.context(lm=lm, adapter=PAIRS[kind][0]()):
        assert dspy.Predict(Label)(text="fine").label == "good"
    assert grammars_of(lm) == [grammar.to_metadata()]
    assert grammar_of(lm.engine.requests[0]) == grammar
    assert lm.engine.requests[0].config.response_format is None


@both
async def test_also_when_awaited(kind: str) -> None:
    lm = ScriptedLM(lambda _: {"label": "good"}, supports=["grammar"], cache=False)
    with dspy.context(lm=lm, adapter=PAIRS[kind][0]()):
        assert (await dspy.Predict(Label).acall(text="fine")).label == "good"
    assert grammars_of(lm)[0]["minimal"]


@both
def test_metadata_of_the_call_and_of_the_lm_stays(kind: str) -> None:
    lm = ScriptedLM(
        lambda _: {"label": "good"}, supports=["grammar"], cache=False, metadata={"min_p": "0.1", "adapter": "a"}
    )
    predict = dspy.Predict(Label)
    with dspy.context(lm=lm, adapter=PAIRS[kind][0]()):
        predict(text="fine", config={"metadata": {"adapter": "b"}})
        predict(text="fine", config={"metadata": {"grammar": "mine"}})
        predict(text="fine")
    sent = [request.config.extensions["metadata"] for request in lm.engine.requests]
    assert [(one["min_p"], one["adapter"]) for one in sent] == [("0.1", "b"), ("0.1", "a"), ("0.1", "a")]
    assert sent[1]["grammar"] == "mine"
    assert predict.config == {}


@both
def test_other_lms_see_no_difference(kind: str) -> None:
    requests = []
    for adapter in (PAIRS[kind][0](), PAIRS[kind][1]()):
        lm = ScriptedLM(lambda _: {"label": "good"}, supports=["response_schema"], cache=False)
        with dspy.context(lm=lm, adapter=adapter):
            dspy.Predict(Label)(text="fine")
        requests.append(lm.engine.requests)
    assert len(requests[0]) == len(requests[1]) == 1
    ours, theirs = requests[0][0], requests[1][0]
    assert (ours.system, ours.messages) == (theirs.system, theirs.messages)
    assert str(ours.config) == str(theirs.config)


def test_the_second_call_on_a_parse_error() -> None:
    """DSPy's ChatAdapter asks again in JSON. Under a grammar there is nothing to ask for."""
    for supports, calls in ((["grammar"], 1), ([], 2)):
        lm = ScriptedLM(lambda _: "garbage", supports=supports, cache=False)
        with dspy.context(lm=lm, adapter=GuidedChatAdapter()), pytest.raises(dspy.AdapterParseError):
            dspy.Predict(Label)(text="fine")
        assert lm.engine.calls == calls


def test_tool_calls_are_left_free() -> None:
    class Act(dspy.Signature):
        """Call a tool."""

        question: str = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        calls: dspy.ToolCalls = dspy.OutputField()

    def search(query: str) -> str:
        """Search."""
        return query

    answer = {"calls": {"tool_calls": [{"name": "search", "args": {"query": "x"}}]}}
    for native in (True, False):
        supports = ["grammar", "function_calling"] if native else ["grammar"]
        lm = ScriptedLM(lambda _: answer, supports=supports, cache=False)
        adapter = GuidedChatAdapter(use_native_function_calling=True, use_json_adapter_fallback=False)
        with dspy.context(lm=lm, adapter=adapter):
            messages_of_call = dspy.Predict(Act)(question="?", tools=[dspy.Tool(search)])
        # The script cannot answer with real tool calls, so there are none where DSPy waits for those.
        assert (messages_of_call.calls is None) == native
        assert (grammars_of(lm)[0] is None) == native


@both
def test_what_cannot_be_compiled_fails_before_the_call(kind: str) -> None:
    signature = dspy.Signature({"q": (str, dspy.InputField()), "picture": (dspy.Image, dspy.OutputField())})
    lm = ScriptedLM(lambda _: {"picture": "x"}, supports=["grammar"], cache=False)
    with dspy.context(lm=lm, adapter=PAIRS[kind][0]()), pytest.raises(GrammarError, match="picture"):
        dspy.Predict(signature)(q="?")
    assert lm.engine.calls == 0


class Events(BaseCallback):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.seen.append("format")

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.seen.append("parse")


@both
def test_one_call_is_one_event_for_callbacks(kind: str) -> None:
    events = Events()
    lm = ScriptedLM(lambda _: {"label": "good"}, supports=["grammar"], cache=False)
    with dspy.context(lm=lm, adapter=PAIRS[kind][0](), callbacks=[events]):
        dspy.Predict(Label)(text="fine")
    assert events.seen == ["format", "parse"]


@both
async def test_streaming_through_dspys_listeners(kind: str) -> None:
    """StreamListener recognises adapters by class name."""
    answer = {"reasoning": "It says [so] in the text, and that is that.", "label": "bad"}
    program = dspy.ChainOfThought(Label)
    guided, plain = PAIRS[kind][0](), PAIRS[kind][1]()
    streams = []
    for adapter in (guided, plain):
        lm = ScriptedLM(lambda _: answer, supports=["grammar"], cache=False)
        listener = dspy.streaming.StreamListener(signature_field_name="reasoning")
        with dspy.context(lm=lm, adapter=adapter):
            stream = dspy.streamify(program, stream_listeners=[listener], async_streaming=True)
            streams.append([item async for item in stream(text="fine")])
    text, final = "".join(item.chunk for item in streams[0][:-1]), streams[0][-1]
    assert final.label == "bad"
    if kind == "chat":  # DSPy's JSON listener passes the end of a big chunk on
        assert text.split() == answer["reasoning"].split()
    assert [item.chunk for item in streams[0][:-1]] == [item.chunk for item in streams[1][:-1]]
