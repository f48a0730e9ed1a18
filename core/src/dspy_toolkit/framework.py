"""`DSPyFramework`: one object that knows the settings, the plugins, the models and the stored programs."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.adapters import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.errors import BundleError, OptimizationInterrupted
from dspy_toolkit.metrics import Metric
from dspy_toolkit.modules import ModuleRegistry, ProjectSignatureConfig
from dspy_toolkit.optimize import (
    EventSink,
    OptimizationResult,
    OptimizerType,
    Plan,
    Situation,
    check_parameters,
    choose,
    configure_cache,
    find_optimizer,
    optimize,
    plan,
    prepare,
    read_dataset,
)
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.program import Program
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.signatures.registry import SignatureRegistry
from dspy_toolkit.store import Store, Version, load_program, read_bundle
from dspy_toolkit.task import Task
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
        planned: Plan | None = None,
        **parameters: Any,
    ) -> OptimizationResult:
        """Optimize a module and measure it on held-out rows before and after. `module` is left as it was.

        `module` may be a name in `modules`. `dataset` is three sets, or one list or file (see
        `read_dataset`), which is split by content. `metrics`
        is a metric, the name of one, or a list, whose mean counts. `task_type` names the run in its result.
        `optimizer` is a name (`bootstrap` if none is given), or `auto`, which chooses by the data, the metric and the
        model and says why in the result's `reason`. `parameters` are the optimizer's.
        `planned` is a plan made before, for progress and the record; without it the run makes one by itself, without
        measuring.
        Raises DataError, OptimizationError, OptimizationInterrupted (with what was found), UnknownNameError.
        """
        asked = self._asked(module, dataset, metrics, task_type, optimizer, model, seed, rows, parameters)
        return optimize(**asked, on_event=on_event, stop=stop, planned=planned)

    def plan_module(
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
        measure: bool = True,
        **parameters: Any,
    ) -> Plan:
        """What `optimize_module` with the same arguments will take: calls, tokens, minutes, money, with ranges.

        `measure` runs some training rows for about ten seconds (see `dspy_toolkit.optimize.plan`). Raises as
        `optimize_module` does before its first call.
        """
        asked = self._asked(module, dataset, metrics, task_type, optimizer, model, seed, rows, parameters)
        return plan(**asked, measure=measure)

    def _asked(
        self,
        module: dspy.Module | str,
        dataset: TaskData | Sequence[Mapping[str, Any] | dspy.Example] | str | os.PathLike[str],
        metrics: AnyMetric | Sequence[AnyMetric],
        task_type: str,
        optimizer: str | None,
        model: str | None,
        seed: int | None,
        rows: Mapping[str, int] | None,
        parameters: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The arguments of `optimize` and `plan`, with everything that was named found."""
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
        data = prepare(dataset, module, rows=rows, seed=self._seed(seed))
        metric, lm = self.metric(metrics), self.lm(model)
        if name.lower() == OptimizerType.AUTO:
            choice = choose(Situation.of(module, data, metric, lm, task_type=task_type))
            name, reason, parameters = choice.optimizer, choice.reason, {**choice.parameters, **parameters}
        found = find_optimizer(self.plugins, name)
        return {
            "program": module,
            "data": data,
            "metric": metric,
            "optimizer": resolve(found.entry.optimizer),
            "optimizer_name": found.entry.name,
            "parameters": parameters,
            "lm": lm,
            "adapter": self.adapter(),
            "seed": self._seed(seed),
            "num_threads": self.config.num_threads,
            "task": task_type,
            "reason": reason,
            "connect": self.lm,
        }

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
        planned: Plan | None = None,
    ) -> tuple[OptimizationResult, Version]:
        """Optimize a task with its own data, metric and defaults, and store the result as its next version.

        Defaults: arguments, then the project's settings, then the task's own. Raises as `optimize_module`.
        """
        task = self.task(name)
        try:
            result = self.optimize_module(
                task.program(),
                task.data(),
                task.metric(),
                task_type=task.name,
                seed=seed,
                on_event=on_event,
                stop=stop,
                planned=planned,
                **self._options(task, optimizer, model, rows or {}, parameters or {}),
            )
        except OptimizationInterrupted as interruption:
            raise self._kept(task, interruption) from None
        version = self.store.save(result, example_inputs=task.example_inputs(), adapter=self.adapter())
        return result, version

    def plan_task(
        self,
        name: str,
        *,
        optimizer: str | None = None,
        model: str | None = None,
        seed: int | None = None,
        rows: Mapping[str, int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        measure: bool = True,
    ) -> Plan:
        """What `optimize_task` with the same arguments will take; see `plan_module`. Nothing is stored."""
        task = self.task(name)
        return self.plan_module(
            task.program(),
            task.data(),
            task.metric(),
            task_type=task.name,
            seed=seed,
            measure=measure,
            **self._options(task, optimizer, model, rows or {}, parameters or {}),
        )

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

    def _kept(self, task: Task, interruption: OptimizationInterrupted) -> OptimizationInterrupted:
        """The interruption, with what it leaves behind stored and told."""
        kept = "Finished LM calls are kept"
        partial = interruption.partial
        if isinstance(partial, OptimizationResult) and partial.program is not None:
            version = self.store.save(partial, example_inputs=task.example_inputs(), adapter=self.adapter())
            kept += f", and the best program so far is {task.name}@{version.name}, not yet measured"
        return OptimizationInterrupted(
            f"{interruption} {kept}. The same command again goes on from here.", partial=partial
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
