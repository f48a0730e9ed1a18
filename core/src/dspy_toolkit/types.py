"""What hooks yield: frozen, keyword-only entries that are cheap to make.

An entry holds names and *references*, never a loaded model or an imported module. A reference is either a dotted
name, `"package.module:attribute"`, imported when it is first needed, or the object itself. Names are qualified by the
project that contributes them: the task `hyperparameters` of the project `lora` is `lora/hyperparameters`.
"""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dspy_toolkit.errors import PluginError

__all__ = [
    "Check",
    "Entry",
    "MetricEntry",
    "MigrationEntry",
    "OptimizerEntry",
    "ProviderEntry",
    "Reference",
    "SignatureEntry",
    "TaskData",
    "TaskEntry",
    "resolve",
]

Reference = str | Callable[..., Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_RESERVED_TASK = re.compile(r"aliases|v[0-9]+", re.IGNORECASE)  # what the store calls its own folders
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")


def resolve(reference: Reference) -> Any:
    """Return the object a reference stands for, importing its module if it is a dotted name.

    Raises PluginError if the module cannot be imported or has no such attribute.
    """
    if not isinstance(reference, str):
        return reference
    module_name, _, path = reference.partition(":")
    try:
        target = importlib.import_module(module_name)
        for attribute in path.split("."):
            target = getattr(target, attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"The reference {reference!r} of a plugin leads nowhere: {error}") from error
    return target


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Base of all entries.

    `name` is unique within its project and kind: letters, digits, `_`, `.` and `-`.
    `summary` is one line, shown by the command line and the generated docs.
    """

    name: str
    summary: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise PluginError(
                f"{type(self).__name__} has the name {self.name!r}; a name is letters, digits, '_', '.' and '-', "
                "without the project in front."
            )
        for attribute in self.references():
            value = getattr(self, attribute)
            if value is None or callable(value):
                continue
            if not isinstance(value, str) or not _DOTTED.match(value):
                raise PluginError(
                    f"{type(self).__name__} {self.name!r} has {attribute}={value!r}; "
                    "expected 'package.module:attribute' or the object itself."
                )

    @classmethod
    def references(cls) -> tuple[str, ...]:
        """The names of the fields that hold references."""
        return ()


@dataclass(frozen=True, kw_only=True)
class SignatureEntry(Entry):
    """A typed `dspy.Signature` class that programs of any project can use by name."""

    signature: Reference

    @classmethod
    def references(cls) -> tuple[str, ...]:
        return ("signature",)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The rows of a task, as plain dictionaries from field name to value.

    The three sets must be disjoint; the toolkit refuses a task whose test rows occur in the others. `train` is what
    demonstrations are made from, `validation` what candidates are compared on, `test` what only the final scores use.
    """

    train: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    test: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TaskEntry(Entry):
    """A program, its data, its metric and sensible defaults under one name: what the command line and server address.

    `program`: reference to a factory, `() -> dspy.Module`. Called for every fresh program; must not load a model.
    `data`: reference to a factory, `() -> TaskData`. Called once per run; must be deterministic.
    `metric`: name of a metric, `project/name`, or `name` if it is of the same project.
    `optimizer`: name of the default optimizer; `optimizer_params` its default parameters.
    `rows`: how many rows a run draws (by its seed) from each set by default, for example `{"train": 12, "test": 16}`;
        a set that is not named is used whole.
    `files`: reference to `(inputs: Mapping, prediction: dspy.Prediction) -> Mapping[str, str]`: the files a user would
        continue with, from file name to text. None if the task makes no files.
    `example_inputs`: input values that show the task; None takes the first test row's inputs.
    """

    program: Reference
    data: Reference
    metric: str
    optimizer: str = "bootstrap"
    optimizer_params: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    files: Reference | None = None
    example_inputs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if _RESERVED_TASK.fullmatch(self.name):
            raise PluginError(f"A task has the name {self.name!r}, which the store of programs uses itself.")

    @classmethod
    def references(cls) -> tuple[str, ...]:
        return ("program", "data", "files")


@dataclass(frozen=True, kw_only=True)
class MetricEntry(Entry):
    """A metric by name.

    `metric`: reference to a callable
        `(gold: dspy.Example, pred: dspy.Prediction, trace=None, pred_name=None, pred_trace=None)`
        that returns a `dspy.Prediction(score=..., feedback=...)`: the score is a float from 0 to 1, the feedback a
        sentence that says why (GEPA reads it, and so do people). It is called from several threads at once. With a
        method `check(rows)` it can refuse, before any LM call, rows and machines that it cannot score on.
    `doctor`: reference to `() -> Iterable[Check]`: whether what the metric needs works on this machine. May be None.
    """

    metric: Reference
    doctor: Reference | None = None

    @classmethod
    def references(cls) -> tuple[str, ...]:
        return ("metric", "doctor")


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Entry):
    """An optimizer by name.

    `optimizer`: reference to a subclass of `dspy_toolkit.optimize.optimizer.Optimizer`, an instance of one, or a
        function `(job: OptimizerJob, *, <parameters>) -> dspy.Module`. The fields of its `Params` (of a function: the
        keyword-only parameters, with annotations and defaults) are its documented parameters: the command line and the
        settings file check values against them.
    """

    optimizer: Reference

    @classmethod
    def references(cls) -> tuple[str, ...]:
        return ("optimizer",)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of `doctor`: what was looked at, whether it is fine, what was found, what to do if it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class ProviderEntry(Entry):
    """A way to turn a model string into an LM. The name is the part before the slash: `mlx` of `mlx/smollm2-135m`.

    `connect`: reference to `(model: str, **options) -> dspy.LM`. Gets the whole model string. Options are the ones of
        `dspy.LM` (temperature, max_tokens, cache, ...). Two calls with one model string share what is expensive.
        Raises ModelError with the remedy when the model cannot be had.
    `models`: reference to `() -> Iterable[str]`: model strings that work here without a download. May be None.
    `doctor`: reference to `() -> Iterable[Check]`: what of this provider works on this machine. May be None.
    """

    connect: Reference
    models: Reference | None = None
    doctor: Reference | None = None

    @classmethod
    def references(cls) -> tuple[str, ...]:
        return ("connect", "models", "doctor")


@dataclass(frozen=True, kw_only=True)
class MigrationEntry(Entry):
    """How a stored program of a task moves from one version of its signatures to the next.

    `task`: the task's name within this project. `source` and `target`: fingerprints, as `dspy-toolkit validate` prints.
    `migrate`: reference to `(state: dict) -> dict`: takes DSPy's program state made for `source`, returns `target`'s.
    """

    task: str
    source: str
    target: str
    migrate: Reference

    @classmethod
    def references(cls) -> tuple[str, ...]:
        return ("migrate",)
