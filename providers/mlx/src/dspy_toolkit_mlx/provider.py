"""From a model string to a `dspy.LM`. All LMs of one model in a process share one engine, hence one copy of it."""

import inspect
import threading
from functools import partial
from typing import Any

from dspy_toolkit.errors import ModelError, closest_first
from dspy_toolkit_mlx.engine.engine import AsyncMLXEngine, MLXEngine
from dspy_toolkit_mlx.lm import MLXLM
from dspy_toolkit_mlx.models.resolve import ResolvedModel, load, resolve_model

__all__ = ["close", "connect", "engine_for"]

# What an engine takes besides its model; anything else in the options belongs to dspy.LM.
ENGINE_OPTIONS = frozenset(inspect.signature(MLXEngine).parameters) - {"load", "name", "check"}

_lock = threading.Lock()
_engines: dict[tuple[Any, ...], MLXEngine] = {}
_named: dict[str, MLXEngine] = {}


def connect(model: str, **options: Any) -> MLXLM:
    """Return an LM whose model is loaded and ready.

    `options` are those of `dspy.LM` (temperature, max_tokens, cache, ...) and of `MLXEngine` (deterministic, max_rows,
    max_kv_bytes, max_context, idle_seconds, ...). LMs share an engine when their model and their engine options are
    the same. The LM's model string is the resolved one: it changes with the content of the model, so DSPy's cache does
    not mix two revisions up.

    Raises UnknownNameError and ModelError: see resolve_model and load.
    """
    engine_options = {name: options.pop(name) for name in sorted(ENGINE_OPTIONS & set(options))}
    resolved = resolve_model(model)
    engine = _shared(resolved, engine_options)
    engine.start()
    return MLXLM(resolved.name, engine=engine, async_engine=AsyncMLXEngine(engine), **options)


def engine_for(model: str) -> MLXEngine:
    """The running engine of a model string with default options, looking a string up only the first time.

    For callers that have nothing but the string at every request (LiteLLM). A model whose files change is noticed by
    `connect`, not here.
    """
    engine = _named.get(model)
    if engine is None or not engine.health()["alive"]:
        engine = _shared(resolve_model(model), {})
        engine.start()
        _named[model] = engine
    return engine


def _shared(resolved: ResolvedModel, options: dict[str, Any]) -> MLXEngine:
    key = (resolved.name, *sorted(options.items()))
    with _lock:
        engine = _engines.get(key)
        if engine is None or not engine.health()["alive"]:
            engine = MLXEngine(partial(load, resolved), name=resolved.name, **options)
            _engines[key] = engine
        return engine


def close(model: str | None = None) -> None:
    """Free the engines of a resolved model string (`lm.model`), or of all models. Their LMs stop working.

    Raises ModelError if no engine of that name is there. At exit this happens by itself.
    """
    with _lock:
        chosen = [key for key in _engines if model in (None, key[0])]
        if model is not None and not chosen:
            have = ", ".join(closest_first(model, [key[0] for key in _engines])) or "none"
            raise ModelError(f"No engine of {model!r} is running. Running: {have}.")
        closing = [_engines.pop(key) for key in chosen]
        for name in [name for name, engine in _named.items() if engine in closing]:
            del _named[name]
    for engine in closing:
        engine.close()
