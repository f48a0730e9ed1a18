"""Every format's calls, walked with no model at all: any token that is allowed, any budget; mlx-lm reads them back."""

import random
from dataclasses import dataclass

import jsonschema
import numpy as np
import pytest
from dspy.lm15 import FunctionTool, InvalidRequestError, UnsupportedFeatureError
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance.hf import from_tokenizer

from dspy_toolkit_mlx.grammar import GrammarStore
from dspy_toolkit_mlx.guides import Guides
from dspy_toolkit_mlx.request import Prepared
from dspy_toolkit_mlx.sequence import Sampling
from dspy_toolkit_mlx.tool_formats import tool_format
from dspy_toolkit_mlx.tools import ToolPlan

FORMATS = {
    "json_tools": ('>{"',),  # a token that runs from the opening into the call
    "mistral": ("[TOOL_CALLS]", "[ARGS]"),
    "mistral list": ("[TOOL_CALLS]",),
    "kimi_k2": (
        "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>",
        "<|tool_call_argument_begin|>",
    ),
    "pythonic": ("<|tool_call_start|>", "<|tool_call_end|>"),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "glm47": ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "longcat": ("<longcat_tool_call>", "</longcat_tool_call>"),
    "minimax_m2": ("<minimax:tool_call>", "</minimax:tool_call>"),
}  # fmt: skip

SEARCH = FunctionTool(
    name="search",
    description="Find pages.",
    parameters={
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 50},
            "exact": {"type": "boolean", "default": False},
            "tags": {"type": "array", "items": {"type": "string"}},
            "mode": {"enum": ["fast", "slow"], "type": "string"},
        },
        "required": ["query", "limit"],
    },
)
NOTE = FunctionTool(
    name="note",
    parameters={
        "type": "object",
        "properties": {
            "place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "kind": {"type": ["integer", "null"]},
        },
        "required": ["place", "maybe"],
    },
)
DONE = FunctionTool(name="finish", parameters={"type": "object", "properties": {}})
TOOLS = (SEARCH, NOTE, DONE)
SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}


@dataclass
class Kit:
    store: GrammarStore
    guides: Guides
    eos: int


@pytest.fixture(scope="module")
def kits(tiny):
    def kit(name, added):
        template = tiny.tools + "".join("{# " + token + " #}" for token in added)
        wrapper = tiny.tokenizer(template, added, name.partition(" ")[0])
        eos = sorted(wrapper.eos_token_ids)
        low = from_tokenizer(wrapper._tokenizer, n_vocab=len(wrapper), eos_token=eos)
        store = GrammarStore(low)
        return Kit(store, Guides(store, frozenset(eos), tool_format(wrapper, low), None), eos[0])

    return {name: kit(name, added) for name, added in FORMATS.items()}


def prepared(mode="required", several=True, tools=TOOLS):
    plan = ToolPlan(tools, tools, mode, several)
    return Prepared(
        prompt=(1,), sampling=Sampling(), max_tokens=1, stop=(), grammar=None, deadline=None, seeded=False, tools=plan
    )


def walk(kit, guide, budget, rng, ending=0.05):
    """Draw every token from the mask; end of text, where it is allowed, with the probability `ending`."""
    tokens, written = guide.start(), 0
    while not guide.done:
        bitmask = np.full((1, kit.store.words), -1, dtype=np.int32)
        guide.fill(bitmask, 0)
        allowed = np.nonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))[0]
        allowed = allowed[allowed < kit.store.tokenizer.vocab_size]
        token = int(kit.eos) if kit.eos in allowed and rng.random() < ending else int(rng.choice(allowed))
        tokens += guide.advance(token, budget - len(tokens))
        written += 1
        assert written < 3000
    return tokens


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(FORMATS)), seed=st.integers(0, 10**6), budget=st.sampled_from([1, 20, 60, 200]))
def test_whatever_is_written_is_a_valid_call(kits, name, seed, budget):
    kit = kits[name]
    guide = kit.guides.make(prepared())
    tokens = walk(kit, guide, budget, random.Random(seed))
    text = kit.store.tokenizer.decode_str(tokens)
    assert guide.complete, text
    assert guide.calls, text
    for call in guide.calls:
        jsonschema.validate(dict(call.input), SCHEMAS[call.name])
        assert set(call.input) <= set(SCHEMAS[call.name]["properties"])
    assert len({call.id for call in guide.calls}) == len(guide.calls)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_one_call_where_one_is_allowed(kits, name):
    kit = kits[name]
    for seed in range(5):
        guide = kit.guides.make(prepared(several=False))
        walk(kit, guide, 400, random.Random(seed), ending=0)
        assert len(guide.calls) == 1


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_text_stays_possible_and_a_call_begins_where_the_model_opens_one(kits, name):
    kit = kits[name]
    guide = kit.guides.make(prepared("auto"))
    low = kit.store.tokenizer
    opening = kit.guides._form.opening
    assert guide.start() == []
    for token in low.tokenize_str("I look. "):
        assert guide.advance(token, 500) == [token]
        assert set(guide.channels) == {"text"}
    for token in opening:
        added = guide.advance(token, 500)
        if guide.channels[-1] == "call":
            break
    rng = random.Random(3)
    while not guide.calls and not guide.done:
        bitmask = np.full((1, kit.store.words), -1, dtype=np.int32)
        guide.fill(bitmask, 0)
        allowed = np.nonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))[0]
        added = guide.advance(int(rng.choice(allowed[allowed < low.vocab_size])), 400)
    assert guide.calls, added
    guide.advance(kit.eos, 100)
    assert guide.done
    assert guide.complete


def test_a_token_that_goes_beyond_the_opening_is_cut_at_it(kits):
    kit = kits["json_tools"]
    low = kit.store.tokenizer
    (longer,) = [token for token in range(low.vocab_size) if low.decode_bytes([token]) == b'>{"']
    guide = kit.guides.make(prepared("auto"))
    for token in low.tokenize_str("<tool_call"):
        guide.advance(token, 500)
    added = guide.advance(longer, 500)
    assert low.decode_str(added).startswith('>\n{"name": "')


def test_no_call_is_begun_that_could_not_end(kits):
    kit = kits["qwen3_coder"]
    guide = kit.guides.make(prepared("auto"))
    guide.advance(kit.guides._form.opening[0], 12)
    assert guide.done
    assert guide.cut
    assert not guide.calls


def test_what_a_format_cannot_say_is_refused_by_name(tiny, kits):
    odd = FunctionTool(name="<odd>")
    with pytest.raises(InvalidRequestError, match="<odd>"):
        kits["glm47"].guides.make(prepared(tools=(odd,)))
    assert kits["json_tools"].guides.make(prepared(tools=(odd,)))
    added = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")
    wrapper = tiny.tokenizer(tiny.tools, added, "kimi_k3")
    low = from_tokenizer(wrapper._tokenizer, n_vocab=len(wrapper), eos_token=sorted(wrapper.eos_token_ids))
    with pytest.raises(UnsupportedFeatureError, match="Kimi K3"):
        tool_format(wrapper, low).source(TOOLS, several=True)
