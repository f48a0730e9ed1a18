"""Which tools a request may call and how: the request's tools and tool choice, checked."""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dspy.lm15 import FunctionTool, InvalidRequestError, Request, UnsupportedFeatureError

__all__ = ["ToolPlan", "call_id", "function_schema", "tool_plan"]


@dataclass(frozen=True)
class ToolPlan:
    """`tools` may be called; with `required` the answer is calls only; `several` allows more than one.

    `declared` are all tools of the request, which the prompt describes.
    """

    tools: tuple[FunctionTool, ...]
    declared: tuple[FunctionTool, ...]
    mode: Literal["auto", "required"]
    several: bool

    @property
    def required(self) -> bool:
        return self.mode == "required"


def function_schema(tool: Any) -> dict[str, Any]:
    """A function tool as chat templates and parsers expect it. Raises UnsupportedFeatureError for other tools."""
    if tool.type != "function":
        raise UnsupportedFeatureError(f"The tool {tool.name!r} is not a function.", feature="tools")
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters}
    return {"type": "function", "function": function}


def tool_plan(request: Request) -> ToolPlan | None:
    """None when nothing may be called. Raises InvalidRequestError and UnsupportedFeatureError."""
    choice = request.config.tool_choice
    if choice is not None and choice.mode == "none":
        return None
    if not request.tools:
        if choice is not None and choice.mode == "required":
            raise InvalidRequestError("tool_choice asks for a tool call, but the request declares no tools.")
        return None
    declared: list[FunctionTool] = []
    for tool in request.tools:
        function_schema(tool)
        assert isinstance(tool, FunctionTool)
        declared.append(tool)
    allowed: Sequence[str] = () if choice is None else choice.allowed
    return ToolPlan(
        tools=tuple(tool for tool in declared if not allowed or tool.name in allowed),
        declared=tuple(declared),
        mode="required" if choice is not None and choice.mode == "required" else "auto",
        several=choice is None or choice.parallel is not False,
    )


def call_id() -> str:
    """A fresh id: nine letters and digits, the only form that Mistral's templates take."""
    return "".join(random.SystemRandom().choices(string.ascii_letters + string.digits, k=9))
