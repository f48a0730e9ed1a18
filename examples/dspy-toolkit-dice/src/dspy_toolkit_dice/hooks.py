"""The table of contents of the project `dice`. Imports nothing heavy: entries hold dotted names."""

from dspy_toolkit import hookimpl
from dspy_toolkit.types import ProviderEntry


@hookimpl
def toolkit_providers():
    yield ProviderEntry(
        name="dice",
        summary="No model: answers are drawn at random from the grammar of the signature.",
        connect="dspy_toolkit_dice.provider:connect",
        models="dspy_toolkit_dice.provider:models",
        doctor="dspy_toolkit_dice.provider:doctor",
    )
