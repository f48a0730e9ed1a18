"""From requests to prompts and options."""

import pytest
from dspy.lm15 import (
    Config,
    ImagePart,
    InvalidRequestError,
    Message,
    Reasoning,
    Request,
    TextPart,
    UnsupportedFeatureError,
)
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError

from dspy_toolkit_mlx.request import METADATA, PromptRenderer, read_options


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
    made = renderer.prepare(
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
    assert list(made.prompt) == tokenizer.apply_chat_template(messages, add_generation_prompt=True)


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


def test_a_template_that_refuses_says_why():
    def template(messages, **_):
        raise TemplateError("roles must alternate")

    renderer = PromptRenderer(template, lambda t: [1], context=9, default_max_tokens=4, vocab_size=5)
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        renderer.prepare(request(Message.user("a")))


def test_max_tokens_are_clamped_to_the_context(renderer):
    made = renderer.prepare(request(max_tokens=10_000))
    assert made.max_tokens == 500 - len(made.prompt)
    assert renderer.prepare(request()).max_tokens == 64


def test_seeds_rollouts_and_completions(renderer):
    def seeds(*messages, **config):
        made = renderer.prepare(request(*messages, **config))
        return [made.sample(rollout, j).seed for rollout in (None, 0, 1) for j in range(3)]

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
def test_options_are_read_or_named(name, value):
    asked = request(extensions={"metadata": {name: value}})
    read, check, _ = METADATA[name]
    try:
        good = check(read(value))
    except (TypeError, ValueError, OverflowError):
        good = False
    if good:
        assert read_options(asked)[0] == {name: read(value)}
    else:
        with pytest.raises(InvalidRequestError, match=repr(name)):
            read_options(asked)


def test_response_formats_become_grammars():
    schema = {"type": "object"}
    assert read_options(request(response_format={"type": "json_object"}))[1].kind == "json"
    assert read_options(request(response_format={"type": "json_schema", "schema": schema}))[1].kind == "json"
    assert read_options(request())[1] is None
    with pytest.raises(InvalidRequestError, match="grammar"):
        read_options(request(extensions={"metadata": {"grammar": "start: x"}}))


def test_thinking_is_off_under_a_grammar_and_otherwise_as_asked():
    seen = []

    def template(messages, **options):
        seen.append(options.get("enable_thinking"))
        return "text"

    renderer = PromptRenderer(template, lambda t: [1], context=9, default_max_tokens=4, vocab_size=5)
    for config in (
        {},
        {"response_format": {"type": "json_object"}},
        {"reasoning": Reasoning(effort="off")},
        {"reasoning": Reasoning(effort="low")},
    ):
        renderer.prepare(request(**config))
    assert seen == [None, False, False, True]
