"""`DSPyFramework`: one object with the settings, the plugins, the models and the stored programs."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import dspy

from dspy_toolkit.data.splits import AnyData
from dspy_toolkit.evaluation.comparison import ProgramComparison
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.evaluation.rows import SetName
from dspy_toolkit.framework.evaluation_request import EvaluationRequest
from dspy_toolkit.framework.modules import ProjectSignatureConfig
from dspy_toolkit.framework.optimization import PreparedRun
from dspy_toolkit.framework.options import PlanKeywords, RunKeywords, RunOptions
from dspy_toolkit.framework.resources import Model, Resources, default_model
from dspy_toolkit.framework.targets import find_target
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.metrics.named import AnyMetrics
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.programs.inspect import input_fields
from dspy_toolkit.programs.own_lms import without_own_lms
from dspy_toolkit.programs.program import Program
from dspy_toolkit.programs.target import Target, target_of
from dspy_toolkit.programs.task import Task
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.store.store import PLAIN, Version

__all__ = ["DSPyFramework"]


class EvaluateKeywords(TypedDict, total=False):
    """The keywords that `evaluate` and `compare` share."""

    model: Model
    set: SetName | None
    rows: int | None
    repeats: int
    seed: int | None
    max_errors: int | None
    on_event: EventSink | None
    stop: threading.Event | None


class DSPyFramework:
    """The entry point for Python code. Making one loads no model.

    Programs it hands out bring their LM and adapter with them. See `Resources` for what it configures.
    """

    def __init__(self, config: DSPyConfig | None = None, *, plugins: PluginManager | None = None):
        self.resources = Resources(config or DSPyConfig(), plugins or PluginManager())
        self.config = self.resources.config
        self.plugins = self.resources.plugins
        self.signature_registry = self.resources.signatures
        self.modules = self.resources.modules
        self.store = self.resources.store
        self.runs = self.resources.runs

    # --- models and metrics

    def lm(self, model: Model = None, **options: Any) -> Any:
        """An LM for a model string or profile name; see `Resources.lm`."""
        return self.resources.lm(model, **options)

    def adapter(self) -> dspy.Adapter:
        """The adapter of the settings."""
        return self.resources.adapter()

    def metric(self, metrics: AnyMetrics, *, project: str | None = None) -> Metric:
        """One Metric from a metric, a name, or a list of them (their mean)."""
        return self.resources.metric(metrics, project=project)

    # --- signatures

    def register_project_signatures(
        self, project: str, signatures: Mapping[str, type[dspy.Signature]] | Sequence[type[dspy.Signature]]
    ) -> None:
        """Make signatures available by name to all projects of this framework."""
        self.signature_registry.register_project(project, signatures)

    def get_signature(self, signature: str | type[dspy.Signature], *, model: Model = None) -> Program:
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
        return self.resources.task(name)

    def bind(self, module: dspy.Module, *, model: Model = None, project: str | None = None) -> Program:
        """`module` with an LM and the framework's adapter, ready to call.

        Predictors keep LMs of their own, unless there is a `model`; without both, DSPy's settings decide, then those of
        the `project`, then the general ones.
        """
        if model is not None:
            module = without_own_lms(module)
        settings = self.config.project(project).model if project else None
        return Program(module, lm=self.lm(model or default_model(settings)), adapter=self.adapter())

    def load(self, name: str, version: str | None = None, *, model: Model = None) -> Program:
        """A stored program: `lora/hyperparameters`, `lora/hyperparameters@v2`, `...@production`, a bundle's
        `./folder`, or what was optimized under another name, such as `"question -> answer"`.

        Without a version: `production` if that alias exists, else the newest that passed the gate; BundleError if none
        did. `model` is bound here: a bundle has none. Raises UnknownNameError, BundleError, FingerprintError.
        """
        target = self.target(f"{name}@{version}" if version else name)
        plain_requested = PLAIN in (version, name.rpartition("@")[2])
        if target.version is None and not plain_requested:  # nothing replaces the plain program; the store says why
            self.store.get(target.name)
        return self.bind(target.module, model=model, project=target.project)

    def target(self, name: str, *, plain: bool = False) -> Target:
        """What a name stands for: a task, a stored version, a signature, or code; see `dspy_toolkit.framework.targets`.

        Raises UnknownNameError, BundleError, FingerprintError, SignatureError, PluginError.
        """
        return find_target(self.resources, name, plain=plain)

    # --- optimization

    def optimize_module(
        self,
        module: dspy.Module | str,
        dataset: AnyData,
        metrics: AnyMetrics,
        *,
        task_type: str = "module",
        **options: Any,
    ) -> OptimizationResult:
        """Optimize a module and measure it on held-out rows before and after. `module` is left as it was.

        `module` may be a name in `modules`. `dataset` is three sets, or one list or file (see `read_dataset`), which is
        split by content. `metrics` is a metric, the name of one, or a list, whose mean counts. `task_type` names the
        run in its result. The run is recorded in the folder `runs`.

        `options` are those of `RunOptions`: `optimizer` is a name (`bootstrap` if there is none), an Optimizer, an
        instance of one of DSPy's, or `auto`, which chooses by the data, the metric and the model and says why in the
        result's `reason`; `model`, `seed`, `rows`,
        `num_threads`, `limits`, `max_errors`, `on_event`, `stop`, `save`; `resume` is a run's id or, where True, the
        newest unfinished run of the same; `planned` is a plan made before, without which the run makes one, without
        measuring. Every other keyword is a parameter of the optimizer.

        Raises DataError, OptimizationError, OptimizationInterrupted (with what was finished), UnknownNameError.
        """
        run_options = RunOptions.of_module(dataset, metrics, options)
        return PreparedRun.of_module(self.resources, module, run_options, task=task_type).run()

    def plan_module(
        self,
        module: dspy.Module | str,
        dataset: AnyData,
        metrics: AnyMetrics,
        *,
        task_type: str = "module",
        measure: bool = True,
        **options: Any,
    ) -> Plan:
        """What `optimize_module` with the same arguments will take: calls, tokens, minutes, money, with ranges.

        `measure` runs some training rows for about ten seconds (see `dspy_toolkit.optimize.planning.planner`). Raises
        as `optimize_module` does before its first call.
        """
        run_options = RunOptions.of_module(dataset, metrics, options)
        return PreparedRun.of_module(self.resources, module, run_options, task=task_type).plan(measure=measure)

    def optimize_task(self, name: str, **options: Unpack[RunKeywords]) -> tuple[OptimizationResult, Version]:
        """Optimize what a name stands for, and store the result under it as its next version.

        A task brings its own data, metric and defaults; `dataset` and `metrics` replace them. What is no task needs
        both. Defaults: arguments, then the project's settings, then the task's own; with `resume`, those the run was
        begun with, and an argument that is another one is an error. Raises as `optimize_module`.
        """
        prepared = PreparedRun.of_name(self.resources, name, RunOptions.of(options))
        result = prepared.run()
        assert prepared.stored is not None
        assert prepared.stored.version is not None
        return result, prepared.stored.version

    def plan_task(self, name: str, *, measure: bool = True, **options: Unpack[PlanKeywords]) -> Plan:
        """What `optimize_task` with the same arguments will take; see `plan_module`. Nothing is stored.

        With `resume` it is the plan of the whole run, of which finished calls come from the cache.
        """
        return PreparedRun.of_name(self.resources, name, RunOptions.of(options)).plan(measure=measure)

    # --- measuring

    def evaluate(
        self,
        program: str | dspy.Module,
        dataset: AnyData | None = None,
        metrics: AnyMetrics | None = None,
        **options: Unpack[EvaluateKeywords],
    ) -> ProgramEvaluation:
        """Measure a program: what a name stands for (see `target`), or a module.

        A task brings its test set and its metric; `dataset` and `metrics` replace them, and what is no task needs both.
        Several metrics score the same answers, each with its own interval; the first decides. `set` is one of the
        three sets, which one list or file is split into as `optimize` does it; without it, all its rows. `rows` draws
        so many of them by `seed`. Each of the `repeats` is another rollout of the same rows. More than `max_errors`
        failing rows end the run. Raises DataError for a row that the program has as a demonstration, and as
        `dspy_toolkit.evaluation.evaluate` does, with a ProgramEvaluation of the finished rows as `partial`.
        """
        request = EvaluationRequest(dataset=dataset, metrics=metrics, **options)
        target = self._target(program, request.model)
        rows = request.rows_for(self.resources, target)
        return request.measuring(self.resources, target).evaluate(target, rows, self._connect(target, request.model)())

    def compare(
        self,
        first: str | dspy.Module,
        second: str | dspy.Module,
        dataset: AnyData | None = None,
        metrics: AnyMetrics | None = None,
        *,
        second_model: Model = None,
        **options: Unpack[EvaluateKeywords],
    ) -> ProgramComparison:
        """Measure two programs on the same rows, as `evaluate` does, and compare them row by row.

        Rows and metric are those of the first where they are left out. The second runs on `second_model`, or else on
        `model`. Raises as `evaluate` does; an interruption has a ProgramComparison of the rows that both finished as
        `partial`, or the first's ProgramEvaluation.
        """
        request = EvaluationRequest(dataset=dataset, metrics=metrics, **options)
        targets = a, b = self._target(first, request.model), self._target(second, second_model or request.model)
        needed = [name for name in input_fields(b.plain()) if name not in input_fields(a.plain())]
        rows = request.rows_for(self.resources, a, keep=needed)
        return request.measuring(self.resources, a).compare(
            targets,
            (rows.for_program(a, b), rows.for_program(b, a)),
            (self._connect(a, request.model), self._connect(b, second_model or request.model)),
        )

    def _target(self, program: str | dspy.Module, model: Model) -> Target:
        target = self.target(program) if isinstance(program, str) else target_of(program)
        return target if model is None else replace(target, module=without_own_lms(target.module))

    def _connect(self, target: Target, model: Model) -> Callable[[], Any]:
        """Connects to the model of the call, else to that of DSPy's settings, else to the one of the project."""
        return lambda: self.lm(model or default_model(self.config.project(target.project).model))
