"""Models that think: a thought of its own length, then the answer as if there had been none."""

import asyncio
import json

import dspy
import pytest
from dspy.lm15 import (
    Config,
    FunctionTool,
    Message,
    Reasoning,
    Request,
    TextPart,
    ThinkingPart,
    ToolChoice,
    UnsupportedFeatureError,
)

from dspy_toolkit.adapters.guided import GuidedChatAdapter
from dspy_toolkit_mlx.decoding.thinking import SHARES
from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.lm import MLXLM

TAGS = ("<think>", "</think>")
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "schema": SCHEMA}


@pytest.fixture(scope="module", params=["asked", "opening"])
def engine(tiny, request):
    """Once with a template that thinks when asked to, once with one that opens the thought itself."""
    template = tiny.thinking if request.param == "asked" else tiny.opening
    with MLXEngine(
        tiny.dressed("qwen3", template=template, added=TAGS), name="mlx/t", options=EngineOptions(check=True)
    ) as engine:
        yield engine


def ask(text="why", effort="low", **config):
    reasoning = None if effort is None else effort if isinstance(effort, Reasoning) else Reasoning(effort=effort)
    base = {"max_tokens": 64, "temperature": 1.0, "reasoning": reasoning, **config}
    return Request(model="m", messages=(Message.user(text),), config=Config(**base))


@pytest.mark.parametrize("effort", [*SHARES, Reasoning(effort="low", thinking_budget=5)])
def test_a_thought_ends_with_its_budget_and_the_grammar_follows(engine, effort):
    sequences = [
        engine.submit(ask(str(seed), effort, response_format=FORMAT, seed=seed)).future.result() for seed in range(3)
    ]
    budget = 5 if isinstance(effort, Reasoning) else int(64 * SHARES[effort])
    for sequence in sequences:
        assert isinstance(json.loads(sequence.text)["a"], bool)
        assert 0 < sequence.thought <= budget
        assert "think>" not in sequence.text + sequence.transcript.thought
        assert sequence.guide.complete
    assert max(sequence.thought for sequence in sequences) > budget // 4


def test_parts_and_usage_separate_thought_and_answer(engine):
    response = engine.complete(ask(response_format=FORMAT, seed=3))
    assert [type(part) for part in response.message.parts] == [ThinkingPart, TextPart]
    assert 0 < response.usage.reasoning_tokens < response.usage.output_tokens


def test_a_guided_answer_has_no_thought_unless_requested(engine):
    for effort in (None, "off"):
        response = engine.complete(ask(effort=effort, response_format=FORMAT, seed=1))
        assert [type(part) for part in response.message.parts] == [TextPart]
        assert response.usage.reasoning_tokens is None
    sequence = engine.submit(ask(effort=None, response_format=FORMAT)).future.result()
    low = engine._ready().intake._store.tokenizer
    prompt = b"".join(low.decode_bytes([token]) for token in sequence.prompt).decode()
    assert prompt.endswith("<think>\n\n</think>\n\n")


def test_end_of_text_in_a_thought_closes_it(engine):
    eos = engine._ready().intake._renderer._encode("<|im_end|>")[0]
    bias = {"logit_bias": {str(eos): 100}}
    response = engine.complete(ask(response_format=FORMAT, extensions=bias, seed=1, temperature=0.0))
    assert json.loads(response.text)["a"] in (True, False)


def test_free_answers_think_within_half_of_the_budget(engine):
    sequence = engine.submit(ask(effort=None, seed=4, max_tokens=40)).future.result()
    assert sequence.thought <= 20
    requested = engine.submit(ask(effort="medium", seed=4, max_tokens=40)).future.result()
    assert 0 < requested.thought <= 20
    assert requested.text
    assert len(requested.tokens) <= 42


def test_a_thought_streams_as_a_thought(engine):
    request = ask(response_format=FORMAT, seed=6)
    whole = engine.complete(request)
    deltas = [event.delta for event in engine.stream(request) if event.type == "delta"]
    kinds = [delta.type for delta in deltas]
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {"thinking", "text"}
    for part in whole.message.parts:
        assert "".join(delta.text for delta in deltas if delta.type == part.type) == part.text


def test_stop_strings_end_answers_and_not_thoughts(engine):
    free = engine.submit(ask("stop", "medium", seed=8)).future.result()
    letter = next(char for char in free.transcript.thought if char in free.text and char.strip())
    stopped = engine.submit(ask("stop", "medium", seed=8, stop=(letter,))).future.result()
    assert stopped.transcript.thought == free.transcript.thought
    assert stopped.text == free.text[: free.text.index(letter)].rstrip()
    assert stopped.finish_reason == "stop"


def test_seeds_and_rollouts_repeat_thought_and_answer(engine):
    def say(seed, rollout=None):
        sequence = engine.submit(ask("seed", response_format=FORMAT, seed=seed), rollout=rollout).future.result()
        return sequence.transcript.thought, sequence.text

    assert say(1) == say(1)
    assert say(1, 2) == say(1, 2)
    assert len({say(1), say(2), say(1, 2), say(1, 3)}) == 4


def test_a_request_cancelled_in_a_thought_frees_its_row(engine):
    ticket = engine.submit(ask("cancel", "max", max_tokens=400))
    stream = engine.stream(ask("cancel", "max", max_tokens=400))
    next(stream), next(stream)
    stream.close()
    ticket.cancel()
    assert engine.complete(ask(response_format=FORMAT)).text
    assert engine.stats()["running"] + engine.stats()["waiting"] <= 1


def test_a_thought_comes_before_calls_too(engine):
    tool = FunctionTool(name="go", parameters={"type": "object", "properties": {"far": {"type": "integer"}}})
    config = Config(
        max_tokens=80,
        temperature=1.0,
        seed=1,
        reasoning=Reasoning(effort="low"),
        tool_choice=ToolChoice(mode="required"),
    )
    request = Request(model="m", messages=(Message.user("go"),), tools=(tool,), config=config)
    response = engine.complete(request)
    assert response.message.parts[0].type == "thinking"
    assert {part.type for part in response.message.parts[1:]} == {"tool_call"}


def test_supports_reasoning_follows_the_template(engine, tiny):
    assert engine.supports_reasoning
    assert AsyncMLXEngine(engine).supports_reasoning
    # The tags are in many vocabularies of models that do not think.
    with MLXEngine(tiny.dressed("llama", added=TAGS), name="mlx/plain") as plain:
        assert not plain.supports_reasoning
        with pytest.raises(UnsupportedFeatureError, match="does not think"):
            plain.complete(ask(effort="low"))
        assert plain.complete(ask(effort="off", max_tokens=3)).text is not None


class Native(dspy.Signature):
    question: str = dspy.InputField()
    reasoning: dspy.Reasoning = dspy.OutputField()
    answer: bool = dspy.OutputField()


def test_dspys_reasoning_is_the_thought(engine):
    lm = MLXLM("mlx/t", engine=engine, async_engine=AsyncMLXEngine(engine), cache=False, max_tokens=80, temperature=1.0)
    thoughts = []
    with dspy.context(lm=lm, adapter=GuidedChatAdapter(field_tokens={"reasoning": 6})):
        for seed in range(4):
            answer = dspy.Predict(Native)(question="why?", config={"seed": seed})
            assert isinstance(answer.answer, bool)
            thoughts.append(answer.reasoning)
        again = asyncio.run(dspy.Predict(Native).acall(question="why?", config={"seed": 3}))
    assert again.reasoning == thoughts[-1]
    # A model may close its thought at once; DSPy then has no reasoning at all.
    said = [thought for thought in thoughts if thought is not None]
    assert said
    assert all(isinstance(thought, dspy.Reasoning) for thought in said)
