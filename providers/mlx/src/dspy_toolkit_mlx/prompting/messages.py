"""Messages as chat templates expect them."""

import json
from collections.abc import Sequence
from typing import Any

from dspy.lm15 import Message, Request, TextPart, ThinkingPart, ToolCallPart, ToolResultPart, UnsupportedFeatureError

from dspy_toolkit_mlx.decoding.tools import function_schema

__all__ = ["chat", "system_text"]

_DESCRIPTION = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within {start}{end} XML tags:
{start}
{{"name": <function-name>, "arguments": <args-json-object>}}
{end}"""


def chat(request: Request, described: tuple[str, str] | None, tools: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The messages of a request, the system message first.

    `described` are the marks around a call if the template has no tools: the system message then describes them, calls
    become text and results a user's turn.
    """
    messages = [plain for message in request.messages for plain in _plain(message)]
    system = system_text(request)
    if described is not None:
        messages = _flattened(messages, *described)
        if tools:
            listed = "\n".join(json.dumps(function_schema(tool), ensure_ascii=False) for tool in tools)
            text = _DESCRIPTION.format(tools=listed, start=described[0], end=described[1])
            system = f"{system}\n\n{text}" if system else text
    return [{"role": "system", "content": system}, *messages] if system else messages


def system_text(request: Request) -> str:
    if request.system is None:
        return ""
    if isinstance(request.system, str):
        return request.system
    return "".join(_text(part, "system") for part in request.system)


def _text(part: Any, where: str) -> str:
    if isinstance(part, TextPart):
        return part.text
    raise UnsupportedFeatureError(f"{where}: this engine reads text, not {part.type}.", feature=where)


def _plain(message: Message) -> list[dict[str, Any]]:
    """One message, or one for each tool result in it."""
    out: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            calls.append({"type": "function", "id": part.id, "function": {"name": part.name, "arguments": part.input}})
        elif isinstance(part, ToolResultPart):
            content = "".join(_text(inner, "messages") for inner in part.content)
            results.append({"role": "tool", "tool_call_id": part.id, "name": part.name, "content": content})
        elif isinstance(part, ThinkingPart):
            out["reasoning_content"] = part.text
        else:
            texts.append(_text(part, "messages"))
    out["content"] = "".join(texts)
    if calls:
        out["tool_calls"] = calls
    return [*results, out] if texts or calls or not results else results


def _flattened(messages: list[dict[str, Any]], start: str, end: str) -> list[dict[str, Any]]:
    """Calls and results as text; consecutive user turns become one."""
    flattened: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        for call in message.get("tool_calls", ()):
            written = json.dumps(call["function"], ensure_ascii=False)
            content += f"{chr(10) if content else ''}{start}\n{written}\n{end}"
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        if flattened and role == "user" and flattened[-1].get("joins") and (flattened[-1]["role"] == "user"):
            flattened[-1]["content"] += f"\n{content}"
        else:
            flattened.append({"role": role, "content": content})
            if "reasoning_content" in message:
                flattened[-1]["reasoning_content"] = message["reasoning_content"]
        flattened[-1]["joins"] = message["role"] == "tool"
    for message in flattened:
        del message["joins"]
    return flattened
