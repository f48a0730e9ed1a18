import asyncio
import importlib.util
import json
from pathlib import Path

import dspy
import pytest
import tiny_llama
from mlx_lm import load, stream_generate

from dspy_toolkit_mlx import provider

litellm = pytest.importorskip("litellm")
from dspy_toolkit_mlx.litellm_handler import MLXLLMProvider, register  # noqa: E402 - after the check

MESSAGES = [
    {"role": "system", "content": "You answer."},
    {"role": "user", "content": "Is it 42?"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "What is the capital of France?"},
]
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["yes", "no"]}, "score": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["label", "score"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    bpe = tiny_llama.tokenizer()
    values = tiny_llama.weights(bpe.get_vocab_size())
    return tiny_llama.write_directory(tmp_path_factory.mktemp("models") / "tiny", values, bpe=bpe)


@pytest.fixture(scope="module")
def model(directory):
    register(f"mlx/{directory}")
    yield f"mlx/{directory}"
    provider.close()


@pytest.fixture(scope="module")
def greedy(directory) -> tuple[str, int]:
    """The text of mlx_lm's 20 greedy tokens, and the length of the prompt."""
    loaded, tokenizer = load(str(directory))
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)
    tokens = [step.token for step in stream_generate(loaded, tokenizer, prompt, max_tokens=20)]
    return tokenizer.decode(tokens), len(prompt)


def ask(model: str, **options):
    return litellm.completion(model, messages=MESSAGES, **{"max_tokens": 20, "temperature": 0.0, **options})


def text(answer) -> str:
    return answer.choices[0].message.content


def test_completion_and_its_usage_equal_mlx_lm(model, greedy):
    answer = ask(model)
    assert text(answer) == greedy[0]
    assert answer.choices[0].finish_reason == "length"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (greedy[1], 20, greedy[1] + 20)


def test_acompletion_both_streams_and_completion_are_equal(model, greedy):
    async def asynchronous() -> tuple[str, str]:
        whole = await litellm.acompletion(model, messages=MESSAGES, max_tokens=20, temperature=0.0)
        stream = await litellm.acompletion(model, messages=MESSAGES, max_tokens=20, temperature=0.0, stream=True)
        return text(whole), "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    chunks = list(ask(model, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == greedy[0]
    assert sum(bool(piece) for piece in pieces) > 1, "one piece is no stream"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in reasons if reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == 20
    assert asyncio.run(asynchronous()) == (greedy[0], greedy[0])


def test_many_at_once_over_one_engine(model, greedy):
    async def burst() -> list[str]:
        options = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0.0}
        calls = [litellm.acompletion(model, **options, logprobs=i % 2 == 0) for i in range(8)]
        return [text(answer) for answer in await asyncio.gather(*calls)]

    earlier = provider.engine_for(model).stats()
    assert asyncio.run(burst()) == [greedy[0]] * 8
    after = provider.engine_for(model).stats()
    assert after["width_peak"] > 1  # with and without log-probabilities, while equal calls share a row
    assert after["duplicates_joined"] > earlier["duplicates_joined"]


def test_n_samples_in_one_call_differ_and_repeat_by_seed(model):
    options = {"temperature": 1.0, "seed": 5}
    one, three, again = (ask(model, n=n, **options) for n in (1, 3, 3))
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in again.choices]
    assert texts[0] == text(one)
    assert three.usage.completion_tokens > one.usage.completion_tokens
    assert text(ask(model, temperature=1.0, seed=6)) != text(one)


def test_stop_ends_the_text_before_it(model, greedy):
    stop = greedy[0][5:8]
    answer = ask(model, stop=[stop])
    assert text(answer) == greedy[0][: greedy[0].index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs_are_those_of_the_tokens_written(model):
    answer = ask(model, logprobs=True, top_logprobs=3, max_tokens=6)
    content = answer.choices[0].logprobs.content
    assert len(content) == 6
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert max(rival.logprob for rival in token.top_logprobs) == pytest.approx(token.logprob, abs=1e-5)


def test_a_json_schema_is_kept_by_a_model_with_random_weights(model):
    answer_format = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
    for seed in range(5):
        answer = ask(model, response_format=answer_format, temperature=1.0, seed=seed, max_tokens=80)
        parsed = json.loads(text(answer))
        assert parsed["label"] in ("yes", "no")
        assert 0 <= parsed["score"] <= 9


def test_engine_options_are_passed_by_name(model, greedy):
    token = {"logit_bias": {str(index): -100 for index in range(50, 300)}}
    assert text(ask(model, **token)) != greedy[0]
    assert text(ask(model, temperature=1.0, min_p=1.0)) == greedy[0]  # only the most likely token is left


needs_mcp = pytest.mark.skipif(
    importlib.util.find_spec("mcp") is None, reason="LiteLLM 1.106 needs the package mcp for tools"
)
TOOL = {"type": "function", "function": {"name": "judge", "description": "Judge.", "parameters": SCHEMA}}


@pytest.fixture
def roomy(tmp_path) -> str:
    """A model with room for the description of a tool."""
    bpe = tiny_llama.tokenizer()
    values = tiny_llama.weights(bpe.get_vocab_size())
    name = f"mlx/{tiny_llama.write_directory(tmp_path / 'roomy', values, bpe=bpe, max_position_embeddings=2048)}"
    register(name)
    return name


@needs_mcp
def test_tools_are_called_and_their_results_read(roomy):
    named = {"type": "function", "function": {"name": "judge"}}
    for seed in range(4):
        options = {"tools": [TOOL], "tool_choice": named, "temperature": 1.0, "seed": seed, "max_tokens": 250}
        choice = ask(roomy, **options, parallel_tool_calls=False).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "judge"
        parsed = json.loads(call.function.arguments)
        assert parsed["label"] in ("yes", "no")
        assert 0 <= parsed["score"] <= 9
    result = {"role": "tool", "tool_call_id": call.id, "content": "noted"}
    after = litellm.completion(roomy, messages=[*MESSAGES, choice.message, result], tools=[TOOL], max_tokens=5)
    assert after.usage.prompt_tokens > ask(roomy, tools=[TOOL]).usage.prompt_tokens
    chunks = list(
        ask(roomy, tools=[TOOL], tool_choice="required", stream=True, temperature=1.0, seed=1, max_tokens=250)
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    whole = ask(roomy, tools=[TOOL], tool_choice="required", temperature=1.0, seed=1, max_tokens=250)
    assert [call.function.arguments for call in calls] == [
        call.function.arguments for call in whole.choices[0].message.tool_calls
    ]
    assert [call.index for call in calls] == list(range(len(calls)))


def test_a_thought_is_reasoning_content(tmp_path):
    bpe = tiny_llama.tokenizer()
    bpe.add_special_tokens(["<think>", "</think>"])
    values = tiny_llama.weights(bpe.get_vocab_size())
    directory = tiny_llama.write_directory(tmp_path / "thinker", values, bpe=bpe)
    config = directory / "tokenizer_config.json"
    opened = tiny_llama.TEMPLATE.replace("assistant\n' }}", "assistant\n<think>\n' }}")
    assert opened != tiny_llama.TEMPLATE
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": opened}))
    name = f"mlx/{directory}"
    register(name)
    assert provider.engine_for(name).supports_reasoning
    options = {"temperature": 1.0, "seed": 1, "max_tokens": 40, "extra_body": {"thinking_tokens": 12}}
    message = ask(name, **options).choices[0].message
    assert message.reasoning_content
    chunks = [chunk.choices[0].delta for chunk in ask(name, stream=True, **options)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in chunks) == message.reasoning_content
    assert "".join(delta.content or "" for delta in chunks) == message.content


def test_errors_are_litellms(model):
    with pytest.raises(litellm.BadRequestError, match="expected a number from 0 to 1"):
        ask(model, min_p=7)
    with pytest.raises(litellm.ContextWindowExceededError, match="512"):
        litellm.completion(model, messages=[{"role": "user", "content": "a b c " * 500}])
    with pytest.raises(litellm.NotFoundError, match="no such file or directory"):
        litellm.completion("mlx/./nothing", messages=MESSAGES)
    with pytest.raises(litellm.BadRequestError, match="one sample"):
        list(ask(model, n=2, stream=True))


def test_registering_again_changes_nothing(model):
    first = register()
    assert register() is first
    assert isinstance(first, MLXLLMProvider)
    assert [item["provider"] for item in litellm.custom_provider_map].count("mlx") == 1
    assert litellm.supports_response_schema(model)
    assert litellm.completion_cost(ask(model), model=model) == 0


def test_dspy_through_litellm_equals_the_native_engine(model):
    options = {"temperature": 0.0, "max_tokens": 12, "cache": False}
    native = provider.connect(model, **options)("Hello")
    assert dspy.LM(model, engine="litellm", **options)("Hello") == native
