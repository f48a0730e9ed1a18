"""The oracles: llguidance says what a grammar accepts, DSPy's adapters say what can be parsed and what is rendered."""

import datetime
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import random
import re
import unicodedata
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypeVar, Union

import dspy
import pydantic
import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from typing_extensions import TypedDict

from dspy_toolkit.errors import GrammarError
from dspy_toolkit.grammar import AnswerGrammar, compile_chat, compile_json
from dspy_toolkit.grammar.numbers import decimal_range, float_range, integer_range
from dspy_toolkit.grammar.rules import regex_of_number

CHAT, JSON = dspy.ChatAdapter(), dspy.JSONAdapter()


class Vocabulary:
    """Every byte, and some longer tokens that cross the borders of the grammar's pieces."""

    eos_token_id = 256
    bos_token_id = None
    extra = ("[[", "]]", " ##", "\n\n", '": ', '", "', "null", "1e", "00", "é", "\u2028", "\x85", "[[ ## ", '"]', "a b")
    tokens = [bytes([byte]) for byte in range(256)] + [b"<eos>"] + [text.encode() for text in extra]
    special_token_ids = [256]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


TOKENS = LLTokenizer(TokenizerWrapper(Vocabulary()), n_vocab=len(Vocabulary.tokens))
EOS = Vocabulary.eos_token_id


def matcher(grammar: AnswerGrammar) -> LLMatcher:
    compiled = LLMatcher.grammar_from_lark(grammar.lark)
    broken, messages = LLMatcher.validate_grammar_with_warnings(compiled, TOKENS)
    assert not broken, messages
    assert not messages
    accepted = LLMatcher(TOKENS, compiled)
    assert not accepted.is_error(), accepted.get_error()
    return accepted


def accepts(grammar: AnswerGrammar, text: str) -> bool:
    state = matcher(grammar)
    tokens = list(text.encode())
    return state.try_consume_tokens(tokens) == len(tokens) and state.is_accepting()


def allowed(state: LLMatcher) -> list[int]:
    mask = state.compute_bitmask()
    return [token for token in range(len(Vocabulary.tokens)) if mask[token // 8] >> token % 8 & 1]


CLOSERS = [ord(char) for char in '"]}'] + [EOS]


def walk(grammar: AnswerGrammar, seed: int, free: int = 40) -> str:
    """What a model without any knowledge writes: `free` random tokens, then whatever closes soonest."""
    chance, state, written = random.Random(seed), matcher(grammar), b""
    for step in range(4000):
        if state.is_stopped():
            break
        options = allowed(state)
        assert options, state.get_error()
        if step < free:
            token = chance.choice(options)
        elif state.validate_tokens(list(b"\n\n[[ ## ")) == 8:
            assert state.consume_tokens(list(b"\n\n[[ ## "))
            written += b"\n\n[[ ## "
            continue
        else:
            shut = [token for token in CLOSERS if token in options]
            quiet = [token for token in options if token < 256 and token not in b",[{\\"]
            token = shut[0] if shut else chance.choice(quiet or options)
        if token == EOS:
            break
        assert state.consume_token(token)
        written += Vocabulary.tokens[token]
    else:
        pytest.fail(f"no end after 4000 tokens: {written[-200:]!r}")
    return written.decode()


T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark blue"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    NUMBER = "12"
    TRUTH = "True"


class Point(pydantic.BaseModel):
    x: float = pydantic.Field(ge=0, le=1)
    y: int = pydantic.Field(gt=-5, lt=120)
    label: str = pydantic.Field(min_length=2, max_length=6)


class Config(pydantic.BaseModel):
    name: str = pydantic.Field(pattern=r"^[a-z]{2,5}(-\d+)?$")
    rate: float = pydantic.Field(gt=0, lt=1)
    rank: Literal[4, 8, 16] = 8
    tags: list[Color] = []
    where: Point | None = None
    limits: dict[str, float] = {}
    pair: tuple[int, bool] = (1, True)
    several: Annotated[list[int], MinLen(1), MaxLen(3)] = [1]
    when: datetime.datetime | None = None
    quoted: str = pydantic.Field(default='"', pattern=r'^["\n\\]+$')


class Node(pydantic.BaseModel):
    value: int
    children: list["Node"] = []
    next: Optional["Node"] = None


class Aliased(pydantic.BaseModel, extra="allow"):
    foo_bar: int = pydantic.Field(alias="fooBar")
    other: str = pydantic.Field(validation_alias=pydantic.AliasChoices("one", "two"))


class Pair(enum.Enum):
    LOW = (1, 2)
    HIGH = (3, 4)


class Box(pydantic.BaseModel, Generic[T]):
    content: T


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Loose(TypedDict):
    a: int
    b: NotRequired[str]
    c: NotRequired[bool]


class Triple(NamedTuple):
    a: int
    b: str


@dataclass
class Plain:
    a: int
    b: list[str]


TYPES: dict[str, Any] = {
    "str": str,
    "bounded str": Annotated[str, MinLen(3), MaxLen(8)],
    "pattern str": Annotated[str, pydantic.StringConstraints(pattern=r"^(yes|no)[0-9]{2}$")],
    "reasoning": dspy.Reasoning,
    "code": dspy.Code["python"],
    "bool": bool,
    "int": int,
    "small int": Annotated[int, Ge(-7), Le(1234)],
    "positive int": Annotated[int, Gt(0)],
    "even int": Annotated[int, Ge(0), Le(64), pydantic.Field(multiple_of=8)],
    "float": float,
    "unit float": Annotated[float, Ge(0), Le(1)],
    "open float": Annotated[float, Gt(0), Lt(0.3)],
    "tiny float": Annotated[float, Gt(0), Le(1e-6)],
    "huge float": Annotated[float, Ge(1e17)],
    "decimal": decimal.Decimal,
    "money": Annotated[decimal.Decimal, pydantic.Field(ge=0, decimal_places=2)],
    "literal": Literal["positive", "negative", "not sure"],
    "odd literal": Literal["1", 2, True, "None", "[x]", 'it\'s "so"'],
    "enum": Color,
    "int enum": Level,
    "word enum": Word,
    "optional enum": Color | None,
    "optional int": int | None,
    "optional bool": Optional[bool],  # noqa: UP045 - the old spelling has another origin
    "optional str": str | None,
    "optional bounded str": Annotated[str, MinLen(2), MaxLen(4)] | None,
    "int or str": int | str,
    "list or str": Union[list[int], str],  # noqa: UP007
    "float or literal": float | Literal["auto"],
    "int or null or list": int | list[str] | None,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "aware": pydantic.AwareDatetime,
    "naive": pydantic.NaiveDatetime,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "uuid": uuid.UUID,
    "uuid4": pydantic.UUID4,
    "bytes": bytes,
    "path": pathlib.Path,
    "ipv4": ipaddress.IPv4Address,
    "url": pydantic.HttpUrl,
    "list": list[str],
    "nested list": list[list[int]],
    "plain list": list,
    "bounded list": Annotated[list[int], MinLen(2), MaxLen(3)],
    "dict": dict[str, int],
    "int keys": dict[int, bool],
    "date keys": dict[datetime.date, float],
    "literal keys": dict[Literal["a", "b"], list[int]],
    "enum keys": dict[Color, int],
    "plain dict": dict,
    "dict of any": dict[str, Any],
    "tuple": tuple[int, str, bool],
    "open tuple": tuple[float, ...],
    "set": set[int],
    "any": Any,
    "list of any": list[Any],
    "model": Point,
    "big model": Config,
    "optional model": Point | None,
    "list of models": list[Point],
    "recursive": Node,
    "tagged union": Annotated[Cat | Dog, pydantic.Field(discriminator="kind")],
    "union of models": Cat | Dog,
    "aliases": Aliased,
    "root model": pydantic.RootModel[list[int]],
    "generic model": Box[str],
    "enum of tuples": Pair,
    "unwieldy literal": Literal["é", "日本", 'a"b', "x/y", "\\n"],
    "many labels": Literal[tuple(f"label {number}" for number in range(200))],
    "loose pattern": list[Annotated[str, pydantic.StringConstraints(pattern=r"[a-c]+\.(x|y)?$", max_length=9)]],
    "escaped pattern": Annotated[str, pydantic.StringConstraints(pattern=r'^\w+@\w+/[^\s"]+$')],
    "typed dict": Loose,
    "named tuple": Triple,
    "dataclass": Plain,
    "list of dates": list[datetime.date],
    "list of decimals": list[decimal.Decimal],
    "tool calls": dspy.ToolCalls,
}


def signature_of(annotation: Any) -> type[dspy.Signature]:
    """The type between two texts, so that both of its borders are crossed."""
    return dspy.Signature(
        {
            "question": (str, dspy.InputField()),
            "before": (str, dspy.OutputField()),
            "value": (annotation, dspy.OutputField()),
            "after": (Literal["a", "b"], dspy.OutputField()),
        }
    )


def read(adapter: dspy.Adapter, signature: type[dspy.Signature], text: str) -> dict[str, Any]:
    """Parse, and hold every value against its type and constraints."""
    values = adapter.parse(signature, text)
    for name, info in signature.output_fields.items():
        checked = pydantic.TypeAdapter(info.rebuild_annotation()).validate_python(values[name])
        assert checked == values[name]
    return values


@pytest.mark.parametrize("adapter", ["chat", "json"])
@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32), free=st.sampled_from([5, 40, 150]))
def test_everything_the_grammar_accepts_parses(name: str, adapter: str, seed: int, free: int) -> None:
    signature = signature_of(TYPES[name])
    grammar = compile_chat(signature) if adapter == "chat" else compile_json(signature)
    text = walk(grammar, seed, free)
    values = read(CHAT if adapter == "chat" else JSON, signature, text)
    assert list(values) == ["before", "value", "after"]


@pytest.mark.parametrize("name", TYPES)
def test_the_minimal_text_is_accepted_and_parses(name: str) -> None:
    signature = signature_of(TYPES[name])
    for compiled, adapter in ((compile_chat, CHAT), (compile_json, JSON)):
        grammar = compiled(signature)
        assert accepts(grammar, grammar.minimal)
        read(adapter, signature, grammar.minimal)


def rendered(adapter: dspy.Adapter, signature: type[dspy.Signature], value: Any) -> str:
    outputs = {"before": "Some text, [with] [[brackets]]\nand {braces}.", "value": value, "after": "b"}
    return adapter.format_assistant_message_content(signature, outputs).removesuffix("\n")


_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_POINTS = st.builds(Point, x=st.floats(0, 1), y=st.integers(-4, 119), label=st.text(min_size=2, max_size=6))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | _FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_ZONES = st.none() | st.integers(-12 * 60, 14 * 60).map(lambda m: datetime.timezone(datetime.timedelta(minutes=m)))
_NODES = st.recursive(
    st.builds(Node, value=st.integers(-99, 99)),
    lambda inner: st.builds(
        Node, value=st.integers(0, 9), children=st.lists(inner, max_size=2), next=st.none() | inner
    ),
    max_leaves=5,
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(),
    "bounded str": st.text(min_size=3, max_size=8),
    "pattern str": st.from_regex(r"\A(yes|no)[0-9]{2}\Z"),
    "reasoning": st.text().map(lambda text: dspy.Reasoning(content=text)),
    "code": st.text().map(lambda text: dspy.Code(code=text)),
    "bool": st.booleans(),
    "int": st.integers(-(10**17), 10**17),
    "small int": st.integers(-7, 1234),
    "positive int": st.integers(1, 10**17),
    "even int": st.sampled_from(range(0, 65, 8)),
    "float": _FLOATS,
    "unit float": st.floats(0, 1),
    "open float": st.floats(0, 0.3, exclude_min=True, exclude_max=True),
    "tiny float": st.floats(0, 1e-6, exclude_min=True),
    "huge float": st.floats(1e17, allow_infinity=False),
    "decimal": st.decimals(-(10**12), 10**12, places=4),
    "money": st.decimals(0, 10**9, places=2),
    "literal": st.sampled_from(["positive", "negative", "not sure"]),
    "enum": st.sampled_from(Color),
    "optional int": st.none() | st.integers(-999, 999),
    "optional bool": st.none() | st.booleans(),
    "optional str": st.none() | st.text(),
    "date": st.dates(),
    "datetime": st.datetimes(timezones=_ZONES),
    "naive": st.datetimes(),
    "time": st.times(),
    "timedelta": st.timedeltas(datetime.timedelta(days=-99999), datetime.timedelta(days=99999)),
    "uuid": st.uuids(),
    "uuid4": st.uuids(version=4),
    "ipv4": st.ip_addresses(v=4),
    "list": st.lists(st.text()),
    "nested list": st.lists(st.lists(st.integers(-9, 9))),
    "bounded list": st.lists(st.integers(0, 9), min_size=2, max_size=3),
    "dict": st.dictionaries(st.text(), st.integers(-9, 9)),
    "int keys": st.dictionaries(st.integers(-99, 99), st.booleans()),
    "date keys": st.dictionaries(st.dates(), _FLOATS),
    "literal keys": st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 9))),
    "enum keys": st.dictionaries(st.sampled_from(Color), st.integers(0, 9)),
    "tuple": st.tuples(st.integers(0, 9), st.text(), st.booleans()),
    "open tuple": st.lists(_FLOATS).map(tuple),
    "set": st.sets(st.integers(0, 9)),
    "list of any": st.lists(_JSON, max_size=3),
    "model": _POINTS,
    "big model": st.builds(
        Config,
        name=st.from_regex(r"\A[a-z]{2,5}(-[0-9]{1,3})?\Z"),
        rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
        rank=st.sampled_from([4, 8, 16]),
        tags=st.lists(st.sampled_from(Color)),
        where=st.none() | _POINTS,
        limits=st.dictionaries(st.text(), _FLOATS),
        pair=st.tuples(st.integers(0, 9), st.booleans()),
        several=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        when=st.none() | st.datetimes(timezones=_ZONES),
        quoted=st.text('"\n\\', min_size=1),
    ),
    "list of models": st.lists(_POINTS, max_size=3),
    "recursive": _NODES,
    "tagged union": st.builds(Cat, lives=st.integers(0, 9)) | st.builds(Dog, name=st.text()),
    "union of models": st.builds(Cat, lives=st.integers(0, 9)) | st.builds(Dog, name=st.text()),
    "named tuple": st.builds(Triple, a=st.integers(0, 9), b=st.text()),
    "dataclass": st.builds(Plain, a=st.integers(0, 9), b=st.lists(st.text())),
    "list of decimals": st.lists(st.decimals(-(10**12), 10**12, places=2), max_size=3),
    "tool calls": st.dictionaries(st.text(min_size=1), _JSON, max_size=2).map(
        lambda args: dspy.ToolCalls.from_dict_list([{"name": "search", "args": args}])
    ),
}


def survives(adapter: dspy.Adapter, signature: type[dspy.Signature], text: str, value: Any) -> bool:
    """Whether DSPy itself reads back what it rendered. What it misreads, a model should not imitate."""
    try:
        return adapter.parse(signature, text)["value"] == value
    except Exception:  # noqa: BLE001 - DSPy lets errors of json_repair and ast through
        return False


def imitable(value: Any) -> bool:
    """The documented exceptions for free text in ChatAdapter's format."""
    text = str(value) if isinstance(value, (str, dspy.Reasoning)) else getattr(value, "code", "-")
    odd = {char for char in text if unicodedata.category(char) == "Cc"} - {"\n", "\t"} | {*text} & {"\u2028", "\u2029"}
    return bool(text) and not odd and not text.startswith("[[") and not re.match(r"\{[^\"'}\d\n]", text)


@pytest.mark.parametrize("name", VALUES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_dspy_renders_is_accepted(name: str, data: st.DataObject) -> None:
    signature = signature_of(TYPES[name])
    value = data.draw(VALUES[name])
    for compiled, adapter in ((compile_chat, CHAT), (compile_json, JSON)):
        text = rendered(adapter, signature, value)
        if not survives(adapter, signature, text, value) or (adapter is CHAT and not imitable(value)):
            continue
        assert accepts(compiled(signature), text), text


@settings(max_examples=150, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(0, 10**9), st.integers(-(10**10), 10**10))
def test_integer_range(low: int, width: int, other: int) -> None:
    pattern = re.compile(integer_range(low, low + width))
    for number in (low - 1, low, low + width // 2, low + width, low + width + 1, other, 0, -low):
        assert bool(pattern.fullmatch(str(number))) == (low <= number <= low + width)
    assert not pattern.fullmatch(f"0{abs(low)}")


@settings(max_examples=150, deadline=None)
@given(st.decimals(-1000, 1000, places=4), st.decimals(0, 50, places=3), st.lists(st.decimals(-1000, 1000, places=5)))
def test_decimal_range(low: decimal.Decimal, width: decimal.Decimal, others: list[decimal.Decimal]) -> None:
    high = low + width
    pattern = re.compile(decimal_range(low, high, 6))
    step = decimal.Decimal("0.00001")
    for number in (low, high, low - step, high + step, (low + high) / 2, *others):
        text = format(number, ".6f")
        plain = text.rstrip("0").rstrip(".")
        assume(plain not in ("-0", "-"))
        for spelled in (text, plain):
            inside = low <= decimal.Decimal(spelled) <= high and not (spelled[0] == "-" and float(spelled) == 0)
            assert bool(pattern.fullmatch(spelled)) == inside, (spelled, pattern.pattern)


@settings(max_examples=150, deadline=None)
@given(_FLOATS, _FLOATS, st.lists(_FLOATS, max_size=5))
def test_float_range(one: float, two: float, others: list[float]) -> None:
    low, high = sorted((one, two))
    pattern = re.compile(float_range(decimal.Decimal(repr(low)), decimal.Decimal(repr(high))))
    for number in (low, high, math.nextafter(low, -math.inf), math.nextafter(high, math.inf), *others):
        if math.isinf(number) or (number == 0 and math.copysign(1, number) < 0):
            continue
        assert bool(pattern.fullmatch(repr(number))) == (low <= number <= high), number


class Strict(pydantic.BaseModel, strict=True):
    when: datetime.date


class Endless(pydantic.BaseModel):
    inner: "Endless"


UNCOMPILABLE: dict[str, tuple[Any, str]] = {
    "image": (dspy.Image, "Image"),
    "word boundary": (Annotated[str, pydantic.StringConstraints(pattern=r"\bword\b")], "uses at"),
    "set of two": (Annotated[set[int], MinLen(2)], "set"),
    "dict of two": (Annotated[dict[str, int], MinLen(2)], "dict"),
    "no number left": (Annotated[int, Ge(5), Le(4)], "at least 5"),
    "date bound": (Annotated[datetime.date, Ge(datetime.date(2020, 1, 1))], "ge of a date"),
    "never ends": (Endless, "nest"),
    "strict": (Strict, "cannot"),
    "regex": (re.Pattern[str], "'regex'"),
    "json in a string": (pydantic.Json[list[int]], "'application/json'"),
    "complex": (complex, "cannot read"),
    "unwritable literal": (Literal["\n"], "reads no text"),
}


@pytest.mark.parametrize("name", UNCOMPILABLE)
def test_what_cannot_be_compiled_is_named(name: str) -> None:
    annotation, reason = UNCOMPILABLE[name]
    fields = {"question": (str, dspy.InputField()), "broken": (Any, dspy.OutputField())}
    signature = dspy.Signature(fields).with_updated_fields("broken", type_=annotation)
    with pytest.raises(GrammarError) as caught:
        compile_chat(signature)
    message = str(caught.value)
    assert "broken" in message
    assert reason in message
    assert "\n" not in message


def test_a_validator_in_python_may_have_its_own_opinion() -> None:
    def reject_zero(value: int) -> int:
        if value == 0:
            raise ValueError("zero")
        return value

    annotation = Annotated[int, pydantic.AfterValidator(reject_zero)]
    grammar = compile_json(signature_of(annotation))
    assert accepts(grammar, grammar.minimal.replace(": 0", ": 7"))


@pytest.mark.parametrize(
    "text",
    [
        "x\n[[ ## after ## ]]\nb",  # one line break is enough for DSPy
        "x\n  [[ ## value ## ]] y",
        "x\n\u2003[[ ## anything ## ]]",
        "[[ ## value ## ]]",
        "x\u2028[[ ## value ## ]]",
    ],
)
def test_a_text_cannot_smuggle_a_header(text: str) -> None:
    grammar = compile_chat(signature_of(str))
    honest = grammar.minimal
    assert accepts(grammar, honest.replace("[[ ## value ## ]]\na", "[[ ## value ## ]]\nx [[ ## not a line"))
    assert not accepts(grammar, honest.replace("[[ ## value ## ]]\na", f"[[ ## value ## ]]\n{text}"))


def test_a_lone_surrogate_is_no_text() -> None:
    grammar = compile_json(signature_of(str))
    for escape, fine in (("\\ud83d", False), ("\\ud83d\\ude00", True), ("\\u00e9", True), ("\\udc00x", False)):
        assert accepts(grammar, grammar.minimal.replace('"before": ""', f'"before": "{escape}"')) == fine


def test_format_tokens_are_forced() -> None:
    """After the text's end nothing is left to choose but the label and the end of the text."""
    state = matcher(compile_chat(signature_of(bool)))
    assert state.compute_ff_bytes() == b"[[ ## before ## ]]\n"
    assert state.consume_tokens(list(b"[[ ## before ## ]]\nhi\n\n[[ ## "))
    assert state.compute_ff_bytes() == b"value ## ]]\n"
    assert state.consume_tokens(list(b"value ## ]]\nT"))
    assert state.compute_ff_bytes() == b"rue\n\n[[ ## after ## ]]\n"


def test_grammars_are_shared_by_signatures_that_differ_in_words_only() -> None:
    signature = signature_of(list[int])
    assert compile_chat(signature) is compile_chat(signature)
    assert compile_chat(signature.with_instructions("Other words.")) is compile_chat(signature)
    other = signature.with_updated_fields("value", type_=list[str])
    assert compile_chat(other) is not compile_chat(signature)
    other.fields["value"].annotation = int  # in place
    assert compile_chat(other).lark == compile_chat(signature_of(int)).lark
    bounded = signature_of(Annotated[int, Le(3)])
    assert compile_chat(bounded).lark != compile_chat(signature_of(Annotated[int, Le(4)])).lark


def test_the_order_of_a_json_object_and_its_whitespace_are_dspys() -> None:
    signature = signature_of(list[Point])
    value = [Point(x=0.5, y=3, label="ab")]
    text = rendered(JSON, signature, value)
    assert accepts(compile_json(signature), text)
    assert not accepts(compile_json(signature), json.dumps(json.loads(text)))


@settings(max_examples=150, deadline=None)
@given(
    _FLOATS, _FLOATS, st.sampled_from(["minimum", "exclusiveMinimum"]), st.sampled_from(["maximum", "exclusiveMaximum"])
)
def test_the_minimal_number_is_in_the_range(one: float, two: float, least: str, most: str) -> None:
    low, high = sorted((one, two))
    assume(math.nextafter(math.nextafter(low, math.inf), math.inf) < high)
    piece = regex_of_number({"type": "number", least: low, most: high})
    assert re.fullmatch(piece.lark[1:-1], piece.minimal)
    number = float(piece.minimal)
    assert low < number < high or (number == low and least == "minimum") or (number == high and most == "maximum")


def test_a_text_is_not_the_placeholder_that_dspy_shows():
    grammar = compile_chat(dspy.Signature("question -> answer"))
    for text, accepted in (
        ("{answer}", False),
        ("{#answer}", False),
        ("{}", True),
        ('{"a": 1}', True),
        ("a {b}", True),
    ):
        answer = f"[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"
        assert accepts(grammar, answer) is accepted, text
