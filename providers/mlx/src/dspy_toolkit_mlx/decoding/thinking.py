"""Models that think before they answer: their tags, whether a prompt has opened a thought, how long it may be."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dspy.lm15 import Reasoning

from dspy_toolkit_mlx.models.tokenizers import chat_template_text, has_template_function

__all__ = ["SHARES", "Thinker", "ThoughtPlan", "budget", "thinker", "thinking_variables"]

SHARES = {"minimal": 1 / 8, "low": 1 / 4, "medium": 1 / 2, "high": 3 / 4, "xhigh": 7 / 8, "max": 7 / 8}
"""What part of max_tokens a thought may take, by the requested effort; half of it without one."""


@dataclass(frozen=True)
class ThoughtPlan:
    """The thought of an answer: see stages.Thought for `opened` and `requested`. `budget` is in tokens."""

    opened: bool
    requested: bool
    budget: int


@dataclass(frozen=True)
class Thinker:
    """A tokenizer's tags around thoughts, as text and as tokens. `after` follows the closing tag before an answer."""

    start: str
    end: str
    start_tokens: tuple[int, ...]
    end_token: int
    after: str
    after_tokens: tuple[int, ...]

    def settle(self, prompt: str, *, requested: bool | None, constrained: bool) -> tuple[str, bool | None]:
        """The prompt, and whether it ends inside a thought; None if no thought may follow.

        `requested` is what the request says, if anything. A `constrained` answer has no thought unless requested: one
        that the template has opened is closed.
        """
        bare = prompt.rstrip()
        thinks = requested if requested is not None else not constrained
        if bare.endswith(self.start):
            return (prompt, True) if thinks else (f"{bare}\n\n{self.end}{self.after}", None)
        return prompt, False if thinks and not bare.endswith(self.end) else None


def budget(reasoning: Reasoning | None, tokens: int | None, max_tokens: int) -> int:
    """How many tokens a thought may take: the requested number, but an eighth of max_tokens is left to answer."""
    most = max(1, max_tokens * 7 // 8)
    requested = tokens or (reasoning.thinking_budget if reasoning is not None else None)
    if requested is not None:
        return min(requested, most)
    share = SHARES.get(reasoning.effort, 1 / 2) if reasoning is not None else 1 / 2
    return max(1, min(int(max_tokens * share), most))


def thinker(tokenizer: Any, encode: Callable[[str], list[int]]) -> Thinker | None:
    """The tags of an mlx-lm tokenizer whose template has thoughts; None if it has none.

    Some vocabularies have the tags although the model was not trained to think; then the template has none.
    """
    ends = tokenizer.think_end_tokens
    if not tokenizer.has_thinking or not ends or len(ends) != 1:
        return None
    signs = (tokenizer.think_start, tokenizer.think_end, "enable_thinking")
    if not has_template_function(tokenizer) and not any(sign in chat_template_text(tokenizer) for sign in signs):
        return None
    after = "\n\n" if tokenizer.think_end == "</think>" else ""
    return Thinker(
        tokenizer.think_start,
        tokenizer.think_end,
        tuple(tokenizer.think_start_tokens),
        ends[0],
        after,
        tuple(encode(after)) if after else (),
    )


def thinking_variables(tokenizer: Any) -> tuple[str, ...]:
    """The names by which a template asks whether to think: mlx-lm's, and `thinking` where a template reads that."""
    if not has_template_function(tokenizer) and re.search(r"\bthinking\b", chat_template_text(tokenizer)):
        return "enable_thinking", "thinking"
    return ("enable_thinking",)
