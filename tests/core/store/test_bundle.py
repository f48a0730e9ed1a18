"""Bundles: what is loaded sends the same prompt byte for byte; what does not fit or is damaged is refused by name."""

import contextlib
import datetime
import decimal
import enum
import json
import threading
import uuid
from typing import Literal

import dspy
import pydantic
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dspy_toolkit.data.splits import to_examples
from dspy_toolkit.errors import BundleError, FingerprintError
from dspy_toolkit.evaluation.evaluate import evaluate
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.programs import state
from dspy_toolkit.stats.intervals import compare
from dspy_toolkit.store.bundle import load_program, read_bundle, write_bundle
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(pydantic.BaseModel):
    x: int
    label: str
    at: datetime.date | None = None


class Typed(dspy.Signature):
    """Every type a demonstration may hold."""

    text: str = dspy.InputField(desc="free text")
    when: datetime.datetime = dspy.InputField()
    point: Point = dspy.InputField()
    number: float = dspy.OutputField()
    points: list[Point] = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    kind: Literal["a", "b"] = dspy.OutputField()
    table: dict[str, int] = dspy.OutputField()
    maybe: int | None = dspy.OutputField()
    amount: decimal.Decimal = dspy.OutputField()


class Steps(dspy.Module):
    def __init__(self):
        super().__init__()
        self.plan = dspy.ChainOfThought("question -> plan: list[str]")
        self.answer = dspy.Predict("question, plan: list[str] -> answer")

    def forward(self, question):
        return self.answer(question=question, plan=self.plan(question=question).plan)


points = st.builds(
    Point, x=st.integers(-9, 9), label=st.text(max_size=6), at=st.none() | st.dates(datetime.date(1990, 1, 1))
)
demos = st.builds(
    dspy.Example,
    augmented=st.just(True),
    text=st.text(max_size=20),
    when=st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2100, 1, 1)),
    point=points,
    number=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
    points=st.lists(points, max_size=3),
    colour=st.sampled_from(Colour),
    kind=st.sampled_from(["a", "b"]),
    table=st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    maybe=st.none() | st.integers(),
    amount=st.decimals(allow_nan=False, allow_infinity=False, places=2),
)


def result_of(program, *, comparison=None, **changes):
    """A result as `optimize` makes it, around a program made by hand."""
    values = {
        "program": program, "task": "core/test", "model": "scripted/test", "optimizer": "bootstrap",
        "parameters": {"max_bootstrapped_demos": 4}, "metric": "core/exact-match", "seed": 3,
        "data_digest": "0" * 64, "rows": {"train": 4, "validation": 2, "test": 4},
        "baseline_evaluation": None, "optimized_evaluation": None, "comparison": comparison,
        "usage": Usage(lm_calls=7), "errors": (), "seconds": 1.5,
    }  # fmt: skip
    return OptimizationResult(**{**values, **changes})


def sent_by(program, inputs, adapter=None):
    """What reaches the engine: the whole prompt of every call, as text."""
    lm = ScriptedLM(lambda request: "[[ ## x ## ]]")
    chosen = adapter or dspy.ChatAdapter(use_json_adapter_fallback=False)
    # the reply does not matter here
    with dspy.context(lm=lm, adapter=chosen), contextlib.suppress(dspy.AdapterParseError):
        program(**inputs)
    return [prompt_text(request) for request in lm.engine.requests]


INPUTS = {"text": "now", "when": datetime.datetime(2024, 5, 1, 12), "point": Point(x=1, label="here")}


@given(st.lists(demos, max_size=3), st.text(max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_loaded_program_sends_the_same_prompt_byte_for_byte(tmp_path, examples, instructions):
    program = dspy.Predict(Typed)
    program.demos = examples
    program.signature = program.signature.with_instructions(instructions or "-")
    path = tmp_path / uuid.uuid4().hex
    loaded = load_program(write_bundle(path, result_of(program), example_inputs=INPUTS), lambda: dspy.Predict(Typed))
    for adapter in (dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.JSONAdapter()):
        earlier, after = sent_by(program, INPUTS, adapter), sent_by(loaded, INPUTS, adapter)
        assert earlier == after
        assert earlier
    for was, now in zip(examples, loaded.demos, strict=True):
        assert type(now.point) is Point
        assert now.point == was.point
        assert type(now.when) is datetime.datetime


def test_the_prompt_in_the_bundle_is_the_prompt_that_is_sent(tmp_path):
    program = Steps()
    program.plan.predict.demos = [dspy.Example(question="a", reasoning="r", plan=["x", "y"], augmented=True)]
    bundle = write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "why? ```"})
    text = (bundle.path / "prompt.md").read_text()
    (sent,) = sent_by(program, {"question": "why? ```"})
    for part in sent.split("\n\n"):
        assert part.strip() in text


def test_plain_dspy_loads_it_too(tmp_path):
    program = Steps()
    program.answer.demos = [dspy.Example(question="b", plan=["y"], answer="z")]
    bundle = write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "q"})
    plain = Steps()
    plain.load(bundle.path / "program.json")
    assert sent_by(plain.answer, {"question": "q", "plan": ["p"]}) == sent_by(
        program.answer, {"question": "q", "plan": ["p"]}
    )


def test_programs_of_several_predictors_keep_each_its_own(tmp_path):
    program = Steps()
    program.plan.predict.demos = [dspy.Example(question="a", reasoning="r", plan=["x"])]
    program.answer.demos = [{"question": "b", "plan": ["y"], "answer": "z"}]
    program.answer.signature = program.answer.signature.with_instructions("Be brief.")
    bundle = write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "q"})
    loaded = load_program(bundle, Steps)
    assert loaded.plan.predict.demos[0].plan == ["x"]
    assert loaded.answer.demos[0].answer == "z"
    assert loaded.answer.signature.instructions == "Be brief."


def test_incomplete_and_mistyped_demonstrations_survive(tmp_path):
    program = dspy.Predict(Typed)
    program.demos = [dspy.Example(text="only this"), dspy.Example(text="x", number="about three", extra={"note": 1})]
    loaded = load_program(
        write_bundle(tmp_path / "b", result_of(program), example_inputs=INPUTS), lambda: dspy.Predict(Typed)
    )
    assert sent_by(program, INPUTS) == sent_by(loaded, INPUTS)
    assert loaded.demos[1].number == "about three"


# --- what a bundle says and does not say


def test_no_lm_no_key_no_path_no_pickle(tmp_path):
    program = dspy.Predict("question -> answer")
    program.lm = dspy.LM(
        "openai/gpt", api_key="sk-secret", api_base="http://10.0.0.1/v1", headers={"x": "bearer-secret"}
    )
    for model in ("mlx//home/somebody/models/tiny", "mlx/~/models/tiny", "openai/http://10.0.0.1/v1", "mlx/tiny"):
        bundle = write_bundle(
            tmp_path / uuid.uuid4().hex, result_of(program, model=model), example_inputs={"question": "q"}
        )
        assert sorted(file.name for file in bundle.path.iterdir()) == [
            "README.md",
            "manifest.json",
            "program.json",
            "prompt.md",
        ]
        for file in bundle.path.iterdir():
            text = file.read_text()
            assert not any(secret in text for secret in ("secret", "10.0.0.1", "somebody", "~", str(tmp_path)))
        assert json.loads((bundle.path / "program.json").read_text())["lm"] is None
    assert program.lm is not None, "the program that was stored keeps its LM"


def test_the_manifest_says_how_it_came_to_be(tmp_path):
    program = dspy.Predict("question -> answer")
    rows = to_examples([{"question": f"q{n}", "answer": "yes"} for n in range(12)], program)
    bad = evaluate(program, rows, ExactMatch(), lm=ScriptedLM(lambda request: {"answer": "no"}))
    good = evaluate(program, rows, ExactMatch(), lm=ScriptedLM(lambda request: {"answer": "yes"}))
    for first, second, promoted in ((bad, good, True), (good, bad, False), (good, good, False)):
        result = result_of(
            program, baseline_evaluation=first, optimized_evaluation=second,
            comparison=compare(first.scores, second.scores),
        )  # fmt: skip
        bundle = write_bundle(tmp_path / uuid.uuid4().hex, result, example_inputs={"question": "q"}, parent="v1")
        manifest = json.loads((bundle.path / "manifest.json").read_text())
        assert manifest["promoted"] is promoted
        assert manifest["baseline"]["score"] == first.score.score
        assert manifest["optimized"]["n"] == 12
        assert manifest["parent"] == "v1"
        assert manifest["packages"]["dspy"] == dspy.__version__
        assert {"fingerprint", "data_digest", "metric", "optimizer", "parameters", "seed", "created", "format"} <= set(
            manifest
        )
        readme = (bundle.path / "README.md").read_text()
        assert ("It is better than the program it started from" in readme) is promoted
        assert ("It is a candidate" in readme) is not promoted
        assert read_bundle(bundle.path).manifest == bundle.manifest


# --- another signature


def test_a_changed_signature_is_refused_field_by_field(tmp_path):
    path = tmp_path / "b"
    write_bundle(
        path, result_of(dspy.Predict("question, style -> answer, score: int")), example_inputs={"question": "q"}
    )
    bundle = read_bundle(path)
    for changed, *said in [
        ("question, style -> answer, score: float", "the type of the output 'score' of 'self' was int and is float"),
        ("query, style -> answer, score: int", "the input 'question' of 'self' is gone (renamed to 'query'?)"),
        ("question, style -> answer", "the output 'score' of 'self' is gone"),
        ("question, style, tone -> answer, score: int", "the input 'tone' of 'self' is new"),
        ("style, question -> answer, score: int", "were in the order question, style and are style, question"),
    ]:  # fmt: skip
        with pytest.raises(FingerprintError) as caught:
            load_program(bundle, lambda changed=changed: dspy.Predict(changed))
        for part in said:
            assert part in str(caught.value)
        assert "core/test" in str(caught.value)
    with pytest.raises(FingerprintError, match="the predictor 'self' is gone"):
        load_program(bundle, Steps)


def test_a_changed_model_inside_a_field_is_refused(tmp_path):
    def signature(kind):
        return dspy.Signature({"q": (str, dspy.InputField()), "point": (kind, dspy.OutputField())})

    one = pydantic.create_model("Place", x=(int, ...))
    other = pydantic.create_model("Place", x=(int, ...), y=(int, ...))
    bundle = write_bundle(tmp_path / "b", result_of(dspy.Predict(signature(one))), example_inputs={"q": "q"})
    assert load_program(bundle, lambda: dspy.Predict(signature(one)))
    with pytest.raises(FingerprintError, match=r"'point' of 'self' was Place{x: int} and is Place{x: int, y: int}"):
        load_program(bundle, lambda: dspy.Predict(signature(other)))


def test_a_manifest_whose_fingerprint_was_changed_by_hand_is_refused(tmp_path):
    path = damaged(tmp_path, "manifest.json", lambda file: None)
    rewrite(path, "manifest.json", lambda manifest: manifest.update(fingerprint="0" * 12))
    with pytest.raises(FingerprintError, match="its fingerprint is another one"):
        load_program(read_bundle(path), lambda: dspy.Predict("question -> answer"))


def test_other_instructions_are_not_another_signature(tmp_path):
    changed = dspy.Signature("question -> answer", "Answer in verse.")
    bundle = write_bundle(
        tmp_path / "b", result_of(dspy.Predict("question -> answer")), example_inputs={"question": "q"}
    )
    assert load_program(bundle, lambda: dspy.Predict(changed)).signature.instructions != "Answer in verse."


# --- damage


def damaged(tmp_path, name, change):
    program = dspy.Predict("question -> answer")
    program.demos = [dspy.Example(question="a", answer="b")]
    bundle = write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "q"})
    file = bundle.path / name
    change(file)
    return bundle.path


@pytest.mark.parametrize("name", ["manifest.json", "program.json"])
@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.unlink(),
        lambda file: file.write_text(file.read_text()[:-20]),
        lambda file: file.write_text(""),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
        lambda file: file.write_text("[]"),
        lambda file: file.write_text("null"),
    ],
)
def test_a_missing_or_damaged_file_is_named(tmp_path, name, change):
    path = damaged(tmp_path, name, change)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        load_program(read_bundle(path), lambda: dspy.Predict("question -> answer"))


def rewrite(path, name, edit):
    """Change a file and make the manifest agree with it, as somebody would who builds a bundle by hand."""
    import hashlib

    document = json.loads((path / name).read_text())
    edit(document)
    (path / name).write_text(json.dumps(document))
    if name == "program.json":
        digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        rewrite(path, "manifest.json", lambda manifest: manifest["files"].update({name: digest}))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("manifest.json", lambda d: d.update(format=99), r"format 99.*Upgrade"),
        ("manifest.json", lambda d: d.pop("task"), r"damaged at task"),
        ("manifest.json", lambda d: d.update(seed="many"), r"damaged at seed"),
        ("manifest.json", lambda d: d["files"].update({"../../x": "0"}), r"none of a bundle's"),
        (
            "program.json",
            lambda d: d.update(lm={"model": "openai/x", "api_base": "http://evil"}),
            r"brings an LM",
        ),
        ("program.json", lambda d: d.clear(), r"no state for the predictor 'self'"),
        ("program.json", lambda d: d.update(demos=3), r"not what DSPy saves"),
        ("program.json", lambda d: d.pop("signature"), r"not what DSPy saves: signature"),
        ("program.json", lambda d: d["signature"].update(fields=3), r"not what DSPy saves: signature\.fields"),
        ("program.json", lambda d: d["signature"].update(instructions=5), r"not what DSPy saves: signature\.instr"),
        ("program.json", lambda d: d["signature"]["fields"][0].update(prefix=None), r"signature\.fields\.0\.prefix"),
        ("program.json", lambda d: d["signature"].update(extra="x"), r"not what DSPy saves: signature\.extra"),
        ("program.json", lambda d: d.update(demos=["x"]), r"not what DSPy saves"),
        ("program.json", lambda d: d.update(traces=[1]), r"brings traces or training rows"),
        ("program.json", lambda d: d.update(lm={}), r"brings an LM"),
        ("manifest.json", lambda d: d.update(format="2"), r"damaged at format"),
        ("manifest.json", lambda d: d.update(format=True), r"damaged at format"),
        ("manifest.json", lambda d: d.update(seed=float("nan")), r"NaN is no number in JSON"),
        ("manifest.json", lambda d: d.update(files={}), r"no sha256 of program\.json"),
    ],
)
def test_what_does_not_make_sense_is_refused(tmp_path, name, edit, message):
    path = damaged(tmp_path, name, lambda file: None)
    rewrite(path, name, edit)
    with pytest.raises(BundleError, match=message):
        load_program(read_bundle(path), lambda: dspy.Predict("question -> answer"))


STRANGERS_KEYS = (
    "config",
    "forward",
    "aforward",
    "callbacks",
    "stage",
    "__class__",
    "__dict__",
    "_compiled",
    "history",
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(STRANGERS_KEYS) | st.text(min_size=1), st.sampled_from(["x", {"api_base": "http://theirs"}, None])
)
def test_a_state_holds_nothing_but_what_a_prompt_is_made_of(key, value):
    """DSPy sets what it does not know as an attribute: an address in `config` would get the next call with its key."""
    assume(key not in {"demos", "fields", "lm", "signature", "traces", "train", "metadata"})
    program = dspy.Predict("question -> answer")
    stored = state.dump(program)
    with pytest.raises(BundleError, match="which a bundle must not"):
        state.load_plain(dspy.Predict("question -> answer"), {**stored, key: value})
    two_steps = {"first.predict": {**stored, key: value}, "metadata": stored["metadata"]}
    module = dspy.Module()
    module.first = dspy.ChainOfThought("question -> answer")
    with pytest.raises(BundleError, match="which a bundle must not"):
        state.load_plain(module, two_steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"format": 1, "format": 1}', "comes twice"), ("[" * 200_000, "damaged"), ("{" + '"a":{' * 90_000, "damaged")],
    ids=["twice", "deep list", "deep object"],
)
def test_json_that_readers_disagree_on_is_refused(tmp_path, text, message):
    path = damaged(tmp_path, "manifest.json", lambda file: None)
    (path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        read_bundle(path)


def test_a_value_json_cannot_hold_is_named_and_nothing_is_left(tmp_path):
    program = dspy.Predict("question -> answer: float")
    program.demos = [dspy.Example(question="q", answer=float("nan"))]
    with pytest.raises(BundleError, match="'answer' of self, demonstration 1 cannot be stored"):
        write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "q"})
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_would_send_another_prompt_is_not_stored(tmp_path):
    program = dspy.Predict("question -> answer")
    program.demos = [dspy.Example(question="q", answer=("a", "b"))]  # JSON has no tuples, and DSPy numbers lists
    with pytest.raises(BundleError, match="'self' would send another prompt"):
        write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "q"})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_never_replaced(tmp_path):
    program = dspy.Predict("question -> answer")
    write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "q"})
    earlier = (tmp_path / "b" / "program.json").read_bytes()
    program.demos = [dspy.Example(question="a", answer="b")]
    with pytest.raises((BundleError, FileExistsError)):
        write_bundle(tmp_path / "b", result_of(program), example_inputs={"question": "q"})
    assert (tmp_path / "b" / "program.json").read_bytes() == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_run_without_a_program_has_nothing_to_store(tmp_path):
    with pytest.raises(BundleError, match="found no program"):
        write_bundle(tmp_path / "b", result_of(None), example_inputs={})


def test_a_reader_sees_a_whole_bundle_or_none(tmp_path):
    program = dspy.Predict("question -> answer")
    result = result_of(program)
    seen = []
    process = threading.Event()

    def look():
        while not process.is_set():
            for path in tmp_path.glob("[!.]*"):
                seen.append(len(list(path.iterdir())))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(20):
        write_bundle(tmp_path / f"b{number}", result, example_inputs={"question": "q"})
    process.set()
    reader.join()
    assert set(seen) <= {4}
