"""From a model string to an LM, what models there are, and whether they work here."""

from collections.abc import Iterable
from typing import Any

from dspy_toolkit.engine import EngineLM
from dspy_toolkit.errors import ModelError
from dspy_toolkit.types import Check

MODEL = "dice/bytes"


def connect(model: str, *, context_length: int = 8192, **options: Any) -> EngineLM:
    """The LM of a model string. `context_length` is the engine's, in bytes; the other options are those of `dspy.LM`.

    The model string is all that DSPy's cache knows of the engine, so what changes answers belongs into it.
    """
    if model != MODEL:
        raise ModelError(f"There is no model {model!r}; this provider has {MODEL!r} only.")
    from dspy_toolkit_dice.engine import AsyncDiceEngine, DiceEngine

    engine = DiceEngine(context_length=context_length)
    return EngineLM(model, engine=engine, async_engine=AsyncDiceEngine(engine), **options)


def models() -> Iterable[str]:
    yield MODEL


def doctor() -> Iterable[Check]:
    try:
        import llguidance
    except ImportError as error:
        yield Check(name="llguidance", ok=False, detail=str(error), remedy="pip install 'llguidance>=1.9.1,<2'")
    else:
        yield Check(name="llguidance", ok=True, detail=f"grammars are followed by {llguidance.__name__}")
