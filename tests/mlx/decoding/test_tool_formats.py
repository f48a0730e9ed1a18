"""Every format's calls, walked with no model at all: any token that is allowed, any budget; mlx-lm reads them back."""

import random
import re
from dataclasses import dataclass

import jsonschema
import numpy as np
import pytest
from dspy.lm15 import FunctionTool, InvalidRequestError, UnsupportedFeatureError
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance.hf import from_tokenizer

from dspy_toolkit_mlx.decoding.grammar import GrammarStore
from dspy_toolkit_mlx.decoding.tool_formats import tool_format
from dspy_toolkit_mlx.decoding.tools import ToolPlan
from dspy_toolkit_mlx.prompting.guides import Guides
from dspy_toolkit_mlx.prompting.prepare import Prepared
from dspy_toolkit_mlx.scheduling.sequence import Sampling

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
# Formats whose arguments the grammar leaves free: their special tokens, and a call as the model's template shows it.
FREE = {
    "gemma4": (
        ("<|tool_call>", "<tool_call|>", '<|"|>'),
        'call:search{limit:3,query:<|"|>a, {b}: c<|"|>}',
        "a, {b}: c",
    ),
    "function_gemma": (
        ("<start_function_call>", "<end_function_call>", "<escape>"),
        "call:search{query:<escape>a, b: c<escape>,limit:3}",
        "a, b: c",
    ),
    "minicpm5": ((), '"search"><param name="query"><![CDATA[a < b]]></param><param name="limit">3</param>', "a < b"),
    "muse_spark": (
        (),
        '\n<atem:invoke name="search">\n<atem:parameter name="query">a b</atem:parameter>\n'
        '<atem:parameter name="limit">3</atem:parameter>\n</atem:invoke>\n',
        "a b",
    ),
}

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

    tokens = FORMATS | {name: added for name, (added, _, _) in FREE.items()}
    return {name: kit(name, added) for name, added in tokens.items()}


def prepared(mode="required", several=True, tools=TOOLS):
    plan = ToolPlan(tools, tools, mode, several)
    return Prepared(
        prompt=(1,), sampling=Sampling(), max_tokens=1, stop=(), grammar=None, deadline=None, seeded=False, tools=plan
    )


def walk(kit, guide, budget, rng, ending=0.05):
    """Draw every token from the mask; end of text, where it is allowed, with the probability `ending`."""
    tokens, written = guide.start(), 0
    while not guide.finished:
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
def test_every_written_call_is_valid(kits, name, seed, budget):
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


def say(kit, guide, text, budget=500):
    """Advance a guide by this text, token by token, each of which its mask must allow; the tokens that came of it."""
    low, said = kit.store.tokenizer, b""
    while rest := text.encode()[len(said) :]:
        token = low.tokenize_str(rest.decode())[0]
        bitmask = np.full((1, kit.store.words), -1, dtype=np.int32)
        guide.fill(bitmask, 0)
        assert bitmask[0, token >> 5] >> (token & 31) & 1, (said, low.decode_str([token]))
        said += low.decode_str(guide.advance(token, budget)).encode()
        assert text.encode().startswith(said), said
    return said


@pytest.mark.parametrize("name", sorted(FREE))
def test_formats_with_free_arguments_write_and_read_the_call_of_the_template(kits, name):
    kit, (_, written, query) = kits[name], FREE[name]
    form = kit.guides._form
    guide = kit.guides.make(prepared("auto"))
    say(kit, guide, form.start + written + form.end)
    (call,) = guide.calls
    assert (call.name, dict(call.input)) == ("search", {"query": query, "limit": 3})
    guide.advance(kit.eos, 100)
    assert guide.complete


@pytest.mark.parametrize("name", sorted(FREE))
@pytest.mark.parametrize("budget", [20, 90])
def test_formats_with_free_arguments_name_a_declared_tool_and_end(kits, name, budget):
    kit = kits[name]
    names = "|".join(sorted(SCHEMAS))
    for seed in range(5):
        guide = kit.guides.make(prepared(several=False))
        text = kit.store.tokenizer.decode_str(walk(kit, guide, budget, random.Random(seed), ending=0))
        assert re.search(rf'(call:|name=")({names})[{{"]', text), text
        assert text.endswith(kit.guides._form.end)
        assert {call.name for call in guide.calls} <= set(SCHEMAS)


@pytest.mark.parametrize("name", ["gemma4", "function_gemma"])
def test_an_open_string_is_closed_when_the_budget_ends(kits, name):
    kit, (_, written, _) = kits[name], FREE[name]
    form, low = kit.guides._form, kit.store.tokenizer
    quote = FREE[name][0][2]
    start = form.start + written[: written.index(quote)]
    guide = kit.guides.make(prepared("auto"))
    say(kit, guide, start + quote + "abc")
    added = guide.advance(low.tokenize_str("d")[0], 3)
    assert low.decode_str(added) == f"d{quote}}}{form.end}"
    (call,) = guide.calls
    assert call.input["query"] == "abcd"
    assert guide.cut


@pytest.mark.parametrize("name", ["json_tools", "kimi_k2", "mistral list", "pythonic"])
@pytest.mark.parametrize("seed", [105, *range(8)])
def test_no_other_call_is_begun_when_the_budget_is_used_up(kits, name, seed):
    kit = kits[name]
    guide = kit.guides.make(prepared())
    text = kit.store.tokenizer.decode_str(walk(kit, guide, 1, random.Random(seed)))
    assert guide.complete, text
    assert len(guide.calls) == 1, text


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
    while not guide.calls and not guide.finished:
        bitmask = np.full((1, kit.store.words), -1, dtype=np.int32)
        guide.fill(bitmask, 0)
        allowed = np.nonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))[0]
        added = guide.advance(int(rng.choice(allowed[allowed < low.vocab_size])), 400)
    assert guide.calls, added
    guide.advance(kit.eos, 100)
    assert guide.finished
    assert guide.complete


def test_a_token_that_extends_beyond_the_opening_mark_is_cut(kits):
    kit = kits["json_tools"]
    low = kit.store.tokenizer
    (longer,) = [token for token in range(low.vocab_size) if low.decode_bytes([token]) == b'>{"']
    guide = kit.guides.make(prepared("auto"))
    for token in low.tokenize_str("<tool_call"):
        guide.advance(token, 500)
    added = guide.advance(longer, 500)
    assert low.decode_str(added).startswith('>\n{"name": "')


def test_a_call_that_the_budget_cannot_finish_is_not_begun(kits):
    kit = kits["qwen3_coder"]
    guide = kit.guides.make(prepared("auto"))
    guide.advance(kit.guides._form.opening[0], 12)
    assert guide.finished
    assert guide.cut
    assert not guide.calls


def test_tools_that_a_format_cannot_express_are_refused_by_name(tiny, kits):
    odd = FunctionTool(name="<odd>")
    with pytest.raises(InvalidRequestError, match="<odd>"):
        kits["glm47"].guides.make(prepared(tools=(odd,)))
    assert kits["json_tools"].guides.make(prepared(tools=(odd,)))
    dashed = FunctionTool(name="look-up")
    with pytest.raises(InvalidRequestError, match="look-up"):
        kits["function_gemma"].guides.make(prepared(tools=(dashed,)))
    assert kits["gemma4"].guides.make(prepared(tools=(dashed,)))
    added = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")
    wrapper = tiny.tokenizer(tiny.tools, added, "kimi_k3")
    low = from_tokenizer(wrapper._tokenizer, n_vocab=len(wrapper), eos_token=sorted(wrapper.eos_token_ids))
    with pytest.raises(UnsupportedFeatureError, match="Kimi K3"):
        tool_format(wrapper, low).source(TOOLS, several=True)
