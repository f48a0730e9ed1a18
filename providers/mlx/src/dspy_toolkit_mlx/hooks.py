"""The table of contents of the project `mlx`."""

from dspy_toolkit import hookimpl
from dspy_toolkit.types import ProviderEntry


@hookimpl
def toolkit_providers() -> list[ProviderEntry]:
    return [
        ProviderEntry(
            name="mlx",
            summary="Models that run in this process, on MLX: an alias, a directory, a GGUF file or a hub id.",
            connect="dspy_toolkit_mlx.provider:connect",
            models="dspy_toolkit_mlx.models.resolve:local_models",
            doctor="dspy_toolkit_mlx.doctor:doctor",
        )
    ]
