"""What a token costs, where a model has a list price."""

import sys
from dataclasses import dataclass

__all__ = ["Price", "price_of"]


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per token read and written."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost at most: providers give discounts, for one on prompts they have cached."""
        return input_tokens * self.input + output_tokens * self.output


def price_of(model: str) -> Price | None:
    """The list price of a model by LiteLLM's table, or None if it has none: local models are free.

    Looks only if LiteLLM is imported, which costs seconds: a model that is called through it has it imported.
    """
    if (litellm := sys.modules.get("litellm")) is None:
        return None
    known = litellm.model_cost.get(model) or litellm.model_cost.get(model.partition("/")[2]) or {}
    read, written = known.get("input_cost_per_token"), known.get("output_cost_per_token")
    if not read and not written:
        return None
    return Price(input=read or 0.0, output=written or 0.0)
