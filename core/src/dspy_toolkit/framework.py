"""`DSPyFramework`: one object that knows the settings, the plugins, the models and the stored programs."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.adapters import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.errors import BundleError, OptimizationError, OptimizationInterrupted
from dspy_toolkit.metrics import Metric
from dspy_toolkit.modules import ModuleRegistry, ProjectSignatureConfig
from dspy_toolkit.optimize import (
    EventSink,
    Limits,
    OptimizationResult,
    OptimizerType,
    Runs,
    Situation,
    check_parameters,
    choose,
    configure_cache,
    find_optimizer,
    optimize,
    prepare,
    read_dataset,
)
from dspy_toolkit.optimize.again import asked_again, limits_given
from dspy_toolkit.optimize.identity import differences, identity
from dspy_toolkit.optimize.run import Saved
from dspy_toolkit.optimize.runs import identity_key
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.program import Program
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.signatures.registry import SignatureRegistry
from dspy_toolkit.store import Store, Version, load_program, read_bundle
from dspy_toolkit.task import Task
from dspy_toolkit.tracking import tracked
from dspy_toolkit.types import MetricEntry, TaskData, TaskEntry, resolve

__all__ = ["DSPyFramework"]

AnyMetric = str | Metric | Callable[..., Any]


class DSPyFramework:
    """The entry point for Python code. Making one loads no model.

    It configures nothing global but the cache folder, DSPy's and the plugins' (which have processes of their own and so
    find it in DSPY_TOOLKIT_CACHE). Programs it hands out bring their LM and adapter with them.
    """

    def __init__(self, config: DSPyConfig | None = None, *, plugins: PluginManager | None = None):
        self.config = config or DSPyConfig()
        self.plugins = plugins or PluginManager()
        self.signature_registry = SignatureRegistry(self.plugins)
        self.modules = ModuleRegistry()
        self.store = Store(self.config.store)
        self.runs = Runs(self.config.runs)
        self._lms: dict[tuple[Any, ...], dspy.LM] = {}
        self._lock = threading.Lock()
        os.environ["DSPY_TOOLKIT_CACHE"] = str(self.config.cache)
        configure_cache(self.config.cache / "lm")

    # --- models

    def lm(self, model: str | None = None, **options: Any) -> dspy.LM:
        """An LM for a model string or profile name; None is the default model. Equal calls share one LM.

        `options` are those of `dspy.LM` and win over the profile's. Raises UnknownNameError for a profile or provider
        that does not exist, ModelError when the model cannot be had.
        """
        profile = self.config.profile(model)
        merged = {**profile.model_dump(exclude={"model"}, exclude_none=True), **options}
        key = (profile.model, *sorted((name, repr(value)) for name, value in merged.items()))
        with self._lock:
            if key not in self._lms:
                connect = resolve(self.plugins.provider(profile.model).entry.connect)
                self._lms[key] = connect(profile.model, **merged)
            return self._lms[key]

    def adapter(self) -> dspy.Adapter:
        """The adapter of the settings: DSPy's prompts, with a grammar for models that can be held to one."""
        return GuidedJSONAdapter() if self.config.adapter == "json" else GuidedChatAdapter()

    # --- signatures

    def register_project_signatures(
        self, project: str, signatures: Mapping[str, type[dspy.Signature]] | Sequence[type[dspy.Signature]]
    ) -> None:
        """Make signatures available by name to all projects of this framework."""
        self.signature_registry.register_project(project, signatures)

    def get_signature(self, signature: str | type[dspy.Signature], *, model: str | None = None) -> Program:
        """A program that answers a signature: `framework.get_signature(QASignature)(question="...")`.

        `signature` is a class, a registered name (`lora/LoRAOptimizationSignature`), or DSPy's short form
        (`"question -> answer"`).
        """
        if isinstance(signature, str) and "->" not in signature:
            signature = self.signature_registry.get(signature)
        return self.bind(dspy.Predict(signature), model=model)

    def register(self, config: ProjectSignatureConfig) -> None:
        """Register a project's signatures, and a module for each under the signature's qualified name."""
        self.register_project_signatures(config.project, config.signatures)
        self.modules.register_project(config)

    # --- tasks and programs

    def task(self, name: str) -> Task:
        """The task `project/name`. Raises UnknownNameError, closest first."""
        return Task(self.plugins.get(TaskEntry, name), self.plugins)

    def bind(self, module: dspy.Module, *, model: str | None = None) -> Program:
        """`module` with an LM and the framework's adapter, ready to call."""
        return Program(module, lm=self.lm(model), adapter=self.adapter())

    def load(self, name: str, version: str | None = None, *, model: str | None = None) -> Program:
        """A stored program: `lora/hyperparameters`, `lora/hyperparameters@v2`, `...@production`, or a bundle's folder.

        Without a version: `production` if that alias exists, else the newest promoted version, else the newest. `model`
        is bound here: a bundle carries none. Raises UnknownNameError, BundleError, FingerprintError.
        """
        if Path(name).is_dir():
            bundle = read_bundle(Path(name))
            if "/" not in bundle.manifest.task:
                raise BundleError(
                    f"{name} was made from a module, not a task; load it with load_program and its factory."
                )
            task = self.task(bundle.manifest.task)
        else:
            name, _, at = name.partition("@")
            task = self.task(name)
            bundle = self.store.get(task.name, version or at or None).bundle
        module = load_program(bundle, task.program)
        return self.bind(module, model=model or self.config.project(task.project).model)

    # --- optimization

    def optimize_module(
        self,
        module: dspy.Module | str,
        dataset: TaskData | Sequence[Mapping[str, Any] | dspy.Example] | str | os.PathLike[str],
        metrics: AnyMetric | Sequence[AnyMetric],
        *,
        task_type: str = "module",
        optimizer: str | None = None,
        model: str | None = None,
        seed: int | None = None,
        rows: Mapping[str, int] | None = None,
        on_event: EventSink | None = None,
        stop: threading.Event | None = None,
        num_threads: int | None = None,
        limits: Limits | None = None,
        max_errors: int | None = None,
        resume: str | bool = False,
        save: Callable[[OptimizationResult], Saved] | None = None,
        **parameters: Any,
    ) -> OptimizationResult:
        """Optimize a module and measure it on held-out rows before and after. `module` is left as it was.

        `module` may be a name in `modules`. `dataset` is three sets, or one list or file (see
        `read_dataset`), which is split by content. `metrics`
        is a metric, the name of one, or a list, whose mean counts. `task_type` names the run in its result.
        `optimizer` is a name (`bootstrap` if none is given), or `auto`, which chooses by the data, the metric and the
        model and says why in the result's `reason`. `parameters` are the optimizer's.
        The run is recorded in the folder `runs`; `limits`, `max_errors` and `save` are those of
        `dspy_toolkit.optimize.optimize`. `resume` goes on with a recorded run, that of an id or, where True, the newest
        that was asked to do the same; limits may differ.
        Raises DataError, OptimizationError, OptimizationInterrupted (with what was found), UnknownNameError.
        """
        if isinstance(module, str):
            settings = self.modules.config(module)
            if optimizer is None and settings is not None and settings.optimizer:
                optimizer, parameters = settings.optimizer, {**settings.optimizer_params, **parameters}
            module = self.modules.get(module)
        if isinstance(dataset, str | os.PathLike):
            dataset = read_dataset(dataset, module)
        name, reason = optimizer or "bootstrap", ""
        if name.lower() != OptimizerType.AUTO:
            # A typing mistake is told before a model is loaded.
            check_parameters(resolve(find_optimizer(self.plugins, name).entry.optimizer), name, parameters)
        seed, num_threads = self._seed(seed), num_threads or self.config.num_threads
        max_errors = self.config.max_errors if max_errors is None else max_errors
        options = {
            "optimizer": name,
            "model": model or self.config.model,
            "seed": seed,
            "rows": dict(rows or {}),
            "parameters": dict(parameters),
            "num_threads": num_threads,
            "limits": limits_given(limits),
            "max_errors": max_errors,
        }
        data = prepare(dataset, module, rows=rows, seed=seed)
        metric, lm = self.metric(metrics), self.lm(model)
        if name.lower() == OptimizerType.AUTO:
            choice = choose(Situation.of(module, data, metric, lm, task_type=task_type))
            name, reason, parameters = choice.optimizer, choice.reason, {**choice.parameters, **parameters}
        found = find_optimizer(self.plugins, name).entry
        function = resolve(found.optimizer)
        asked: dict[str, Any] = {
            "program": module,
            "data": data,
            "parameters": check_parameters(function, found.name, parameters),
            "lm": lm,
            "adapter": self.adapter(),
            "seed": seed,
            "task": task_type,
        }
        if resume is True:
            resume = self._unfinished(identity(**asked, metric=metric.name, optimizer=found.name))
        with self.runs.open(resume or None) as journal, tracked(journal.folder, self.config, on_event):
            return optimize(
                **asked,
                metric=metric,
                optimizer=function,
                optimizer_name=found.name,
                num_threads=num_threads,
                reason=reason,
                connect=self.lm,
                on_event=on_event,
                stop=stop,
                limits=limits,
                max_errors=max_errors,
                journal=journal,
                options=options,
                save=save,
            )

    def optimize_task(
        self,
        name: str,
        *,
        optimizer: str | None = None,
        model: str | None = None,
        seed: int | None = None,
        rows: Mapping[str, int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        on_event: EventSink | None = None,
        stop: threading.Event | None = None,
        num_threads: int | None = None,
        limits: Limits | None = None,
        max_errors: int | None = None,
        resume: str | bool = False,
    ) -> tuple[OptimizationResult, Version]:
        """Optimize a task with its own data, metric and defaults, and store the result as its next version.

        Defaults: arguments, then the project's settings, then the task's own; with `resume`, those the run was begun
        with, and an argument that is another one is an error. Raises as `optimize_module`.
        """
        task = self.task(name)
        options: dict[str, Any]
        if resume is False:
            options = {
                **self._options(task, optimizer, model, rows or {}, parameters or {}),
                "seed": seed,
                "num_threads": num_threads,
                "limits": limits,
                "max_errors": max_errors,
            }
        else:
            run = self.runs.find(task.name, None if resume is True else resume)
            resume = run.id
            options = asked_again(
                run,
                self.plugins,
                optimizer=optimizer,
                model=model,
                seed=seed,
                rows=rows or {},
                parameters=parameters or {},
                num_threads=num_threads,
                limits=limits,
                max_errors=max_errors,
            )
        stored: list[Version] = []

        def save(result: OptimizationResult) -> Saved:
            version = self.store.save(result, example_inputs=task.example_inputs(), adapter=self.adapter())
            stored.append(version)
            return f"{version.task}@{version.name}", str(version.bundle.path)

        try:
            result = self.optimize_module(
                task.program(),
                task.data(),
                task.metric(),
                task_type=task.name,
                on_event=on_event,
                stop=stop,
                resume=resume,
                save=save,
                **options,
            )
        except OptimizationError as error:
            if not isinstance(error.partial, OptimizationResult) or not error.partial.run:
                raise
            raise _going_on(task.name, error, stored) from error
        return result, stored[-1]

    def _options(
        self,
        task: Task,
        optimizer: str | None,
        model: str | None,
        rows: Mapping[str, int],
        parameters: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What is given, over the project's settings, over the task's own."""
        project = self.config.project(task.project)
        optimizer = optimizer or project.optimizer or task.entry.optimizer
        # Parameters belong to the optimizer they were written for.
        defaults = dict(task.entry.optimizer_params) if optimizer == task.entry.optimizer else {}
        if optimizer == (project.optimizer or task.entry.optimizer):
            defaults |= project.optimizer_params
        return {
            "optimizer": optimizer,
            "model": model or project.model,
            "rows": {**task.entry.rows, **project.rows, **rows},
            **defaults,
            **parameters,
        }

    def _unfinished(self, asked: Mapping[str, Any]) -> str:
        """The newest unfinished run that was asked to do this."""
        run = self.runs.unfinished(identity_key(asked))
        if run is not None:
            return run.id
        other = self.runs.find(asked["task"])
        raise OptimizationError(
            f"No unfinished run was asked to do this. The newest, {other.id}, was asked something else: "
            f"{'; '.join(differences(other.identity, asked))}."
        )

    def metric(self, metrics: AnyMetric | Sequence[AnyMetric]) -> Metric:
        """One Metric from a metric, a name, or a list of them (their mean)."""
        if isinstance(metrics, str):
            found = self.plugins.get(MetricEntry, metrics)
            return Metric(resolve(found.entry.metric), name=found.qualified_name)
        if isinstance(metrics, Metric) or callable(metrics):
            return metrics if isinstance(metrics, Metric) else Metric(metrics)
        return Metric.mean([self.metric(one) for one in metrics])

    def _seed(self, seed: int | None) -> int:
        return self.config.seed if seed is None else seed


def _going_on(task: str, error: OptimizationError, stored: Sequence[Version]) -> OptimizationError:
    """The error, with what it leaves behind and the command that goes on from there."""
    command = f"dspy-toolkit optimize {task} --resume {error.partial.run}"
    if not isinstance(error, OptimizationInterrupted):
        larger = " and a larger budget" if error.partial.status == "budget" else ""
        return OptimizationError(f"{error} Go on, once that is mended, with: {command}{larger}", partial=error.partial)
    kept = "What is done is kept"
    if stored:
        kept += f", and the best program so far is {task}@{stored[-1].name}, not yet measured"
    return OptimizationInterrupted(f"{error} {kept}. Go on with: {command}", partial=error.partial)
