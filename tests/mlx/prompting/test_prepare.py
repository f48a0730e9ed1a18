"""From requests to prompts and options."""

import pytest
from dspy.lm15 import (
    Config,
    FunctionTool,
    ImagePart,
    InvalidRequestError,
    Message,
    Reasoning,
    Request,
    TextPart,
    ToolCallPart,
    UnsupportedFeatureError,
    tool_result,
)
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError

from dspy_toolkit_mlx.decoding.thinking import Thinker, ThoughtPlan
from dspy_toolkit_mlx.prompting.messages import chat
from dspy_toolkit_mlx.prompting.prepare import METADATA, PromptRenderer, TemplateTraits, read_options


def request(*messages, system=None, **config):
    messages = messages or (Message.user("hi"),)
    return Request(model="m", messages=messages, system=system, config=Config(**config))


@pytest.fixture(scope="module")
def renderer(tokenizer):
    backend = tokenizer._tokenizer.backend_tokenizer
    return PromptRenderer(
        tokenizer.apply_chat_template,
        lambda text: backend.encode(text, add_special_tokens=False).ids,
        context=500,
        default_max_tokens=64,
        vocab_size=420,
    )


def test_the_prompt_is_the_chat_template_of_all_messages(renderer, tokenizer):
    prepared = renderer.prepare(
        request(
            Message.user("q1"), Message.assistant("a1"), Message.user("q2"), system=(TextPart("be "), TextPart("kind"))
        )
    )
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
    ]
    assert list(prepared.prompt) == tokenizer.apply_chat_template(messages, add_generation_prompt=True)


def test_a_template_without_a_system_role_gets_it_in_the_first_turn():
    seen = []

    def template(messages, **_):
        if messages[0]["role"] == "system":
            raise TemplateError("System role not supported")
        seen.append(messages)
        return "text"

    renderer = PromptRenderer(template, lambda t: [1], context=9, default_max_tokens=4, vocab_size=5)
    renderer.prepare(request(Message.user("question"), system="rules"))
    assert seen == [[{"role": "user", "content": "rules\n\nquestion"}]]


def test_a_refusal_of_the_template_is_reported():
    def template(messages, **_):
        raise TemplateError("roles must alternate")

    renderer = PromptRenderer(template, lambda t: [1], context=9, default_max_tokens=4, vocab_size=5)
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        renderer.prepare(request(Message.user("a")))


def test_max_tokens_are_clamped_to_the_context(renderer):
    prepared = renderer.prepare(request(max_tokens=10_000))
    assert prepared.max_tokens == 500 - len(prepared.prompt)
    assert renderer.prepare(request()).max_tokens == 64


def test_seeds_rollouts_and_completions(renderer):
    def seeds(*messages, **config):
        prepared = renderer.prepare(request(*messages, **config))
        return [prepared.sample(rollout, j).seed for rollout in (None, 0, 1) for j in range(3)]

    fixed = seeds(seed=4)
    assert len(set(fixed)) == 9
    assert not set(fixed) & set(seeds(Message.user("another example"), seed=4)), "examples draw their own noise"
    assert seeds(seed=4) == fixed
    free, other = seeds(), seeds()
    assert free[3:] == other[3:]
    assert not set(free[:3]) & set(other[:3])


def test_pictures_are_refused(renderer):
    picture = Message(role="user", parts=(TextPart("see"), ImagePart(url="http://localhost/x.png")))
    with pytest.raises(UnsupportedFeatureError, match="image"):
        renderer.prepare(request(picture))


@given(st.sampled_from(sorted(METADATA)), st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.floats(-9, 9)))
def test_options_are_read_and_unknown_ones_named(name, value):
    options = request(extensions={"metadata": {name: value}})
    read, check, _ = METADATA[name]
    try:
        good = check(read(value))
    except (TypeError, ValueError, OverflowError):
        good = False
    if good:
        assert read_options(options)[0] == {name: read(value)}
    else:
        with pytest.raises(InvalidRequestError, match=repr(name)):
            read_options(options)


def test_response_formats_become_grammars():
    schema = {"type": "object"}
    assert read_options(request(response_format={"type": "json_object"}))[1].kind == "json"
    assert read_options(request(response_format={"type": "json_schema", "schema": schema}))[1].kind == "json"
    assert read_options(request())[1] is None
    with pytest.raises(InvalidRequestError, match="grammar"):
        read_options(request(extensions={"metadata": {"grammar": "start: x"}}))


TAGS = Thinker("<think>", "</think>", (7,), 8, "\n\n", (9,))


def rendered(answer="text"):
    """A renderer whose template only records its options; and the records."""
    seen, texts = [], []

    def template(messages, **options):
        seen.append(options.get("enable_thinking"))
        return answer

    def encode(text):
        texts.append(text)
        return [1]

    return (
        PromptRenderer(
            template, encode, context=99, default_max_tokens=80, vocab_size=5, traits=TemplateTraits(thinker=TAGS)
        ),
        seen,
        texts,
    )


GRAMMAR = {"response_format": {"type": "json_object"}}
LOW, OFF = {"reasoning": Reasoning(effort="low")}, {"reasoning": Reasoning(effort="off")}


def test_thinking_is_off_under_a_grammar_unless_requested():
    renderer, seen, _ = rendered()
    plans = [renderer.prepare(request(**config)).thought for config in ({}, GRAMMAR, OFF, LOW, {**GRAMMAR, **LOW})]
    assert seen == [None, False, False, True, True]
    assert plans == [
        ThoughtPlan(opened=False, requested=False, budget=40),
        None,
        None,
        ThoughtPlan(opened=False, requested=True, budget=20),
        ThoughtPlan(opened=False, requested=True, budget=20),
    ]


def test_a_thought_that_the_template_opens_is_closed_unless_requested():
    renderer, _, texts = rendered("user\n<think>\n")
    opened = [renderer.prepare(request(**config)).thought for config in ({}, GRAMMAR, OFF, LOW)]
    assert [plan and plan.opened for plan in opened] == [True, None, None, True]
    closed = "user\n<think>\n\n</think>\n\n"
    assert texts == ["user\n<think>\n", closed, closed, "user\n<think>\n"]


def test_a_thoughts_budget_leaves_room_to_answer():
    renderer, _, _ = rendered()
    assert renderer.prepare(request(reasoning=Reasoning(effort="low", thinking_budget=30))).thought.budget == 30
    assert renderer.prepare(request(reasoning=Reasoning(effort="low", thinking_budget=999))).thought.budget == 70
    metadata = {"extensions": {"metadata": {"thinking_tokens": 9}}}
    assert renderer.prepare(request(**LOW, **metadata)).thought.budget == 9


def test_reasoning_is_refused_for_a_model_that_does_not_think(renderer):
    with pytest.raises(UnsupportedFeatureError, match="does not think"):
        renderer.prepare(request(**LOW))
    assert renderer.prepare(request(**OFF)).thought is None


def test_calls_and_results_are_text_if_the_template_has_no_tools():
    history = (
        Message.user("Lima and Cusco?"),
        Message.assistant([ToolCallPart(id="a", name="f", input={"x": 1}), ToolCallPart(id="b", name="f", input={})]),
        Message(role="tool", parts=(tool_result("a", "one", name="f"), tool_result("b", "two", name="f"))),
        Message.assistant("So."),
    )
    options = Request(model="m", messages=history, tools=(FunctionTool(name="f", description="F."),), system="Be kind.")
    system, question, calls, results, answer = chat(options, ("<tool_call>", "</tool_call>"), options.tools)
    assert system["content"].startswith("Be kind.\n\n# Tools")
    assert '"name": "f"' in system["content"]
    assert question == {"role": "user", "content": "Lima and Cusco?"}
    assert calls["content"].count("<tool_call>\n{") == 2
    assert results == {
        "role": "user",
        "content": "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>",
    }
    assert answer == {"role": "assistant", "content": "So."}
    native = chat(options, None)
    assert [message["role"] for message in native] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [message.get("tool_call_id") for message in native[3:5]] == ["a", "b"]
