"""From a model string to a `dspy.LM`. All LMs of one model in a process share one engine, hence one copy of it."""

from dataclasses import fields
from typing import Any

from dspy_toolkit.errors import ModelError
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.install import install_command
from dspy_toolkit_mlx.models.resolve import resolve_model

try:
    from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
    from dspy_toolkit_mlx.engine.engine import close_shared, engine_for, shared_engine
    from dspy_toolkit_mlx.lm import MLXLM
except ImportError as error:
    raise ModelError(f"The provider mlx cannot run here: {error}. Do: {install_command()}") from error

__all__ = ["close", "connect", "engine_for"]

# Options of the engine; anything else belongs to dspy.LM.
ENGINE_OPTIONS = frozenset(field.name for field in fields(EngineOptions)) - {"check"}


def connect(model: str, **options: Any) -> MLXLM:
    """Return an LM whose model is loaded and ready.

    `options` are those of `dspy.LM` (temperature, max_tokens, cache, ...) and of EngineOptions (deterministic,
    max_rows, max_kv_bytes, ...). LMs share an engine when their model and their engine options are the same. The LM's
    model string is the resolved one: it changes with the content of the model, so DSPy's cache does not mix two
    revisions up.

    Raises UnknownNameError and ModelError: see resolve_model and load.
    """
    engine_options = EngineOptions(**{name: options.pop(name) for name in sorted(ENGINE_OPTIONS & set(options))})
    resolved = resolve_model(model)
    engine = shared_engine(resolved, engine_options)
    engine.start()
    return MLXLM(resolved.name, engine=engine, async_engine=AsyncMLXEngine(engine), **options)


def close(model: str | None = None) -> None:
    """Free the engines of a resolved model string (`lm.model`), or of all models. Their LMs stop working.

    Raises ModelError if no engine of that name is running. At exit this happens by itself.
    """
    close_shared(model)
