"""Grammars followed with no model at all: every token is drawn at random from the mask."""

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance.hf import from_tokenizer

from dspy_toolkit.errors import GrammarError
from dspy_toolkit.grammar import AnswerGrammar
from dspy_toolkit_mlx.decoding.fields import Repetition
from dspy_toolkit_mlx.decoding.grammar import OVERRUN, GrammarSource, GrammarStore


@pytest.fixture(scope="module")
def store(tokenizer):
    eos = sorted(tokenizer.eos_token_ids)
    return GrammarStore(from_tokenizer(tokenizer._tokenizer, n_vocab=len(tokenizer), eos_token=eos))


def allowed(store, guide):
    bitmask = np.zeros((1, store.words), dtype=np.int32)
    guide.fill(bitmask, 0)
    return np.nonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))[0].tolist()


def walk(store, source, budget, seed, prefer=None):
    """The text of a random walk; `prefer` picks from the allowed tokens instead of chance."""
    rng = random.Random(seed)
    guide = store.guide(source)
    tokens = guide.start()
    while not guide.finished:
        choices = allowed(store, guide)
        assert len(choices) > 1, "a token without a choice costs a step"
        token = prefer(choices) if prefer else rng.choice(choices)
        tokens += guide.advance(token, budget - len(tokens))
        assert len(tokens) <= budget + OVERRUN + 300
    return store.tokenizer.decode_str(tokens), guide, tokens


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "numbers": {"type": "array", "items": {"type": "number"}},
        "inner": {
            "type": "object",
            "properties": {"flag": {"type": "boolean"}, "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
            "required": ["flag", "maybe"],
            "additionalProperties": False,
        },
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "required": ["text", "numbers", "inner", "map"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("budget", [1, 20, 60, 300])
@pytest.mark.parametrize("seed", range(8))
def test_json_is_valid_for_any_budget(store, budget, seed):
    text, guide, tokens = walk(store, GrammarSource.json_schema(SCHEMA), budget, seed)
    value = json.loads(text)
    assert set(value) == set(SCHEMA["properties"])
    assert isinstance(value["inner"]["flag"], bool)
    assert guide.complete
    assert len(tokens) <= max(budget, 60) + 60


LARK = r"""
start: "[[ ## a ## ]]\n" a "b ## ]]\n" b "c ## ]]\n" c "\n\n[[ ## completed ## ]]"
a[suffix="\n\n[[ ## "]: /[^\s\[](.|\n)*/
b[suffix="\n\n[[ ## "]: /[^\s\[](.|\n)*/
c: "yes" | "no"
"""
MINIMAL = "[[ ## a ## ]]\nx\n\n[[ ## b ## ]]\nx\n\n[[ ## c ## ]]\nno\n\n[[ ## completed ## ]]"
CHAT = AnswerGrammar(lark=LARK, minimal=MINIMAL, markers=("\n\n[[ ## ",))


@pytest.mark.parametrize("budget", [1, 70, 100, 200])
@pytest.mark.parametrize("seed", range(8))
def test_markers_are_complete_for_any_budget(store, budget, seed):
    text, guide, tokens = walk(store, GrammarSource.of(CHAT), budget, seed)
    assert text.startswith("[[ ## a ## ]]\n")
    for marker in ("\n\n[[ ## b ## ]]\n", "\n\n[[ ## c ## ]]\n", "\n\n[[ ## completed ## ]]"):
        assert text.count(marker) == 1
    assert guide.complete
    assert len(tokens) <= max(budget, len(store.tokenizer.tokenize_str(MINIMAL))) + 40


def test_end_of_text_in_a_free_field_closes_it(store):
    eos = store.tokenizer.eos_tokens[0]
    text, guide, _ = walk(store, GrammarSource.of(CHAT), 500, 1, prefer=lambda c: eos if eos in c else random.choice(c))
    assert guide.complete
    assert not guide.cut
    assert len(text) < 130


def test_end_of_text_in_a_json_string_closes_it(store):
    schema = {"type": "object", "properties": {"t": {"type": "string"}}, "required": ["t"]}
    schema["additionalProperties"] = False
    eos = store.tokenizer.eos_tokens[0]
    text, guide, _ = walk(
        store, GrammarSource.json_schema(schema), 500, 1, prefer=lambda c: eos if eos in c else random.choice(c)
    )
    assert len(json.loads(text)["t"]) <= 3  # the token that opens the string may bring a few characters
    assert guide.complete


def test_a_grammar_that_does_not_compile_is_refused(store):
    with pytest.raises(GrammarError, match="does not compile"):
        store.guide(GrammarSource.of(AnswerGrammar("start: nothing")))
    with pytest.raises(GrammarError, match="does not compile"):
        store.guide(GrammarSource.json_schema({"type": "no such type"}))


def test_a_token_outside_the_mask_is_an_error_and_not_a_broken_answer(store):
    guide = store.guide(GrammarSource.of(AnswerGrammar('start: "a" | "b"')))
    with pytest.raises(GrammarError, match="matcher failed"):
        guide.advance(store.tokenizer.tokenize_str("zz")[0], 50)


def test_compiled_grammars_are_shared_but_not_their_state(store):
    source = GrammarSource.of(AnswerGrammar('start: "a" /[a-z]{3}/'))
    one, two = store.guide(source), store.guide(source)
    previous = allowed(store, two)
    one.advance(previous[0], 50)
    assert allowed(store, two) == previous


@settings(max_examples=30, deadline=None)
@given(names=st.lists(st.text("abcxyz", min_size=1, max_size=6), min_size=2, max_size=6, unique=True), data=st.data())
def test_properties_are_written_in_the_order_of_the_schema(store, names, data):
    kinds = st.sampled_from([{"type": "boolean"}, {"type": "string", "maxLength": 3}, {"enum": ["x", "y"]}])
    inner = {"type": "object", "properties": {name: data.draw(kinds) for name in names}, "required": names[::-1]}
    inner["additionalProperties"] = False
    schema = {**inner, "properties": {**inner["properties"], "nested": inner}, "required": ["nested", *names]}
    value = json.loads(walk(store, GrammarSource.json_schema(schema), 600, 1)[0])
    assert list(value) == [*names, "nested"]
    assert list(value["nested"]) == names


def required(count):
    return {f"p{i}": {"type": "boolean"} for i in range(count)}


@pytest.mark.parametrize("budget", [5, 20, 60])
@pytest.mark.parametrize(
    "properties",
    [required(60), {"mail": {"type": "string", "pattern": "^[a-z]+@[a-z]+[.]com$"}}, {"code": {"pattern": "^x{900}$"}}],
    ids=["many", "pattern", "endless"],
)
def test_an_answer_ends_or_is_cut_near_max_tokens(store, properties, budget):
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    for seed in range(6):
        text, guide, tokens = walk(store, GrammarSource.json_schema(schema), budget, seed)
        assert len(tokens) <= budget + OVERRUN
        if guide.complete:
            assert set(json.loads(text)) == set(properties)
        else:
            assert guide.cut
            assert len(tokens) <= max(budget, len(guide.start()))


def test_a_text_that_repeats_itself_is_closed(store):
    loop = store.tokenizer.tokenize_str(" The answer is 4, and")
    guide = store.guide(GrammarSource.of(CHAT))
    guide.start()
    ended = store.repetitions_ended
    for token in store.tokenizer.tokenize_str("So:"):
        guide.advance(token, 5000)
    written, turn = [], itertools.cycle(loop)
    while len(written) < 2000:
        added = guide.advance(next(turn), 5000)
        written += added
        if len(added) > 1:
            break
    assert Repetition.TOKENS <= len(written) <= Repetition.TOKENS + 5 * len(loop) + 40
    assert store.tokenizer.decode_str(written).endswith("\n\n[[ ## b ## ]]\n")
    assert store.repetitions_ended == ended + 1
    assert not guide.cut


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.lists(st.integers(0, 5), max_size=60))
def test_every_loop_is_noticed(loop, introduction):
    repetition = Repetition()
    for token in introduction:
        repetition.push(token)
    pushed = (repetition.push(token) for token in itertools.islice(itertools.cycle(loop), 400))
    assert any(pushed)


@given(st.integers(0, 10**6))
def test_a_text_that_changes_is_no_repetition(seed):
    rng, repetition = random.Random(seed), Repetition()
    row = [7, 7, 8]  # a table: cells alike, one number that differs
    for number in range(60):
        for token in (*row * 3, 100 + number, rng.randrange(20)):
            assert not repetition.push(token)
