"""Fields with budgets of their own: no field is longer, no answer is broken."""

from typing import Annotated

import dspy
import pydantic
import pytest
from dspy.lm15 import Config, Message, Request
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.grammar import AnswerField, AnswerGrammar, MaxTokens, compile_chat, compile_json
from dspy_toolkit_mlx.decoding.fields import FieldClock
from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.lm import MLXLM


class Item(pydantic.BaseModel):
    name: str
    tags: list[str]


class Report(dspy.Signature):
    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    title: str = dspy.OutputField()
    items: list[Item] = dspy.OutputField()
    words: list[str] = dspy.OutputField()
    count: int = dspy.OutputField()


NAMES = list(Report.output_fields)
CLOSING = {"reasoning": 16, "title": 16, "items": 72, "words": 24, "count": 30}
"""Tokens of the tiny tokenizer, one a character, that end what is open: an escape (a pair of surrogates has twelve)
and a quote; an Item's keys and brackets; the answer's end mark."""


@pytest.fixture(scope="module")
def engine(tiny):
    with MLXEngine(tiny.load("qwen3"), name="mlx/tiny", options=EngineOptions(check=True)) as engine:
        yield engine


@pytest.fixture
def lm(engine):
    return MLXLM(
        "mlx/tiny", engine=engine, async_engine=AsyncMLXEngine(engine), cache=False, max_tokens=900, temperature=1.0
    )


def spans(engine, sequence, openings):
    """How many tokens bring characters of each field's value or of what closes it, counted in the whole text."""
    low = engine._ready().intake._store.tokenizer
    text = b"".join(low.decode_bytes([token]) for token in sequence.tokens)
    starts = [text.index(opening.encode()) + len(opening.encode()) for _, opening in openings]
    ends = [text.index(opening.encode()) for _, opening in openings[1:]] + [len(text)]
    counts, at = dict.fromkeys(NAMES, 0), 0
    for token in sequence.tokens:
        end = at + len(low.decode_bytes([token]))
        for name, first, last in zip(NAMES, starts, ends, strict=True):
            counts[name] += end > first and at < last
        at = end
    return counts


@settings(max_examples=12, deadline=None)
@given(
    budgets=st.fixed_dictionaries(
        {"items": st.integers(1, 60), "words": st.integers(1, 60)},  # or they would take all there is
        optional={name: st.integers(1, 60) for name in ("reasoning", "title", "count")},
    ),
    seed=st.integers(0, 10**6),
    compiler=st.sampled_from([compile_chat, compile_json]),
)
def test_every_answer_parses_and_no_field_exceeds_its_budget(engine, budgets, seed, compiler):
    grammar = compiler(Report)
    adapter = dspy.ChatAdapter() if compiler is compile_chat else dspy.JSONAdapter()
    metadata = {"grammar": grammar.with_budgets(budgets).to_metadata()}
    config = Config(max_tokens=400, temperature=1.0, seed=seed, extensions={"metadata": metadata})
    sequence = engine.submit(Request(model="m", messages=(Message.user("q"),), config=config)).future.result()
    assert set(adapter.parse(Report, sequence.text)) == set(NAMES)
    assert sequence.guide.complete
    counts = spans(engine, sequence, [(field.name, field.opening) for field in grammar.fields])
    for name, budget in budgets.items():
        assert counts[name] <= budget + CLOSING[name], (name, sequence.text)


def test_texts_end_at_their_budget_without_truncating_the_answer(lm, engine):
    class Two(dspy.Signature):
        question: str = dspy.InputField()
        thoughts: Annotated[str, MaxTokens(12)] = dspy.OutputField()
        answer: str = dspy.OutputField()

    low = engine._ready().intake._store.tokenizer
    for adapter in (GuidedChatAdapter(field_tokens={"answer": 5}), GuidedJSONAdapter(field_tokens={"answer": 5})):
        with dspy.context(lm=lm, adapter=adapter):
            for seed in range(6):
                answers = dspy.Predict(Two)(question="?", config={"seed": seed})
                assert 0 < len(low.tokenize_str(answers.thoughts)) <= 16
                assert len(low.tokenize_str(answers.answer)) <= 8
                assert lm.history[-1]["response"].finish_reason == "stop"


def test_budgets_of_the_adapter_come_before_those_of_the_field(lm, engine):
    class Said(dspy.Signature):
        question: str = dspy.InputField()
        answer: Annotated[str, MaxTokens(30)] = dspy.OutputField()

    def sent(signature, **options):
        kwargs = {}
        GuidedChatAdapter(**options)._call_preprocess(lm, kwargs, signature, {"question": "?"})
        (field,) = AnswerGrammar.from_metadata(kwargs["metadata"]["grammar"]).fields
        assert (field.name, field.opening) == ("answer", "[[ ## answer ## ]]\n")
        return field.tokens

    assert sent(Said) == 30
    assert sent(Said, field_tokens={"answer": 7}) == 7
    updated = dspy.Signature("question -> answer").with_updated_fields("answer", max_tokens=9)
    assert sent(updated) == 9
    assert sent(dspy.Signature("question -> answer")) is None
    plain, limited = GuidedChatAdapter(), GuidedChatAdapter(field_tokens={"answer": 7})
    assert plain.format(Said, [], {"question": "?"}) == limited.format(Said, [], {"question": "?"})
    with pytest.raises(ValueError, match="'answer' is 0"):
        sent(Said, field_tokens={"answer": 0})


def test_an_invalid_budget_is_refused_by_name(lm):
    bad = {"lark": 'start: "a"', "fields": [{"opening": "a", "tokens": -1}]}
    with pytest.raises(dspy.LMInvalidRequestError, match="fields"):
        lm("x", metadata={"grammar": bad})


def test_the_field_clock_counts_a_token_that_extends_into_the_value():
    clock = FieldClock((AnswerField("a", "<a>", 2), AnswerField("b", "<b>")))
    for token, used_up in ((b"<", False), (b"a>x", False), (b"y", True), (b"z<b", True), (b">", False), (b"q", False)):
        clock.push(token)
        assert clock.used_up == used_up
