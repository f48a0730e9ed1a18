"""How many tokens an output field may take, said where the field is said.

    answer: Annotated[str, MaxTokens(40)] = dspy.OutputField()                       in a signature's class
    signature.with_updated_fields("answer", max_tokens=40)                           on a finished signature
    GuidedChatAdapter(field_tokens={"reasoning": 60})                                for all signatures of an adapter

It changes no prompt and no type. An engine without `supports_grammar` takes no notice of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy
from pydantic.fields import FieldInfo

__all__ = ["MaxTokens", "budgets_of"]


@dataclass(frozen=True)
class MaxTokens:
    """The most tokens of an output field's value; what is open when they are used up is closed. Raises ValueError."""

    tokens: int

    def __post_init__(self) -> None:
        _checked(self.tokens, "MaxTokens")


def budgets_of(signature: type[dspy.Signature], overrides: Mapping[str, int]) -> dict[str, int]:
    """The budgets of a signature's output fields; those `given` by name count before the signature's own."""
    budgets: dict[str, int] = {}
    for name, info in signature.output_fields.items():
        tokens = overrides.get(name, _own(name, info))
        if tokens is not None:
            budgets[name] = _checked(tokens, name)
    return budgets


def _own(name: str, info: FieldInfo) -> Any:
    for item in info.metadata:
        if isinstance(item, MaxTokens):
            return item.tokens
    extra = info.json_schema_extra
    return extra.get("max_tokens") if isinstance(extra, Mapping) else None


def _checked(tokens: Any, name: str) -> int:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"The token budget of {name!r} is {tokens!r}; expected a whole number above 0.")
    return tokens
