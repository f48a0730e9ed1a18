"""Every finding is provoked by a signature that has just that, and DSPy is asked whether it really goes wrong."""

from typing import Annotated, Any

import dspy
import pytest
from annotated_types import MinLen

from dspy_toolkit.signatures import Finding, fingerprint, validate
from dspy_toolkit.testing import ScriptedLM

Fields = dict[str, tuple[Any, Any]]

GOOD: Fields = {
    "question": (str, dspy.InputField(desc="what is asked")),
    "answer": (str, dspy.OutputField(desc="what is answered")),
}


def findings(fields: Fields, instructions: str = "Answer.") -> list[Finding]:
    return list(validate(dspy.Signature(fields, instructions)))


def only(found: list[Finding]) -> tuple[str, str]:
    assert len(found) == 1, [str(one) for one in found]
    assert found[0].remedy
    return found[0].severity, found[0].field


def test_a_good_signature() -> None:
    report = validate(dspy.Signature(GOOD, "Answer."))
    assert report.ok
    assert report.findings == ()
    assert report.fingerprint == fingerprint(dspy.Signature(GOOD))


def test_no_description() -> None:
    assert only(findings(GOOD | {"answer": (str, dspy.OutputField())})) == ("warning", "answer")


def test_no_instructions() -> None:
    assert only(list(validate(dspy.Signature(GOOD)))) == ("warning", "")


def test_no_type() -> None:
    report = validate(dspy.Signature("question -> answer"))
    # DSPy keeps a note of it for inputs only.
    assert [finding.field for finding in report if "no type" in finding.message] == ["question"]
    assert report.ok


def test_no_output_and_no_input() -> None:
    assert only(findings({"question": GOOD["question"]})) == ("error", "")
    assert only(findings({"answer": GOOD["answer"]})) == ("warning", "")


@pytest.mark.parametrize("name", ["items", "get", "completions", "labels", "toDict"])
def test_an_output_hidden_by_a_method(name: str) -> None:
    signature = dspy.Signature(GOOD | {name: (str, dspy.OutputField(desc="d"))}, "Answer.")
    assert only(list(validate(signature))) == ("error", name)
    lm = ScriptedLM(lambda _: {"answer": "a", name: "text"}, cache=False)
    with dspy.context(lm=lm):
        assert getattr(dspy.Predict(signature)(question="?"), name) != "text"


@pytest.mark.parametrize("name", ["config", "demos", "lm"])
def test_an_input_that_predict_takes_for_itself(name: str) -> None:
    assert only(findings(GOOD | {name: (str, dspy.InputField(desc="d"))})) == ("error", name)


def test_the_end_marker() -> None:
    assert only(findings(GOOD | {"completed": (bool, dspy.OutputField(desc="d"))})) == ("error", "completed")


def test_names_that_differ_in_spelling_only() -> None:
    found = findings(GOOD | {"Question": (str, dspy.OutputField(desc="d"))})
    assert only(found) == ("warning", "Question")
    assert "'question'" in found[0].message


def test_types_that_cannot_be_read() -> None:
    for annotation in (dspy.Image, Annotated[set[int], MinLen(2)], complex):
        fields = GOOD | {"odd": (annotation, dspy.OutputField(desc="d"))}
        found = findings(fields)
        assert only(found) == ("error", "odd")
        assert "grammar" in found[0].message or "DSPy cannot read" in found[0].message


def test_errors_come_first() -> None:
    found = findings({"question": (str, dspy.InputField()), "items": (str, dspy.OutputField())}, "Answer.")
    assert [one.severity for one in found] == ["error", "warning", "warning"]


def test_a_program_names_the_predictor() -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plan = dspy.Predict(dspy.Signature(GOOD, "Plan."))
            self.act = dspy.ChainOfThought(dspy.Signature(GOOD | {"items": (str, dspy.OutputField(desc="d"))}, "Act."))

    report = validate(Program())
    assert not report.ok
    assert report.fingerprint == fingerprint(Program())
    assert "act.predict.items" in {finding.field for finding in report}
    assert not any(finding.field.startswith("plan.") for finding in report)
    assert [
        finding.field for finding in validate(dspy.Predict("question -> items")) if finding.severity == "error"
    ] == ["items"]


def test_chain_of_thought_adds_a_field_without_blame() -> None:
    """`reasoning` comes from DSPy, with its own description."""
    assert list(validate(dspy.ChainOfThought(dspy.Signature(GOOD, "Answer.")))) == []
