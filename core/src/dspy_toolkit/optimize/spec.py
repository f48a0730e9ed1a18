"""What a run is (`RunSpec`) and how it is carried out (`RunControls`)."""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dspy
from pydantic import BaseModel

from dspy_toolkit.data.splits import Splits, digest
from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.optimize.optimizer import as_optimizer, parameter_values, parse_params
from dspy_toolkit.optimize.planning.plan import Plan
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.programs.own_lms import model_names, own_lms, pinned
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.runs.identity import state_digest
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.signatures.fingerprints import fingerprint
from dspy_toolkit.values import plain, type_name
from dspy_toolkit.version import __version__

__all__ = ["RunControls", "RunSpec", "Saved"]

Saved = tuple[str, str]
"""The version a program was stored as, `task@v3`, and the path of its bundle."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSpec:
    """Everything that decides the outcome of a run; two runs with equal identities are the same run.

    `program` is left as it was. `metric` may be any callable, `optimizer` whatever `as_optimizer` takes, and `params` a
    mapping; they become an Optimizer and an instance of its `Params`. `reason` is why this optimizer, if it was chosen
    by rule. What is derived from these is computed once.

    Raises UnknownNameError for a parameter that does not exist, SettingsError for one with a bad value.
    """

    program: dspy.Module
    data: Splits
    metric: Metric | Callable[..., Any]
    optimizer: Any
    optimizer_name: str = ""
    params: Any = field(default_factory=dict)
    lm: Any
    adapter: dspy.Adapter | None = None
    seed: int = 0
    task: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        name = self.optimizer_name or getattr(self.optimizer, "__name__", type(self.optimizer).__name__)
        optimizer = as_optimizer(self.optimizer, name=name)
        object.__setattr__(self, "optimizer_name", name)
        object.__setattr__(self, "optimizer", optimizer)
        if not isinstance(self.params, BaseModel):
            object.__setattr__(self, "params", parse_params(optimizer, self.params, name=name))

    @cached_property
    def lm_info(self) -> LMInfo:
        return LMInfo.of(self.lm)

    @property
    def model(self) -> str:
        return self.lm_info.model

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """`params` by name."""
        return parameter_values(self.params)

    @cached_property
    def metric_name(self) -> str:
        return Metric(self.metric).name

    @cached_property
    def data_digest(self) -> str:
        return digest(self.data)

    @cached_property
    def window(self) -> ContextWindow | None:
        """How much a prompt may hold, or None where the model does not tell."""
        return ContextWindow.of(self.lm)

    @cached_property
    def rollouts_per_row(self) -> float:
        """How many times as often as `program` the optimizer's result asks its LM."""
        return self.optimizer.rollouts_per_row(self.params)

    @cached_property
    def models(self) -> dict[str, str]:
        """The models of predictors that bring an LM of their own; the others use `model`."""
        return model_names(self.program)

    @cached_property
    def search_program(self) -> dspy.Module:
        """What the optimizer starts from: `program`, whose predictors keep their own LMs in whatever it makes of it."""
        return pinned(self.program)

    def context(self) -> AbstractContextManager[None]:
        """DSPy's settings for everything the run asks."""
        adapter = {} if self.adapter is None else {"adapter": self.adapter}
        return dspy.context(lm=self.lm, disable_history=True, **adapter)

    def identity(self) -> dict[str, Any]:
        """What decides the outcome, as plain data. Budgets, threads and where things are stored do not."""
        lms = {name: LMInfo.of(lm) for name, lm in own_lms(self.program).items()}
        models = {name: {"model": info.model, **info.options} for name, info in lms.items()}
        return {
            "task": self.task,
            "optimizer": self.optimizer_name,
            "parameters": plain(self.parameters, fallback=type_name),
            "seed": self.seed,
            "metric": self.metric_name,
            "model": self.model,
            "model_options": dict(self.lm_info.options),
            **({"predictor_models": models} if models else {}),
            "adapter": type(self.adapter or dspy.ChatAdapter()).__name__,
            "data_digest": self.data_digest,
            "rows": self.data.sizes,
            "fingerprint": fingerprint(self.program),
            "program": state_digest(self.program),
            "version": __version__,
        }


@dataclass(frozen=True, kw_only=True)
class RunControls:
    """How a run is carried out. None of it decides what the outcome is, only whether and when the run gets there.

    `limits` are those of the whole run; when the search has spent its share, the best program so far is measured and is
    the result. More than `max_errors` failing rows end the run; None allows any number. `connect` turns a model string
    into an LM, for optimizers with a parameter that names a second model. `save` is called with a result that has a
    program, finished or interrupted, before its end is recorded. What happens is written to `journal`, with `options`,
    which are what would request the run again. `plan` is a plan made before; without it the run makes one, without
    measuring. `notes` are emitted as the run begins.
    """

    num_threads: int = 1
    limits: Limits = field(default_factory=Limits)
    max_errors: int | None = None
    on_event: EventSink | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    save: Callable[[OptimizationResult], Saved] | None = None
    connect: Callable[[str], Any] | None = None
    notes: tuple[str, ...] = ()
    journal: Journal | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
