"""What is wrong with a signature, or with the signatures of a program, before a model finds out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import dspy
from pydantic.fields import FieldInfo

from dspy_toolkit.compat.programs import IS_TYPE_UNDEFINED
from dspy_toolkit.grammar import problems
from dspy_toolkit.signatures.fingerprints import fingerprint

__all__ = ["Finding", "Report", "validate"]

Signature = type[dspy.Signature]

# Predict takes these for itself, so that an input of the name never arrives.
_TAKEN_INPUTS = frozenset({"config", "demos", "lm", "new_signature", "signature"})
# `prediction.items` is a method; an output of the name is only reachable as prediction["items"].
_TAKEN_OUTPUTS = frozenset(name for name in dir(dspy.Prediction) if not name.startswith("_"))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to change. `field` is the field's name, with its predictor in front in a program of several;
    "" if it is about the whole signature. An error keeps the signature from working, a warning from working well.
    """

    severity: Literal["error", "warning"]
    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {f'{self.field}: ' if self.field else ''}{self.message} {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `validate` found, errors first. Iterates over the findings."""

    fingerprint: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)


def validate(target: Signature | dspy.Module) -> Report:
    """Check a signature, or every predictor of a program. Calls no model."""
    if isinstance(target, type):
        findings = list(_signature(target))
    else:
        predictors = target.named_predictors()
        findings = [] if predictors else [_no_predictor()]
        for name, predictor in predictors:
            prefix = f"{name}." if len(predictors) > 1 else ""
            findings += _signature(predictor.signature, prefix)  # type: ignore[arg-type]
    findings.sort(key=lambda finding: finding.severity)
    return Report(fingerprint=fingerprint(target), findings=tuple(findings))


def _no_predictor() -> Finding:
    return Finding(
        severity="warning",
        field="",
        message="The program has no predictor, so there is nothing to optimize.",
        remedy="Assign its dspy.Predict (or other modules) to attributes in __init__.",
    )


def _signature(signature: Signature, prefix: str = "") -> Iterator[Finding]:
    whole = prefix.rstrip(".")
    if not signature.output_fields:
        yield Finding(
            severity="error",
            field=whole,
            message=f"{signature.__name__} has no output field.",
            remedy="Add one with dspy.OutputField.",
        )
    if not signature.input_fields:
        yield Finding(
            severity="warning",
            field=whole,
            message=f"{signature.__name__} has no input field, so every call asks the same.",
            remedy="Add one with dspy.InputField.",
        )
    if signature.instructions == dspy.make_signature(dict(_bare(signature))).instructions:
        yield Finding(
            severity="warning",
            field=whole,
            message=f"{signature.__name__} has no instructions.",
            remedy="Say in its docstring what is to be done.",
        )
    for name, info in signature.fields.items():
        yield from _field(name, info, prefix)
    yield from _alike(signature, prefix)
    if signature.output_fields:
        yield from _types(signature, prefix)


def _bare(signature: Signature) -> Iterator[tuple[str, tuple[type, FieldInfo]]]:
    for names, make in ((signature.input_fields, dspy.InputField), (signature.output_fields, dspy.OutputField)):
        for name in names:
            yield name, (str, make())


def _field(name: str, info: FieldInfo, prefix: str) -> Iterator[Finding]:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    is_output = extra.get("__dspy_field_type") == "output"
    # ChainOfThought's own field has none and needs none.
    if extra.get("desc") in (None, "", f"${{{name}}}") and name != "reasoning":
        yield Finding(
            severity="warning",
            field=prefix + name,
            message="It has no description.",
            remedy=f'Give one: dspy.{"Output" if is_output else "Input"}Field(desc="...").',
        )
    if extra.get(IS_TYPE_UNDEFINED):
        yield Finding(
            severity="warning",
            field=prefix + name,
            message="It has no type, so str is assumed.",
            remedy=f"Write the type, as in `{name}: str`.",
        )
    if name in (_TAKEN_OUTPUTS if is_output else _TAKEN_INPUTS):
        taken = "a method of dspy.Prediction" if is_output else "an argument of dspy.Predict"
        yield Finding(
            severity="error",
            field=prefix + name,
            message=f"Its name is {taken}, which hides it.",
            remedy="Rename it.",
        )
    if name == "completed":
        yield Finding(
            severity="error",
            field=prefix + name,
            message="`[[ ## completed ## ]]` is how ChatAdapter ends an answer.",
            remedy="Rename it.",
        )
    if name == "logprobs" and is_output:
        yield Finding(
            severity="warning",
            field=prefix + name,
            message="DSPy puts the token probabilities under this name when they are asked for.",
            remedy="Rename it.",
        )


def _alike(signature: Signature, prefix: str) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name in signature.fields:
        plain = name.replace("_", "").lower()
        if plain in seen:
            yield Finding(
                severity="warning",
                field=prefix + name,
                message=f"Its name is almost that of {seen[plain]!r}; a model will mix them up.",
                remedy="Rename one of them.",
            )
        seen.setdefault(plain, name)


def _types(signature: Signature, prefix: str) -> Iterator[Finding]:
    for name, reason in problems(signature).items():
        yield Finding(
            severity="error",
            field=prefix + name if name else prefix.rstrip("."),
            message=reason,
            remedy="Change its type, or use a plain dspy adapter and a model that is not held to a grammar.",
        )
