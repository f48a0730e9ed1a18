"""A scripted LM that learns in context, for benchmarks where no model is installed.

It answers with the label of the example in its prompt that is most like the question, whether the example is a
demonstration or stands in the instruction; without one it says the first label. One answer in eight is spoiled, by the
hash of the prompt. Asked to write an instruction it quotes examples it was shown, and its instructions are as good as
those.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from math import sqrt
from typing import Any

from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.testing.scripted import prompt_text

__all__ = ["in_context_lm"]

_EXAMPLE = "An example is: {} => {}."


def in_context_lm(labels: tuple[str, ...], rows: Mapping[str, str], *, quoted: int = 2) -> Any:
    """`rows` are all texts with their labels; only what stands in a prompt is used. `quoted`: examples it writes."""

    def script(request: Any) -> Any:
        prompt = prompt_text(request)
        last_message = request.messages[-1].text
        question = _question(last_message)
        if question is None or "proposed_instruction" in prompt or "new_instruction" in prompt:
            return _written(prompt, last_message)
        demonstrations = [
            (_question(user.text), _label(reply.text))
            for user, reply in zip(request.messages, request.messages[1:], strict=False)
            if reply.role == "assistant"
        ]
        demonstrations += re.findall(r"An example is: (.+?) => (.+?)\.(?:\s|$)", prompt)
        taught = [(text, label) for text, label in demonstrations if text and label in labels]
        answer = max(taught, key=lambda example: _likeness(question, example[0]))[1] if taught else labels[0]
        draw = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
        return {"label": labels[draw // 8 % len(labels)] if draw % 8 == 0 else answer}

    def _written(prompt: str, last_message: str) -> dict[str, Any]:
        seen = [text for text in rows if text in prompt]
        start = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) % max(1, len(seen))
        chosen = (seen[start:] + seen[:start])[:quoted]
        text = " ".join(["Choose the label.", *(_EXAMPLE.format(example, rows[example]) for example in chosen)])
        fields = re.findall(r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`", last_message.split("Respond with")[-1])
        return {name: {"self": text} if name == "module_advice" else text for name in fields if name != "completed"}

    return ScriptedLM(script, model="scripted/in-context", cache=False)


def _question(text: str) -> str | None:
    match = re.search(r"\[\[ ## text ## \]\]\n(.+)", text)
    return match and match[1].strip()


def _label(text: str) -> str:
    match = re.search(r"\[\[ ## label ## \]\]\n(.+)", text)
    return match[1].strip() if match else ""


def _likeness(first: str, second: str) -> float:
    """Of two lists of measurements minus the distance of the numbers, each relative; else the words they share."""
    a, b = ([float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)] for text in (first, second))
    if len(a) == len(b) > 1:
        return -sqrt(sum(((x - y) / (abs(x) + abs(y) or 1)) ** 2 for x, y in zip(a, b, strict=True)))
    words, others = (Counter(re.findall(r"\w+", text.lower())) for text in (first, second))
    return sum((words & others).values()) / max(1, sum((words | others).values()))
