"""Keeping prompts inside the model's context, by the model's own tokenizer.

An engine takes part by two attributes, both optional in DSPy's engine contract:

    count_tokens(messages: list[dict]) -> int   tokens of a chat prompt as it would be sent, template included
    context_length: int                         most tokens of prompt and answer together

An LM without them is left alone: without its tokenizer every number would be a guess.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.data.splits import Splits
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["ContextWindow"]

_ANSWER = 256  # tokens left for the answer where the LM does not say how many it may write


@dataclass(frozen=True, kw_only=True)
class ContextWindow:
    """How much a prompt may hold: `limit` tokens, which is the model's context less what the answer may take."""

    limit: int
    count: Callable[[Sequence[Mapping[str, Any]]], int]

    @classmethod
    def of(cls, lm: Any) -> "ContextWindow | None":
        """The window of an LM whose engine tells its tokenizer and context length, else None."""
        info = LMInfo.of(lm)
        if info.count_tokens is None or info.context_length is None:
            return None
        answer = min(info.max_tokens or _ANSWER, info.context_length // 2)
        return cls(limit=max(1, info.context_length - answer), count=info.count_tokens)

    def tokens(
        self, signature: type[dspy.Signature], demos: Sequence[Any], inputs: Mapping[str, Any], adapter: Any = None
    ) -> int:
        """The length of one prompt. An input that only another predictor makes counts as its name."""
        adapter = adapter or dspy.settings.adapter or dspy.ChatAdapter()
        filled = {field: inputs.get(field, f"{{{field}}}") for field in signature.input_fields}
        return self.count(adapter.format(signature=signature, demos=list(demos), inputs=filled))

    def demos_that_fit(self, program: dspy.Module, rows: Iterable[dspy.Example]) -> int | None:
        """How many demonstrations as long as the longest row fit beside the longest input, in every predictor.

        None when no row shows what a demonstration looks like.
        """
        rows = list(rows)
        fit = None
        for signature in signatures_of(program).values():
            longest = _longest(rows, signature)
            if longest is None:
                continue
            bare = self.tokens(signature, [], longest)
            demo = max(1, self.tokens(signature, [longest], longest) - bare)
            here = max(0, (self.limit - bare) // demo)
            fit = here if fit is None else min(fit, here)
        return fit

    def fit(self, program: dspy.Module, data: Splits, *, note: Callable[[str], None]) -> dspy.Module:
        """The program itself if its prompts fit for the longest rows, else a copy with fewer demonstrations.

        Whole demonstrations are dropped, the last first, and `note` gets a message with their number. Labels play no
        part, only lengths.
        """
        rows = [*data.train, *data.validation, *data.test]
        signatures = signatures_of(program)
        keep = {
            name: self._fitting(signatures[name], predictor.demos, rows)
            for name, predictor in program.named_predictors()
        }
        if all(keep[name] == len(predictor.demos) for name, predictor in program.named_predictors()):
            return program
        copy = program.deepcopy()
        for name, predictor in copy.named_predictors():
            had = len(predictor.demos)
            predictor.demos = predictor.demos[: keep[name]]
            if keep[name] < had:
                note(
                    f"{name}: {had - keep[name]} of {had} demonstrations left out; with them the longest prompt has "
                    f"more than the {self.limit} tokens the model's context leaves for it."
                )
        return copy

    def _fitting(self, signature: type[dspy.Signature], demos: Sequence[Any], rows: Sequence[dspy.Example]) -> int:
        inputs = _longest([*rows, *demos], signature) or {}
        count = len(demos)
        while count and self.tokens(signature, demos[:count], inputs) > self.limit:
            count -= 1
        return count


def _longest(rows: Sequence[Any], signature: type[dspy.Signature]) -> Mapping[str, Any] | None:
    """The row with the most text in this signature's inputs, among those that have any of them."""
    having = [row for row in rows if any(field in row for field in signature.input_fields)]
    return max(having, key=lambda row: sum(len(str(row.get(f, ""))) for f in signature.fields), default=None)
