"""`DSPyFramework`: one object that knows the settings, the plugins, the models and the stored programs."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dspy

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.data.splits import AnyData
from dspy_toolkit.evaluation.comparison import ProgramComparison
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.evaluation.rows import SetName
from dspy_toolkit.framework.evaluation_request import EvaluationRequest
from dspy_toolkit.framework.module_optimization import ModuleOptimization
from dspy_toolkit.framework.modules import ModuleRegistry, ProjectSignatureConfig
from dspy_toolkit.framework.request import OptimizationRequest
from dspy_toolkit.framework.targets import find_target
from dspy_toolkit.framework.task_optimization import TaskOptimization
from dspy_toolkit.lm.cache import configure_cache
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.metrics import Metric
from dspy_toolkit.metrics.named import AnyMetrics, find_metric
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.spec import Saved
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.programs.inspect import input_fields
from dspy_toolkit.programs.program import Program
from dspy_toolkit.programs.target import Target, target_of
from dspy_toolkit.programs.task import Task
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.runs import Runs
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.signatures.registry import SignatureRegistry
from dspy_toolkit.store.store import Store, Version
from dspy_toolkit.tracking.process import tracked
from dspy_toolkit.types import TaskEntry, resolve

__all__ = ["DSPyFramework"]


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
        """A stored program: `lora/hyperparameters`, `lora/hyperparameters@v2`, `...@production`, or a bundle's folder;
        or what was optimized under another name, such as `"question -> answer"`.

        Without a version: `production` if that alias exists, else the newest promoted version, else the newest. `model`
        is bound here: a bundle carries none. Raises UnknownNameError, BundleError, FingerprintError.
        """
        target = self.target(f"{name}@{version}" if version else name)
        if target.version is None:  # asked for what is stored, where nothing is
            self.store.get(target.name)
        return self.bind(target.module, model=model or self.config.project(target.project).model)

    def target(self, name: str, *, plain: bool = False) -> Target:
        """What a name stands for: a task, a stored version, a signature, or code; see `dspy_toolkit.framework.targets`.

        Raises UnknownNameError, BundleError, FingerprintError, SignatureError, PluginError.
        """
        return find_target(self, name, plain=plain)

    # --- optimization

    def optimize_module(
        self,
        module: dspy.Module | str,
        dataset: AnyData,
        metrics: AnyMetrics,
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
        asked: Mapping[str, Any] | None = None,
        planned: Plan | None = None,
        **parameters: Any,
    ) -> OptimizationResult:
        """Optimize a module and measure it on held-out rows before and after. `module` is left as it was.

        `module` may be a name in `modules`. `dataset` is three sets, or one list or file (see `read_dataset`), which is
        split by content. `metrics` is a metric, the name of one, or a list, whose mean counts. `task_type` names the
        run in its result. `optimizer` is a name (`bootstrap` if none is given), or `auto`, which chooses by the data,
        the metric and the model and says why in the result's `reason`. `parameters` are the optimizer's.
        The run is recorded in the folder `runs`; `limits`, `max_errors` and `save` are those of
        `dspy_toolkit.optimize.optimize`. `resume` goes on with a recorded run, that of an id or, where True, the newest
        that was asked to do the same; limits may differ. `asked` is what else would ask for it, for the record.
        `planned` is a plan made before; without it the run makes one by itself, without measuring.
        Raises DataError, OptimizationError, OptimizationInterrupted (with what was found), UnknownNameError.
        """
        request = OptimizationRequest(
            dataset=dataset, metrics=metrics, optimizer=optimizer, model=model, seed=seed, rows=rows or {},
            parameters=parameters, num_threads=num_threads, limits=limits, max_errors=max_errors,
        )  # fmt: skip
        return ModuleOptimization.of(self, module, request, task=task_type).run(
            on_event=on_event, stop=stop, resume=resume, save=save, asked=asked or {}, planned=planned
        )

    def plan_module(
        self,
        module: dspy.Module | str,
        dataset: AnyData,
        metrics: AnyMetrics,
        *,
        task_type: str = "module",
        optimizer: str | None = None,
        model: str | None = None,
        seed: int | None = None,
        rows: Mapping[str, int] | None = None,
        num_threads: int | None = None,
        limits: Limits | None = None,
        measure: bool = True,
        **parameters: Any,
    ) -> Plan:
        """What `optimize_module` with the same arguments will take: calls, tokens, minutes, money, with ranges.

        `measure` runs some training rows for about ten seconds (see `dspy_toolkit.optimize.planning.plan`). Raises as
        `optimize_module` does before its first call.
        """
        request = OptimizationRequest(
            dataset=dataset, metrics=metrics, optimizer=optimizer, model=model, seed=seed, rows=rows or {},
            parameters=parameters, num_threads=num_threads, limits=limits,
        )  # fmt: skip
        return ModuleOptimization.of(self, module, request, task=task_type).plan(measure=measure)

    def optimize_task(
        self,
        name: str,
        *,
        dataset: AnyData | None = None,
        metrics: AnyMetrics | None = None,
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
        planned: Plan | None = None,
    ) -> tuple[OptimizationResult, Version]:
        """Optimize what a name stands for, and store the result under it as its next version.

        A task brings its own data, metric and defaults; `dataset` and `metrics` replace them. What is no task needs
        both. Defaults: arguments, then the project's settings, then the task's own; with `resume`, those the run was
        begun with, and an argument that is another one is an error. Raises as `optimize_module`.
        """
        request = OptimizationRequest(
            dataset=dataset, metrics=metrics, optimizer=optimizer, model=model, seed=seed, rows=rows or {},
            parameters=parameters or {}, num_threads=num_threads, limits=limits, max_errors=max_errors,
        )  # fmt: skip
        optimization = TaskOptimization(self, name, request, resume=resume)
        return optimization.run(on_event=on_event, stop=stop, planned=planned)

    def plan_task(
        self,
        name: str,
        *,
        dataset: AnyData | None = None,
        metrics: AnyMetrics | None = None,
        optimizer: str | None = None,
        model: str | None = None,
        seed: int | None = None,
        rows: Mapping[str, int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        num_threads: int | None = None,
        limits: Limits | None = None,
        resume: str | bool = False,
        measure: bool = True,
    ) -> Plan:
        """What `optimize_task` with the same arguments will take; see `plan_module`. Nothing is stored.

        With `resume` it is the plan of the whole run, of which finished calls come from the cache.
        """
        request = OptimizationRequest(
            dataset=dataset, metrics=metrics, optimizer=optimizer, model=model, seed=seed, rows=rows or {},
            parameters=parameters or {}, num_threads=num_threads, limits=limits,
        )  # fmt: skip
        return TaskOptimization(self, name, request, resume=resume).plan(measure=measure)

    # --- measuring

    def evaluate(
        self,
        program: str | dspy.Module,
        dataset: AnyData | None = None,
        metrics: AnyMetrics | None = None,
        *,
        set: SetName | None = None,
        rows: int | None = None,
        model: str | None = None,
        repeats: int = 1,
        seed: int | None = None,
        max_errors: int | None = None,
        on_event: EventSink | None = None,
        stop: threading.Event | None = None,
    ) -> ProgramEvaluation:
        """Measure a program: what a name stands for (see `target`), or a module.

        A task brings its test set and its metric; `dataset` and `metrics` replace them, and what is no task needs both.
        Several metrics score the same answers, each with its own interval; the first decides. `set` takes one of the
        three sets, which one list or file is split into as `optimize` does it; without it, all its rows. `rows` draws
        so many of them by `seed`. Each of the `repeats` is another rollout of the same rows. More than `max_errors`
        failing rows end the run. Raises DataError for a row that the program has as a demonstration, and as
        `dspy_toolkit.evaluation.evaluate` does, with a ProgramEvaluation of what was finished as `partial`.
        """
        asked = EvaluationRequest(
            dataset=dataset, metrics=metrics, set=set, rows=rows, repeats=repeats, seed=seed, max_errors=max_errors,
            on_event=on_event, stop=stop,
        )  # fmt: skip
        target = self._target(program)
        chosen = asked.rows_for(self, target)
        return asked.measuring(self, target).evaluate(target, chosen, self._model(target, model)())

    def compare(
        self,
        first: str | dspy.Module,
        second: str | dspy.Module,
        dataset: AnyData | None = None,
        metrics: AnyMetrics | None = None,
        *,
        set: SetName | None = None,
        rows: int | None = None,
        model: str | None = None,
        second_model: str | None = None,
        repeats: int = 1,
        seed: int | None = None,
        max_errors: int | None = None,
        on_event: EventSink | None = None,
        stop: threading.Event | None = None,
    ) -> ProgramComparison:
        """Measure two programs on the same rows, as `evaluate` does, and compare them row by row.

        Rows and metric are those of the first where they are not given. The second runs on `second_model`, or else on
        `model`. Raises as `evaluate` does; an interruption has a ProgramComparison of the rows that both finished as
        `partial`, or the first's ProgramEvaluation.
        """
        asked = EvaluationRequest(
            dataset=dataset, metrics=metrics, set=set, rows=rows, repeats=repeats, seed=seed, max_errors=max_errors,
            on_event=on_event, stop=stop,
        )  # fmt: skip
        targets = a, b = self._target(first), self._target(second)
        needed = [name for name in input_fields(b.plain()) if name not in input_fields(a.plain())]
        chosen = asked.rows_for(self, a, keep=needed)
        measuring = asked.measuring(self, a)
        return measuring.compare(
            targets,
            (chosen.for_program(a, b), chosen.for_program(b, a)),
            (self._model(a, model), self._model(b, second_model or model)),
        )

    def _target(self, program: str | dspy.Module) -> Target:
        return self.target(program) if isinstance(program, str) else target_of(program)

    def _model(self, target: Target, model: str | None) -> Callable[[], dspy.LM]:
        """Connects to the model asked for, or the one of the target's project."""
        return lambda: self.lm(model or self.config.project(target.project).model)

    @contextmanager
    def recorded(self, on_event: EventSink | None = None, run: str | None = None) -> Iterator[Journal]:
        """The journal of a new run, or of the one with this id to go on with, sent to MLflow as it is written.

        `on_event` is told what cannot be sent. Raises what `Runs.open` and `tracked` raise.
        """
        with self.runs.open(run) as journal, tracked(journal.folder, self.config, on_event):
            yield journal

    def metric(self, metrics: AnyMetrics, *, project: str | None = None) -> Metric:
        """One Metric from a metric, a name, or a list of them (their mean); see `dspy_toolkit.metrics.named`."""
        return find_metric(self.plugins, metrics, project=project)
