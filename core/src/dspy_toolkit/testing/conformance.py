"""`check_plugin("lora")`: everything the toolkit expects of a plugin, checked in one line of the plugin's own tests.

What is checked: it is found by its entry point and loads; its hooks module imports nothing heavy; every reference leads
somewhere; signatures are signatures and valid; tasks make programs, and data that fits them, in disjoint sets of plain
values; metrics score an empty prediction instead of raising; optimizers have checkable parameters; providers' hooks
return what they should. No model is loaded: `connect` is not called.
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dspy

from dspy_toolkit.data.splits import Splits, prepare
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.optimizer import (
    FunctionOptimizer,
    as_optimizer,
    find_optimizer,
    load_optimizer,
    parameter_values,
    parse_params,
)
from dspy_toolkit.plugins import Found, PluginManager
from dspy_toolkit.types import (
    Check,
    Entry,
    MetricEntry,
    MigrationEntry,
    OptimizerEntry,
    ProviderEntry,
    SignatureEntry,
    TaskData,
    TaskEntry,
    resolve,
)

__all__ = ["HEAVY", "check_plugin", "problems_of"]

HEAVY = (
    "datasets", "diffusers", "dspy", "fastapi", "flwr", "litellm", "mlflow", "mlx", "mlx_lm", "numpy", "open_clip",
    "openai", "pandas", "peft", "ray", "scipy", "sklearn", "torch", "transformers", "uvicorn",
)  # fmt: skip
"""What a hooks module must not import: start-up would pay for it."""


def check_plugin(project: str) -> None:
    """Raise AssertionError with everything that is wrong with the installed plugin of this project, one line each."""
    problems = problems_of(project)
    assert not problems, f"The plugin {project!r} has {len(problems)} problem(s):\n" + "\n".join(
        f"  - {problem}" for problem in problems
    )


def problems_of(project: str) -> list[str]:
    """What is wrong with the installed plugin of this project; empty when it is fine."""
    plugins = PluginManager()
    records = [record for record in plugins.check() if record.name == project]
    if not records:
        installed = ", ".join(record.name for record in plugins.records)
        return [f"No entry point named {project!r} in the group 'dspy_toolkit' is installed; found: {installed}."]
    problems = [f"{record.distribution}: {record.error}" for record in records if record.error]
    problems += [
        f"{record.distribution} is blocked by DSPY_TOOLKIT_PLUGINS; unset it." for record in records if record.blocked
    ]
    if problems:
        return problems
    problems += _heavy_imports(project)
    for kind, check in _CHECKS.items():
        for registered in plugins.entries(kind).values():
            if registered.project == project:
                problems += [
                    f"{kind.__name__} {registered.qualified_name}: {problem}"
                    for problem in _of(registered, check, plugins)
                ]
    return problems


def _of(registered: Found[Any], check: "_CheckFunction", plugins: PluginManager) -> Iterator[str]:
    if not registered.entry.summary.strip() or "\n" in registered.entry.summary:
        yield "the summary is not one line."
    targets: dict[str, Any] = {}
    for name in registered.entry.references():
        try:
            targets[name] = resolve(getattr(registered.entry, name))
        except ToolkitError as error:
            yield f"{name}: {error}"
    if len(targets) == len(registered.entry.references()):
        try:
            yield from check(registered, targets, plugins)
        except Exception as error:  # noqa: BLE001  # the plugin's own code runs here; what it raises is the finding
            yield f"raised {type(error).__name__}: {error}"


def _heavy_imports(project: str) -> Iterator[str]:
    # In a process of its own: here everything is imported already.
    source = (
        "import sys, json\n"
        f"sys.path[:] = json.loads({json.dumps(json.dumps(sys.path))})\n"
        "from dspy_toolkit.plugins import PluginManager\n"
        "imported = set(sys.modules)\n"
        f"PluginManager(select={project!r}).check()\n"
        f"print(json.dumps(sorted((set(sys.modules) - imported) & set({HEAVY!r}))))\n"
    )
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120)
    if process.returncode:
        yield f"loading its hooks in a fresh process failed: {process.stderr.strip().splitlines()[-1]}"
    elif heavy := json.loads(process.stdout.splitlines()[-1]):
        yield f"its hooks module imports {', '.join(heavy)}; give dotted names instead, imported when they are needed."


def _signature(registered: Found[SignatureEntry], targets: Mapping[str, Any], plugins: PluginManager) -> Iterator[str]:
    signature = targets["signature"]
    if not (inspect.isclass(signature) and issubclass(signature, dspy.Signature)):
        yield f"{signature!r} is not a dspy.Signature class."
        return
    if not signature.output_fields:
        yield "it has no output field."
    try:
        from dspy_toolkit.signatures.validation import validate  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    for finding in validate(signature).findings:
        if finding.severity == "error":
            yield f"the field {finding.field!r}: {finding.message} {finding.remedy}"


def _task(registered: Found[TaskEntry], targets: Mapping[str, Any], plugins: PluginManager) -> Iterator[str]:
    entry = registered.entry
    program = targets["program"]()
    if not isinstance(program, dspy.Module) or not program.predictors():
        yield f"program() returned {type(program).__name__}; expected a dspy.Module with at least one predictor."
        return
    if targets["program"]() is program:
        yield "program() returned the same object twice; it must make a fresh program each time."
    data = targets["data"]()
    if not isinstance(data, TaskData):
        yield f"data() returned {type(data).__name__}; expected TaskData."
        return
    yield from _not_plain(data)
    splits = prepare(data, program, rows=entry.rows)
    metric = Metric(
        resolve(plugins.get(MetricEntry, entry.metric, project=registered.project).entry.metric), name=entry.metric
    )
    yield from _empty_prediction(metric, splits)
    optimizer = find_optimizer(plugins, entry.optimizer, project=registered.project)
    parse_params(load_optimizer(optimizer.entry), entry.optimizer_params, name=entry.optimizer)


def _not_plain(data: TaskData) -> Iterator[str]:
    for name in ("train", "validation", "test"):
        for number, row in enumerate(getattr(data, name), start=1):
            for field, value in row.items():
                try:
                    same = json.loads(json.dumps(value, allow_nan=False)) == value
                except (TypeError, ValueError):
                    same = False
                if not same:
                    yield f"row {number} of the {name} set has a {field!r} that is not plain JSON data: {value!r:.80}"


def _empty_prediction(metric: Metric, splits: Splits) -> Iterator[str]:
    score = metric.score(splits.test[0], dspy.Prediction())
    if not score.feedback.strip():
        yield f"the metric {metric.name!r} gives no feedback for an empty prediction; say what is missing."


def _metric(registered: Found[MetricEntry], targets: Mapping[str, Any], plugins: PluginManager) -> Iterator[str]:
    metric = Metric(targets["metric"], name=registered.entry.name)
    inspect.signature(metric).bind(None, None, None, None, None)
    yield from _doctor(targets["doctor"])


def _optimizer(registered: Found[OptimizerEntry], targets: Mapping[str, Any], plugins: PluginManager) -> Iterator[str]:
    name = registered.entry.name
    optimizer = as_optimizer(targets["optimizer"], name=name)
    model = optimizer.Params
    for method, arguments in _OPTIMIZER_METHODS.items():
        try:
            inspect.signature(getattr(optimizer, method)).bind(*arguments)
        except (AttributeError, TypeError) as error:
            yield f"{method}({', '.join(arguments)}) cannot be called: {error}"
    for key, field in model.model_fields.items():
        if field.is_required():
            yield f"its parameter {key!r} has no default."
        if not field.description and not isinstance(optimizer, FunctionOptimizer):
            yield f"its parameter {key!r} has no description."
    if not any(field.is_required() for field in model.model_fields.values()):
        defaults = parse_params(optimizer, {}, name=name)
        parse_params(optimizer, parameter_values(defaults), name=name)


_OPTIMIZER_METHODS = {
    "check": ("job", "params"),
    "forecast": ("job", "scores", "params"),
    "rollouts_per_row": ("params",),
    "compile": ("job", "params"),
}


def _provider(registered: Found[ProviderEntry], targets: Mapping[str, Any], plugins: PluginManager) -> Iterator[str]:
    if not callable(targets["connect"]):
        yield "connect is not callable."
    for model in targets["models"]() if targets["models"] else ():
        if not model.startswith(f"{registered.entry.name}/"):
            yield f"models() gave {model!r}; a model string starts with {registered.entry.name!r} and a slash."
    yield from _doctor(targets["doctor"])


def _doctor(doctor: Callable[[], Any] | None) -> Iterator[str]:
    for check in doctor() if doctor else ():
        if not isinstance(check, Check):
            yield f"doctor() gave {check!r}; expected dspy_toolkit.types.Check."
        elif not check.ok and not check.remedy:
            yield f"doctor() says that {check.name!r} is not fine and not what to do."


def _migration(registered: Found[MigrationEntry], targets: Mapping[str, Any], plugins: PluginManager) -> Iterator[str]:
    plugins.get(TaskEntry, registered.entry.task, project=registered.project)
    if not callable(targets["migrate"]):
        yield "migrate is not callable."


_CheckFunction = Callable[[Found[Any], Mapping[str, Any], PluginManager], Iterator[str]]

_CHECKS: dict[type[Entry], _CheckFunction] = {
    SignatureEntry: _signature,
    MetricEntry: _metric,
    OptimizerEntry: _optimizer,
    TaskEntry: _task,
    ProviderEntry: _provider,
    MigrationEntry: _migration,
}
