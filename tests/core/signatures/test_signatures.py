"""Templates are sound, names are found, fingerprints change when they must and only then."""

import enum
import inspect
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import dspy
import pydantic
import pytest

from dspy_toolkit import signatures
from dspy_toolkit.errors import DuplicateNameError, PluginError, SignatureError, UnknownNameError
from dspy_toolkit.hookspecs import hookimpl
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.signatures import (
    ClassificationSignature,
    OptimizationSignature,
    QASignature,
    SignatureRegistry,
    classification_into,
    fingerprint,
    templates,
    validate,
)
from dspy_toolkit.types import SignatureEntry

TEMPLATES = [getattr(templates, name) for name in templates.__all__ if inspect.isclass(getattr(templates, name))]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.__name__)
def test_a_template_has_nothing_to_complain_about(template: type[dspy.Signature]) -> None:
    assert [str(finding) for finding in validate(template)] == []


def test_public_names_are_sorted_and_there() -> None:
    for module in (signatures, templates):
        assert module.__all__ == sorted(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name)


def test_every_template_is_contributed() -> None:
    names = PluginManager(entry_points=False).entries(SignatureEntry)
    assert {f"core/{template.__name__}" for template in TEMPLATES} == set(names)


def test_a_template_can_be_extended() -> None:
    class Tuning(OptimizationSignature):
        """Tune it."""

        rate: float = dspy.OutputField(desc="the learning rate", gt=0, lt=1)

    assert list(Tuning.output_fields) == ["rationale", "rate"]
    assert validate(Tuning).findings == ()


def test_classification_into() -> None:
    signature = classification_into("spam", "ham")
    assert signature.output_fields["label"].annotation == Literal["spam", "ham"]
    assert signature.instructions == ClassificationSignature.instructions
    assert validate(signature).findings == ()
    for labels in ((), ("one",), ("a", "a")):
        with pytest.raises(SignatureError, match="at least two"):
            classification_into(*labels)


# --- the registry


class Weather:
    """A plugin as an object: hooks are its methods."""

    @staticmethod
    @hookimpl
    def toolkit_signatures() -> list[SignatureEntry]:
        return [
            SignatureEntry(name="Forecast", summary="s", signature=FORECAST),
            SignatureEntry(name="QASignature", summary="s", signature=FORECAST),
            SignatureEntry(name="Lost", summary="s", signature="no_such_module:Lost"),
            SignatureEntry(name="Odd", summary="s", signature="json:dumps"),
        ]


FORECAST = dspy.Signature("readings -> forecast")


@pytest.fixture
def registry() -> SignatureRegistry:
    plugins = PluginManager(entry_points=False)
    plugins.register(Weather, project="weather", distribution="weather-dist")
    return SignatureRegistry(plugins)


def test_lookup(registry: SignatureRegistry) -> None:
    assert registry.get("core/QASignature") is QASignature
    assert registry.get("weather/Forecast") is registry.get("Forecast") is FORECAST
    assert registry.get("QASignature", project="core") is QASignature
    with pytest.raises(DuplicateNameError, match=r"core/QASignature.*weather/QASignature"):
        registry.get("QASignature")
    with pytest.raises(UnknownNameError, match="Forecast") as caught:
        registry.get("weather/Forcast")
    assert caught.value.known[0] == "weather/Forecast"
    with pytest.raises(PluginError, match="no_such_module"):
        registry.get("Lost")
    with pytest.raises(PluginError, match="expected a subclass"):
        registry.get("weather/Odd")


def test_registered_at_run_time(registry: SignatureRegistry) -> None:
    mine = dspy.Signature("a -> b")
    registry.register_project("mine", {"Mine": mine})
    registry.register_project("core", {"QASignature": mine})
    assert registry.get("mine/Mine") is registry.get("Mine") is mine
    assert registry.get("core/QASignature") is mine
    assert registry.get_project_signatures("mine") == {"Mine": mine}
    assert registry.get_project_signatures("core")["QASignature"] is mine
    assert registry.get_project_signatures("core")["RankingSignature"] is templates.RankingSignature
    registry.register_project("mine", [QASignature])
    assert set(registry.get_project_signatures("mine")) == {"Mine", "QASignature"}
    with pytest.raises(DuplicateNameError):
        registry.get("QASignature")
    assert registry.get("QASignature", project="mine") is QASignature
    with pytest.raises(UnknownNameError, match="mine"):
        registry.get_project_signatures("mines")
    with pytest.raises(UnknownNameError, match="mine/Mine"):
        registry.get("mine/Mines")


def test_what_cannot_be_registered(registry: SignatureRegistry) -> None:
    with pytest.raises(SignatureError, match="expected a subclass"):
        registry.register_project("mine", {"Bad": str})  # type: ignore[dict-item]
    with pytest.raises(SignatureError, match="'a/b'"):
        registry.register_project("a/b", [])
    with pytest.raises(SignatureError, match="one class name"):
        registry.register_project("mine", [FORECAST, dspy.Signature("a -> b")])


def test_all_signatures() -> None:
    registry = SignatureRegistry(PluginManager(entry_points=False))
    registry.register_project("a", {"B": FORECAST})
    everything = registry.get_all_signatures()
    assert list(everything) == sorted(everything)
    assert everything["a/B"] is FORECAST
    assert everything["core/QASignature"] is QASignature


# --- fingerprints


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Config(pydantic.BaseModel):
    """Words that may change."""

    rank: int = 8
    inner: Optional["Config"] = None
    levels: list[Level] = []


@dataclass
class Pair:
    a: int
    b: str


def base() -> type[dspy.Signature]:
    class Base(dspy.Signature):
        """Do it."""

        question: str = dspy.InputField(desc="q")
        config: Config = dspy.OutputField(desc="c")
        level: Literal["a", "b"] = dspy.OutputField(desc="l")

    return Base


def test_the_fingerprint_ignores_what_optimizers_change() -> None:
    expected = fingerprint(base())
    assert len(expected) == 12
    assert fingerprint(base()) == expected
    assert fingerprint(base().with_instructions("Other.")) == expected
    assert fingerprint(base().with_updated_fields("config", desc="other")) == expected
    predict = dspy.Predict(base())
    predict.demos = [{"question": "?"}]
    assert fingerprint(predict) == expected


@pytest.mark.parametrize(
    "changed",
    [
        base().delete("level"),
        base().append("more", dspy.OutputField(), str),
        base().delete("question").append("question", dspy.OutputField(), str),
        base().with_updated_fields("level", type_=Literal["b", "a"]),
        base().with_updated_fields("level", type_=Literal["a", "c"]),
        base().with_updated_fields("level", type_=str),
        base().with_updated_fields("config", type_=list[Config]),
        dspy.Signature({name: (info.annotation, info) for name, info in reversed(base().fields.items())}),
    ],
)
def test_the_fingerprint_sees_fields_and_types(changed: type[dspy.Signature]) -> None:
    assert fingerprint(changed) != fingerprint(base())


def test_the_fingerprint_sees_into_types() -> None:
    def of(annotation: Any) -> str:
        return fingerprint(dspy.Signature({"a": (str, dspy.InputField()), "b": (annotation, dspy.OutputField())}))

    def model(**fields: Any) -> type:
        return pydantic.create_model("Thing", **fields)

    assert of(model(a=(int, 1))) == of(model(a=(int, pydantic.Field(2, description="words", ge=0))))
    assert of(model(a=(int, 1))) != of(model(a=(float, 1)))
    assert of(model(a=(int, 1))) != of(model(b=(int, 1)))
    assert of(enum.Enum("E", {"A": 1})) != of(enum.Enum("E", {"A": 2}))
    assert of(Optional[int]) == of(int | None) == of(Union[int, None])  # noqa: UP007, UP045
    assert of(Literal[1]) != of(Literal["1"])
    assert of(list[Pair]) != of(list[dict])
    assert of(Config) == of(Config)


def test_the_fingerprint_of_a_program() -> None:
    class Program(dspy.Module):
        def __init__(self, second: str = "b") -> None:
            super().__init__()
            self.first = dspy.ChainOfThought(base())
            setattr(self, second, dspy.Predict("x -> y"))

    assert fingerprint(Program()) == fingerprint(Program())
    assert fingerprint(Program()) != fingerprint(Program("c"))


def test_the_fingerprint_is_stable() -> None:
    """Written down, because stored bundles carry it: when this fails, every stored program is refused."""
    assert fingerprint(QASignature) == "5de547d95b7b"
    assert fingerprint(base()) == "8aac7576c962"


def test_a_program_may_be_anything() -> None:
    report = validate(dspy.Module())
    assert report.ok
    assert "no predictor" in report.findings[0].message
