"""An optimization of a module, from what a framework was asked to a recorded run.

request ──▶ settings where it is silent ──▶ rows, metric, LM and optimizer found ──▶ a plan, or a run
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy

from dspy_toolkit.data.dataset import read_dataset
from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.framework.request import OptimizationRequest
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.optimize.budget import calls_for_search
from dspy_toolkit.optimize.optimization import optimize
from dspy_toolkit.optimize.optimizer import find_optimizer, load_optimizer, parse_params
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.planning.planner import plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.optimize.selection import OptimizerType, Situation, choose
from dspy_toolkit.optimize.spec import RunControls, RunSpec, Saved
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.runs.identity import differences
from dspy_toolkit.runs.runs import identity_key

if TYPE_CHECKING:
    from dspy_toolkit.framework.framework import DSPyFramework

__all__ = ["ModuleOptimization"]


@dataclass(frozen=True, kw_only=True)
class ModuleOptimization:
    """An optimization in which nothing is left to decide: what was named is found, and `auto` has chosen.

    `request` is what was asked for, with the settings where it was silent; `task` names the run.
    """

    framework: "DSPyFramework"
    request: OptimizationRequest
    spec: RunSpec

    @classmethod
    def of(
        cls, framework: "DSPyFramework", module: dspy.Module | str, request: OptimizationRequest, *, task: str
    ) -> "ModuleOptimization":
        """`module` may be a name in the framework's `modules`. A mistake in a name or a row is told before a model is
        loaded.

        Raises DataError, MetricError, ModelError, OptimizationError, SettingsError, UnknownNameError.
        """
        if isinstance(module, str):
            request = request.for_module(framework.modules.config(module))
            module = framework.modules.get(module)
        request = request.whole(framework.config)
        rows: Any = request.dataset
        if isinstance(rows, str | os.PathLike):
            rows = read_dataset(rows, module)
        name, parameters, reason = str(request.optimizer), request.parameters, ""
        auto = name.lower() == OptimizerType.AUTO
        if not auto:
            parse_params(load_optimizer(find_optimizer(framework.plugins, name).entry), parameters, name=name)
        data = prepare(rows, module, rows=request.rows, seed=request.seed or 0)
        metric, lm = framework.metric(request.metrics or ()), framework.lm(request.model)
        if auto:
            most = calls_for_search(request.limits, module, data)
            choice = choose(Situation.of(module, data, metric, lm, task_type=task, max_calls=most))
            name, parameters, reason = choice.optimizer, {**choice.parameters, **parameters}, choice.reason
        entry = find_optimizer(framework.plugins, name).entry
        spec = RunSpec(
            program=module, data=data, metric=metric, optimizer=load_optimizer(entry), optimizer_name=entry.name,
            params=parameters, lm=lm, adapter=framework.adapter(), seed=request.seed or 0, task=task, reason=reason,
        )  # fmt: skip
        return cls(framework=framework, request=request, spec=spec)

    def plan(self, *, measure: bool) -> Plan:
        """See `dspy_toolkit.optimize.planning.planner`."""
        return plan(self.spec, self._controls(), measure=measure)

    def run(
        self,
        *,
        on_event: EventSink | None,
        stop: threading.Event | None,
        resume: str | bool,
        save: Callable[[OptimizationResult], Saved] | None,
        asked: Mapping[str, Any],
        planned: Plan | None,
    ) -> OptimizationResult:
        """Recorded; see `DSPyFramework.optimize_module`."""
        run = self._unfinished() if resume is True else resume or None
        with self.framework.recorded(on_event, run) as journal:
            controls = self._controls(
                on_event=on_event, stop=stop or threading.Event(), journal=journal, save=save, plan=planned,
                options={**self.request.options(), **asked},
            )  # fmt: skip
            return optimize(self.spec, controls)

    def _controls(self, **options: Any) -> RunControls:
        return RunControls(
            num_threads=self.request.num_threads or 1,
            limits=self.request.limits or Limits(),
            max_errors=self.request.max_errors,
            connect=self.framework.lm,
            **options,
        )

    def _unfinished(self) -> str:
        """The newest unfinished run of the same spec."""
        requested = self.spec.identity()
        run = self.framework.runs.unfinished(identity_key(requested))
        if run is not None:
            return run.id
        other = self.framework.runs.find(self.spec.task)
        raise OptimizationError(
            f"No unfinished run was asked to do this. The newest, {other.id}, was asked something else: "
            f"{'; '.join(differences(other.identity, requested))}."
        )
