"""What an optimizer is, finding one by name, and checking its parameters.

optimizer = load_optimizer(find_optimizer(plugins, "bootstrap").entry)
params = parse_params(optimizer, {"max_rounds": "2"}, name="bootstrap")
program = optimizer.compile(job, params)
"""

import inspect
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Union, get_args, get_origin

import dspy
from pydantic import BaseModel, create_model
from pydantic.errors import PydanticUserError

from dspy_toolkit.compat.optimizers import Teleprompter
from dspy_toolkit.errors import OptimizationError, PluginError, UnknownNameError
from dspy_toolkit.optimize.job import OptimizerJob
from dspy_toolkit.optimize.params import OptimizerParams, parameter_values, parse_params
from dspy_toolkit.optimize.planning.forecast import Forecast, TrainingScores
from dspy_toolkit.optimize.teleprompter import TeleprompterOptimizer
from dspy_toolkit.plugins import Found, PluginManager
from dspy_toolkit.types import OptimizerEntry, resolve

__all__ = [
    "FunctionOptimizer",
    "Optimizer",
    "OptimizerParams",
    "as_optimizer",
    "find_optimizer",
    "load_optimizer",
    "named_optimizer",
    "optimizer_name",
    "parameter_values",
    "parse_params",
]


class Optimizer(Protocol):
    """Searches for a better program. Inherit from it and write `compile`; the rest has defaults.

    `Params` holds the documented parameters; `params` is always an instance of it. Only `compile` may call an LM.
    """

    Params: Any = OptimizerParams
    """A subclass of OptimizerParams; the class's docstring lists its fields."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "Params" in vars(cls) and _is_model(cls.Params):
            cls.__doc__ = "\n".join([inspect.getdoc(cls) or "", "", "Parameters:", *_parameter_lines(cls.Params)])

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def check(self, job: OptimizerJob, params: Any) -> None:
        """Raise a ToolkitError if the run would be pointless; called before the run makes any LM call."""

    def forecast(self, job: OptimizerJob, scores: TrainingScores, params: Any) -> Forecast | None:
        """What `compile` will ask for, given what was measured (`scores` is empty where nothing was).

        None: unknown; the optimizer works as well, only a plan cannot speak of its search. May be called several times.
        """
        return None

    def rollouts_per_row(self, params: Any) -> float:
        """How often the program that `compile` returns asks the LM, over how often the original does."""
        return 1.0

    def compile(self, job: OptimizerJob, params: Any) -> dspy.Module:
        """The best program. It must not change `job.program`; the test rows are not in the job."""
        ...


DSPY_NAMES = {
    "bettertogether": "core/better-together",
    "bootstrapfewshot": "core/bootstrap",
    "bootstrapfewshotwithrandomsearch": "core/random-search",
    "bootstraprs": "core/random-search",
    "copro": "core/copro",
    "ensemble": "core/ensemble",
    "gepa": "core/gepa",
    "knnfewshot": "core/knn",
    "labeledfewshot": "core/labeled",
    "miprov2": "core/mipro",
    "simba": "core/simba",
}
"""DSPy's class names, lower case, and what does the same here."""


def find_optimizer(plugins: PluginManager, name: str, *, project: str | None = None) -> Found[OptimizerEntry]:
    """The optimizer called `name`: `bootstrap`, `core/bootstrap`, or DSPy's own name `BootstrapFewShot`, in any case.

    Raises UnknownNameError, closest first, or DuplicateNameError.
    """
    entries = plugins.entries(OptimizerEntry)
    requested = DSPY_NAMES.get(name.lower(), name)
    try:
        return plugins.get(OptimizerEntry, requested, project=project)
    except UnknownNameError:
        same = [
            qualified
            for qualified in entries
            if requested.lower() in (qualified.lower(), qualified.partition("/")[2].lower())
        ]
        if len(same) == 1:
            return entries[same[0]]
        names = {registered.entry.name for registered in entries.values()} | set(entries)
        raise UnknownNameError("optimizer", name, names) from None


def _is_model(params: Any) -> bool:
    return inspect.isclass(params) and issubclass(params, BaseModel)


def _parameter_lines(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"    {name}: {_type_text(field.annotation)} = {field.get_default(call_default_factory=True)!r}"
        yield from textwrap.wrap(field.description or "", 100, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _type_text(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(map(_type_text, get_args(annotation)))
    if annotation is types.NoneType:
        return "None"
    is_plain = inspect.isclass(annotation) and not get_args(annotation)
    return annotation.__name__ if is_plain else str(annotation).replace("typing.", "")


def load_optimizer(entry: OptimizerEntry) -> Optimizer:
    """The optimizer of an entry. Raises PluginError for a reference that leads nowhere."""
    return as_optimizer(resolve(entry.optimizer), name=entry.name)


def named_optimizer(plugins: PluginManager, optimizer: Any) -> tuple[str, Optimizer]:
    """An optimizer and its name, from a name (see `find_optimizer`) or from what `as_optimizer` takes."""
    if isinstance(optimizer, str):
        entry = find_optimizer(plugins, optimizer).entry
        return entry.name, load_optimizer(entry)
    name = optimizer_name(optimizer)
    return name, as_optimizer(optimizer, name=name)


def optimizer_name(optimizer: Any) -> str:
    """The name itself, or that of the function, of the class, or of the instance's class."""
    return optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", type(optimizer).__name__)


def as_optimizer(optimizer: Any, *, name: str = "") -> Optimizer:
    """An Optimizer from an instance, its class, one of DSPy's, or a function `(job, *, <parameters>) -> dspy.Module`.

    Raises OptimizationError for anything else, PluginError for a function with a parameter that has no annotation or no
    default.
    """
    if hasattr(optimizer, "Params") and hasattr(optimizer, "compile"):
        if not _is_model(optimizer.Params):
            raise OptimizationError(
                f"The optimizer {name!r} has Params = {optimizer.Params!r}; expected a subclass of OptimizerParams."
            )
        instance: Any = optimizer() if inspect.isclass(optimizer) else optimizer
        return instance
    if isinstance(optimizer, Teleprompter):
        return TeleprompterOptimizer(optimizer)
    if not callable(optimizer) or (inspect.isclass(optimizer) and issubclass(optimizer, Teleprompter)):
        raise OptimizationError(
            f"The optimizer {name!r} is {optimizer!r}; expected an Optimizer, an instance of one of DSPy's, or a "
            "function of an OptimizerJob."
        )
    function: Any = optimizer
    return FunctionOptimizer(function, name=name or optimizer_name(optimizer))


class FunctionOptimizer(Optimizer):
    """A function as an Optimizer: its keyword-only parameters are the parameters."""

    def __init__(self, function: Callable[..., dspy.Module], *, name: str):
        self.function = function
        self.__name__ = name
        self.Params = _params_of(function, name)

    def __repr__(self) -> str:
        return f"FunctionOptimizer({self.__name__})"

    def compile(self, job: OptimizerJob, params: Any) -> dspy.Module:
        return self.function(job, **parameter_values(params))


def _params_of(function: Callable[..., Any], name: str) -> type[OptimizerParams]:
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if inspect.Parameter.empty in (parameter.annotation, parameter.default):
            raise PluginError(
                f"The parameter {parameter.name!r} of the optimizer {name!r} needs an annotation and a default."
            )
        fields[parameter.name] = (parameter.annotation, parameter.default)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a parameter `copy` or `json` hides a method nobody calls
            return create_model(f"{name}.Params", __base__=OptimizerParams, **fields)
    except (NameError, PydanticUserError) as error:
        raise PluginError(f"The parameters of the optimizer {name!r} cannot be checked: {error}") from error
