"""What every operation needs: settings, plugins, models, names, stored programs and runs."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.framework.modules import ModuleRegistry
from dspy_toolkit.lm.cache import configure_cache
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.metrics.named import AnyMetrics, find_metric
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.programs.task import Task
from dspy_toolkit.runs.events import EventSink
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.runs import Runs
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.signatures.registry import SignatureRegistry
from dspy_toolkit.store.store import Store
from dspy_toolkit.tracking.process import tracked
from dspy_toolkit.types import TaskEntry, resolve

__all__ = ["Model", "Resources", "default_model"]

Model = str | dspy.BaseLM | None
"""A model string, the name of a profile, or an LM of DSPy's."""


def default_model(*settings: str | None) -> Model:
    """The LM of `dspy.context` or `dspy.configure`, else the first of `settings` that names one."""
    return dspy.settings.get("lm") or next(filter(None, settings), None)


class Resources:
    """Handed down instead of the framework. Making one loads no model.

    It configures nothing global but the cache folder, DSPy's and the plugins' (which have processes of their own and so
    read it from DSPY_TOOLKIT_CACHE).
    """

    def __init__(self, config: DSPyConfig, plugins: PluginManager):
        self.config = config
        self.plugins = plugins
        self.signatures = SignatureRegistry(plugins)
        self.modules = ModuleRegistry()
        self.store = Store(config.store)
        self.runs = Runs(config.runs)
        self._lms: dict[tuple[Any, ...], dspy.LM] = {}
        self._lock = threading.Lock()
        os.environ["DSPY_TOOLKIT_CACHE"] = str(config.cache)
        configure_cache(config.cache / "lm")

    def lm(self, model: Model = None, **options: Any) -> Any:
        """An LM for a model string or profile name; None is the default model. Equal calls share one LM.

        An LM stands for itself.
        `options` are those of `dspy.LM` and win over the profile's. Raises UnknownNameError for a profile or provider
        that does not exist, ModelError when the model cannot be loaded.
        """
        if isinstance(model, dspy.BaseLM):
            return model.copy(**options) if options else model
        profile = self.config.profile(model)
        merged = {**profile.model_dump(exclude={"model"}, exclude_none=True), **options}
        key = (profile.model, *sorted((name, repr(value)) for name, value in merged.items()))
        with self._lock:
            if key not in self._lms:
                connect = resolve(self.plugins.provider(profile.model).entry.connect)
                self._lms[key] = connect(profile.model, **merged)
            return self._lms[key]

    def adapter(self) -> dspy.Adapter:
        """The adapter of the settings: DSPy's prompts, with a grammar for models that support guided decoding."""
        return GuidedJSONAdapter() if self.config.adapter == "json" else GuidedChatAdapter()

    def metric(self, metrics: AnyMetrics, *, project: str | None = None) -> Metric:
        """One Metric from a metric, a name, or a list of them (their mean); see `dspy_toolkit.metrics.named`."""
        return find_metric(self.plugins, metrics, project=project)

    def task(self, name: str) -> Task:
        """The task `project/name`. Raises UnknownNameError, closest first."""
        return Task(self.plugins.get(TaskEntry, name), self.plugins)

    @contextmanager
    def recorded(self, on_event: EventSink | None = None, run: str | None = None) -> Iterator[Journal]:
        """The journal of a new run, or of the run with this id to resume, sent to MLflow as it is written.

        `on_event` receives what cannot be sent. Raises what `Runs.open` and `tracked` raise.
        """
        with self.runs.open(run) as journal, tracked(journal.folder, self.config, on_event):
            yield journal
