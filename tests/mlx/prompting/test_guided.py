"""Random weights, every field type, any budget: DSPy's adapters read what comes out, every time."""

import enum
from typing import Literal

import dspy
import pydantic
import pytest
from dspy.lm15 import Config, Message, Request

from dspy_toolkit.grammar import compile_chat, compile_json
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Inner(pydantic.BaseModel):
    name: str
    size: int = pydantic.Field(ge=1, le=64)
    tags: list[str]


class Everything(dspy.Signature):
    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    label: Literal["positive", "negative"] = dspy.OutputField()
    count: int = dspy.OutputField()
    share: float = dspy.OutputField()
    sure: bool = dspy.OutputField()
    items: list[str] = dspy.OutputField()
    inner: Inner = dspy.OutputField()
    maybe: int | None = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    table: dict[str, list[float]] = dspy.OutputField()


class Texts(dspy.Signature):
    question: str = dspy.InputField()
    first: str = dspy.OutputField()
    second: str = dspy.OutputField()
    third: list[Inner] = dspy.OutputField()


@pytest.fixture(scope="module")
def engine(tiny):
    with MLXEngine(tiny.load("qwen3"), name="m", options=EngineOptions(check=True)) as engine:
        yield engine


@pytest.mark.parametrize("signature", [Everything, Texts])
@pytest.mark.parametrize(
    ("compiler", "adapter"), [(compile_chat, dspy.ChatAdapter()), (compile_json, dspy.JSONAdapter())]
)
@pytest.mark.parametrize("budget", [5, 120, 400])
def test_every_answer_parses(engine, signature, compiler, adapter, budget):
    grammar = compiler(signature)
    metadata = {"grammar": grammar.to_metadata()}
    tickets = [
        engine.submit(
            Request(
                model="m",
                messages=(Message.user(f"question {seed}"),),
                config=Config(
                    max_tokens=budget, temperature=float(seed % 3 != 0), seed=seed, extensions={"metadata": metadata}
                ),
            )
        )
        for seed in range(6)
    ]
    for ticket in tickets:
        sequence = ticket.future.result()
        values = adapter.parse(signature, sequence.text)
        assert set(values) == set(signature.output_fields)
        assert sequence.guide.complete, sequence.text
