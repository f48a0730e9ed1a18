"""The engine on a real model; mlx_lm is the oracle."""

from functools import partial

import mlx.core as mx
import pytest
from dspy.lm15 import Config, Message, Request
from mlx_lm.generate import generate_step

from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.models.resolve import load, resolve_model

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]


@pytest.fixture(scope="module")
def resolved():
    return resolve_model("mlx/smollm2-135m")


@pytest.fixture(scope="module")
def engine(resolved):
    with MLXEngine(partial(load, resolved), name=resolved.name, options=EngineOptions(check=True)) as engine:
        yield engine


def ask(resolved, question, **config):
    system = "You are a geographer. You answer in one short sentence, and you never guess. " * 4
    return Request(model=resolved.name, system=system, messages=(Message.user(question),), config=Config(**config))


def test_smollm2_answers_the_capital_of_france(engine, resolved):
    request = Request(
        model=resolved.name,
        messages=(Message.user("What is the capital of France?"),),
        config=Config(max_tokens=20),
    )
    response = engine.complete(request)
    assert "Paris" in response.message.parts[0].text
    assert response.finish_reason == "stop"


def test_a_burst_gives_the_greedy_tokens_of_mlx_lm(engine, resolved):
    model, tokenizer = load(resolved)
    places = ["France", "Peru", "the Democratic Republic of the Congo", "Japan"]
    requests = [ask(resolved, f"What is the capital of {place}?", max_tokens=16) for place in places]
    earlier = engine.stats()
    sequences = [ticket.future.result() for ticket in [engine.submit(request) for request in requests]]
    after = engine.stats()
    for sequence in sequences:
        want = []
        for token, _ in generate_step(mx.array(sequence.prompt), model, max_tokens=16):
            if token in tokenizer.eos_token_ids:
                break
            want.append(token)
        assert sequence.tokens == want
    assert after["prefill_computed"] - earlier["prefill_computed"] < 0.6 * sum(len(s.prompt) for s in sequences)
