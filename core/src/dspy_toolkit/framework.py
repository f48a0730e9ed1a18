"""`DSPyFramework`: one object that knows the settings, the plugins, the models and the stored programs."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dspy

from dspy_toolkit.adapters import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.errors import DataError, MetricError, OptimizationError, PluginError, UnknownNameError
from dspy_toolkit.evaluation import ProgramComparison, ProgramEvaluation, Target
from dspy_toolkit.evaluation.measuring import Measuring
from dspy_toolkit.evaluation.rows import AnyData, EvaluationRows, SetName, rows_of
from dspy_toolkit.evaluation.target import find_target, target_of
from dspy_toolkit.metrics import Metric
from dspy_toolkit.modules import ModuleRegistry, ProjectSignatureConfig
from dspy_toolkit.optimize import (
    EventSink,
    Limits,
    OptimizationResult,
    OptimizerType,
    Plan,
    Runs,
    Situation,
    check_parameters,
    choose,
    configure_cache,
    find_optimizer,
    input_fields,
    optimize,
    plan,
    prepare,
    read_dataset,
)
from dspy_toolkit.optimize.again import asked_again, asked_with, going_on, limits_given, rows_again
from dspy_toolkit.optimize.budget import calls_for_search
from dspy_toolkit.optimize.identity import differences, identity
from dspy_toolkit.optimize.journal import Journal
from dspy_toolkit.optimize.run import Saved
from dspy_toolkit.optimize.runs import identity_key
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.program import Program
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.signatures.registry import SignatureRegistry
from dspy_toolkit.store import Store, Version
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
        """What a name stands for: a task, a stored version, a signature, or code; see `dspy_toolkit.evaluation.target`.

        Raises UnknownNameError, BundleError, FingerprintError, SignatureError, PluginError.
        """
        return find_target(self, name, plain=plain)

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
        asked: Mapping[str, Any] | None = None,
        planned: Plan | None = None,
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
        that was asked to do the same; limits may differ. `asked` is what else would ask for it, for the record.
        `planned` is a plan made before; without it the run makes one by itself, without measuring.
        Raises DataError, OptimizationError, OptimizationInterrupted (with what was found), UnknownNameError.
        """
        module, optimizer, parameters = self._module(module, optimizer, parameters)
        seed, num_threads = self._seed(seed), num_threads or self.config.num_threads
        max_errors = self.config.max_errors if max_errors is None else max_errors
        options = {
            "optimizer": optimizer,
            "model": model or self.config.model,
            "seed": seed,
            "rows": dict(rows or {}),
            "parameters": dict(parameters),
            "num_threads": num_threads,
            "limits": limits_given(limits),
            "max_errors": max_errors,
            **(asked or {}),
        }
        decided = self._decided(
            module, dataset, metrics, task_type, optimizer, model, seed, rows, num_threads, parameters, limits
        )
        if resume is True:
            named = ("program", "data", "parameters", "lm", "adapter", "seed", "task")
            same = identity(
                **{name: decided[name] for name in named},
                metric=decided["metric"].name,
                optimizer=decided["optimizer_name"],
            )
            resume = self._unfinished(same)
        with self.runs.open(resume or None) as journal, tracked(journal.folder, self.config, on_event):
            return optimize(
                **decided,
                on_event=on_event,
                stop=stop,
                limits=limits,
                max_errors=max_errors,
                journal=journal,
                options=options,
                save=save,
                planned=planned,
            )

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
        num_threads: int | None = None,
        measure: bool = True,
        **parameters: Any,
    ) -> Plan:
        """What `optimize_module` with the same arguments will take: calls, tokens, minutes, money, with ranges.

        `measure` runs some training rows for about ten seconds (see `dspy_toolkit.optimize.plan`). Raises as
        `optimize_module` does before its first call.
        """
        module, optimizer, parameters = self._module(module, optimizer, parameters)
        num_threads = num_threads or self.config.num_threads
        decided = self._decided(
            module, dataset, metrics, task_type, optimizer, model, self._seed(seed), rows, num_threads, parameters
        )
        return plan(**decided, measure=measure)

    def _module(
        self, module: dspy.Module | str, optimizer: str | None, parameters: Mapping[str, Any]
    ) -> tuple[dspy.Module, str, dict[str, Any]]:
        """A module, found if it was named, with the optimizer and parameters it was registered with."""
        if isinstance(module, str):
            settings = self.modules.config(module)
            if optimizer is None and settings is not None and settings.optimizer:
                optimizer, parameters = settings.optimizer, {**settings.optimizer_params, **parameters}
            module = self.modules.get(module)
        return module, optimizer or "bootstrap", dict(parameters)

    def _decided(
        self,
        module: dspy.Module,
        dataset: TaskData | Sequence[Mapping[str, Any] | dspy.Example] | str | os.PathLike[str],
        metrics: AnyMetric | Sequence[AnyMetric],
        task_type: str,
        name: str,
        model: str | None,
        seed: int,
        rows: Mapping[str, int] | None,
        num_threads: int,
        parameters: Mapping[str, Any],
        limits: Limits | None = None,
    ) -> dict[str, Any]:
        """What `optimize` and `plan` are both given: everything that was named is found, and `auto` has chosen."""
        if isinstance(dataset, str | os.PathLike):
            dataset = read_dataset(dataset, module)
        reason = ""
        if name.lower() != OptimizerType.AUTO:
            # A typing mistake is told before a model is loaded.
            check_parameters(resolve(find_optimizer(self.plugins, name).entry.optimizer), name, parameters)
        data = prepare(dataset, module, rows=rows, seed=seed)
        metric, lm = self.metric(metrics), self.lm(model)
        if name.lower() == OptimizerType.AUTO:
            known = {"task_type": task_type, "max_calls": calls_for_search(limits, module, data)}
            choice = choose(Situation.of(module, data, metric, lm, **known))
            name, reason, parameters = choice.optimizer, choice.reason, {**choice.parameters, **parameters}
        found = find_optimizer(self.plugins, name).entry
        function = resolve(found.optimizer)
        return {
            "program": module,
            "data": data,
            "metric": metric,
            "optimizer": function,
            "optimizer_name": found.name,
            "parameters": check_parameters(function, found.name, parameters),
            "lm": lm,
            "adapter": self.adapter(),
            "seed": seed,
            "num_threads": num_threads,
            "task": task_type,
            "reason": reason,
            "connect": self.lm,
        }

    def optimize_task(
        self,
        name: str,
        *,
        dataset: AnyData | None = None,
        metrics: AnyMetric | Sequence[AnyMetric] | None = None,
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
        target = self.target(name, plain=True)
        run = None if resume is False else self.runs.find(target.name, None if resume is True else resume)
        given: dict[str, Any] = {
            "optimizer": optimizer,
            "model": model,
            "seed": seed,
            "num_threads": num_threads,
            "limits": limits,
            "max_errors": max_errors,
        }
        if run is None:
            options = {**given, **self._options(target, optimizer, model, rows or {}, parameters or {}, dataset)}
        else:
            dataset, metrics = rows_again(run, dataset, metrics)
            options = asked_again(run, self.plugins, **given, rows=rows or {}, parameters=parameters or {})
        data, example_inputs = self._training_data(target, dataset)
        stored: list[Version] = []

        def save(result: OptimizationResult) -> Saved:
            version = self.store.save(result, example_inputs=example_inputs, adapter=self.adapter())
            stored.append(version)
            return f"{version.task}@{version.name}", str(version.bundle.path)

        try:
            result = self.optimize_module(
                target.module,
                data,
                self._metrics(target, metrics),
                task_type=target.name,
                on_event=on_event,
                stop=stop,
                resume=run.id if run else False,
                save=save,
                asked=asked_with(name, dataset, metrics),
                planned=planned,
                **options,
            )
        except OptimizationError as error:
            told = going_on(name, error, [version.name for version in stored], target.name)
            raise told from (None if told is error else error)
        return result, stored[-1]

    def plan_task(
        self,
        name: str,
        *,
        dataset: AnyData | None = None,
        metrics: AnyMetric | Sequence[AnyMetric] | None = None,
        optimizer: str | None = None,
        model: str | None = None,
        seed: int | None = None,
        rows: Mapping[str, int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        num_threads: int | None = None,
        measure: bool = True,
    ) -> Plan:
        """What `optimize_task` with the same arguments will take; see `plan_module`. Nothing is stored."""
        target = self.target(name, plain=True)
        return self.plan_module(
            target.module,
            self._training_data(target, dataset)[0],
            self._metrics(target, metrics),
            task_type=target.name,
            seed=seed,
            num_threads=num_threads,
            measure=measure,
            **self._options(target, optimizer, model, rows or {}, parameters or {}, dataset),
        )

    def _options(
        self,
        target: Target,
        optimizer: str | None,
        model: str | None,
        rows: Mapping[str, int],
        parameters: Mapping[str, Any],
        dataset: AnyData | None,
    ) -> dict[str, Any]:
        """What is given, over the project's settings, over the task's own."""
        project, entry = self.config.project(target.project), target.task and target.task.entry
        optimizer = optimizer or project.optimizer or (entry.optimizer if entry else "bootstrap")
        # Parameters belong to the optimizer they were written for.
        defaults = dict(entry.optimizer_params) if entry and optimizer == entry.optimizer else {}
        if optimizer == (project.optimizer or (entry.optimizer if entry else "bootstrap")):
            defaults |= project.optimizer_params
        return {
            "optimizer": optimizer,
            "model": model or project.model,
            "rows": {**(entry.rows if entry and dataset is None else {}), **project.rows, **rows},
            **defaults,
            **parameters,
        }

    def _training_data(self, target: Target, dataset: AnyData | None) -> tuple[AnyData, Mapping[str, Any]]:
        """The rows, and the inputs that show what the program is about."""
        if dataset is None and target.task is None:
            raise DataError(f"{target.name} has no rows of its own; give some (--data FILE, or `dataset` in Python).")
        if dataset is None:
            assert target.task is not None
            return target.task.data(), target.task.example_inputs()
        program = target.plain()
        if isinstance(dataset, str | os.PathLike):
            dataset = read_dataset(dataset, program)
        first = dict((dataset.test if isinstance(dataset, TaskData) else dataset)[0].items())
        return dataset, {name: first[name] for name in input_fields(program) if name in first}

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

    # --- measuring

    def evaluate(
        self,
        program: str | dspy.Module,
        dataset: AnyData | None = None,
        metrics: AnyMetric | Sequence[AnyMetric] | None = None,
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
        `dspy_toolkit.optimize.evaluate` does, with a ProgramEvaluation of what was finished as `partial`.
        """
        target = self._target(program)
        chosen = self._rows(target, dataset, set, rows, seed)
        measuring = self._measuring(target, metrics, repeats, seed, max_errors, on_event, stop)
        return measuring.evaluate(target, chosen, self.lm(model or self.config.project(target.project).model))

    def compare(
        self,
        first: str | dspy.Module,
        second: str | dspy.Module,
        dataset: AnyData | None = None,
        metrics: AnyMetric | Sequence[AnyMetric] | None = None,
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
        targets = self._target(first), self._target(second)
        needed = [name for name in input_fields(targets[1].plain()) if name not in input_fields(targets[0].plain())]
        chosen = self._rows(targets[0], dataset, set, rows, seed, keep=needed)
        measuring = self._measuring(targets[0], metrics, repeats, seed, max_errors, on_event, stop)
        models = model, second_model or model

        def connect(target: Target, model: str | None) -> Callable[[], dspy.LM]:
            return lambda: self.lm(model or self.config.project(target.project).model)

        return measuring.compare(
            targets,
            (chosen.for_program(*targets), chosen.for_program(*targets[::-1])),
            (connect(targets[0], models[0]), connect(targets[1], models[1])),
        )

    def _target(self, program: str | dspy.Module) -> Target:
        return self.target(program) if isinstance(program, str) else target_of(program)

    def _rows(
        self,
        target: Target,
        dataset: AnyData | None,
        which: SetName | None,
        count: int | None,
        seed: int | None,
        keep: Sequence[str] = (),
    ) -> EvaluationRows:
        if count is None and dataset is None and target.task is not None:
            drawn = {**target.task.entry.rows, **self.config.project(target.project).rows}
            count = drawn.get(which or "test")
        return rows_of(target, dataset, which=which, count=count, seed=self._seed(seed), keep=keep)

    def _measuring(
        self,
        target: Target,
        metrics: AnyMetric | Sequence[AnyMetric] | None,
        repeats: int,
        seed: int | None,
        max_errors: int | None,
        on_event: EventSink | None,
        stop: threading.Event | None,
    ) -> Measuring:
        return Measuring(
            metrics=self._metrics(target, metrics),
            adapter=self.adapter(),
            repeats=repeats,
            seed=self._seed(seed),
            num_threads=self.config.num_threads,
            max_errors=max_errors,
            on_event=on_event,
            stop=stop,
            open_journal=self._recorded,
        )

    @contextmanager
    def _recorded(self, on_event: EventSink | None) -> Iterator[Journal]:
        """The journal of a new run, which is sent to MLflow as it is written."""
        with self.runs.open() as journal, tracked(journal.folder, self.config, on_event):
            yield journal

    def _metrics(self, target: Target, metrics: AnyMetric | Sequence[AnyMetric] | None) -> list[Metric]:
        """The metrics asked for, or the task's."""
        if metrics is None or (isinstance(metrics, Sequence) and not isinstance(metrics, str) and not metrics):
            if target.task is None:
                known = ", ".join(self.plugins.entries(MetricEntry))
                raise MetricError(f"{target.name} has no metric of its own; name one (--metric): {known}.")
            return [target.task.metric()]
        several = [metrics] if isinstance(metrics, str | Metric) or callable(metrics) else list(metrics)
        return [self.metric(each, project=target.project) for each in several]

    def metric(self, metrics: AnyMetric | Sequence[AnyMetric], *, project: str | None = None) -> Metric:
        """One Metric from a metric, a name, or a list of them (their mean).

        A name is a plugin's (`core/exact-match`, `exact_match`; `project` is asked first), or that of code:
        `my_package.metrics:strict`.
        """
        if isinstance(metrics, str):
            return self._named_metric(metrics, project)
        if isinstance(metrics, Metric) or callable(metrics):
            return metrics if isinstance(metrics, Metric) else Metric(metrics)
        return Metric.mean([self.metric(one, project=project) for one in metrics])

    def _named_metric(self, name: str, project: str | None) -> Metric:
        if ":" in name:
            try:
                found = resolve(name)
            except PluginError as error:
                raise MetricError(
                    f"The metric {name!r} cannot be imported: {error.__cause__}. Expected package.module:attribute."
                ) from error
            return Metric(found() if isinstance(found, type) else found, name=name)
        try:
            entry = self.plugins.get(MetricEntry, name, project=project)
        except UnknownNameError:
            # Python's spelling of a name, as people know it from functions.
            spelled = name.replace("_", "-")
            if spelled == name:
                raise
            entry = self.plugins.get(MetricEntry, spelled, project=project)
        return Metric(resolve(entry.entry.metric), name=entry.qualified_name)

    def _seed(self, seed: int | None) -> int:
        return self.config.seed if seed is None else seed
