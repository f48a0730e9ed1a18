"""The messages a program sends, as text."""

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["messages", "prompt_markdown"]


def messages(
    program: dspy.Module, inputs: Mapping[str, Any], adapter: dspy.Adapter | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Each predictor's messages for `inputs`. An input that only another predictor makes appears as `{its name}`."""
    adapter = adapter or dspy.ChatAdapter()
    signatures = signatures_of(program)
    return {
        name: adapter.format(
            signature=signatures[name],
            demos=predictor.demos,
            inputs={field: inputs.get(field, f"{{{field}}}") for field in signatures[name].input_fields},
        )
        for name, predictor in program.named_predictors()
    }


def prompt_markdown(program: dspy.Module, inputs: Mapping[str, Any], adapter: dspy.Adapter | None = None) -> str:
    """The same for people: a heading per predictor, a fenced block per message."""
    parts = ["# What this program sends\n\nFor one example. Each block is one message, word for word.\n"]
    for name, sent in messages(program, inputs, adapter).items():
        parts.append(f"## {name}\n")
        for message in sent:
            content = message["content"]
            text = content if isinstance(content, str) else "\n".join(str(part.get("text", part)) for part in content)
            fence = "`" * max(3, _longest_run(text) + 1)
            parts.append(f"**{message['role']}**\n\n{fence}text\n{text}\n{fence}\n")
    return "\n".join(parts)


def _longest_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest
