"""A language model that says what a test tells it to, on the real engine contract of DSPy 3.4."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dspy
from dspy.lm15 import Request

__all__ = ["Reply", "ScriptedEngine", "ScriptedLM"]

Reply = str | Mapping[str, Any] | BaseException
"""Text as it is; values of output fields, written in the format the request asks for; or an exception to raise."""


class ScriptedEngine:
    """`complete` and `stream` of a script; `.requests` are the requests seen, in the order they came."""

    def __init__(self, script: Iterable[Reply] | Callable[[Request], Reply], *, seconds: float = 0.0):
        raise NotImplementedError


def ScriptedLM(  # noqa: N802  # reads like dspy.LM, which it returns
    script: Iterable[Reply] | Callable[[Request], Reply],
    *,
    model: str = "scripted/test",
    seconds: float = 0.0,
    **kwargs: Any,
) -> dspy.LM:
    """A `dspy.LM` whose `.engine` is a ScriptedEngine. `seconds` is how long each call takes."""
    raise NotImplementedError
