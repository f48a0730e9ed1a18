"""How many tokens a rollout and a prompt are going to have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import dspy

from dspy_toolkit.lm.context_window import ContextWindow
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.usage import Call
from dspy_toolkit.optimize.planning.amount import Amount
from dspy_toolkit.optimize.planning.calibration import Calibration
from dspy_toolkit.programs.inspect import signatures_of

__all__ = ["Lengths"]

_CHARACTERS = 4.0
"""Characters a token has where the model does not tell its tokenizer and nothing was measured."""
_FIELD = 40
"""Tokens of an output field that no row and no measured answer shows."""
_WRITER_PROMPT = 2000
"""Characters of a prompt that asks for an instruction, before any row."""

_Count = Callable[[Sequence[Mapping[str, Any]]], float]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of the program's calls: `read` and `written` by a call without added demonstrations, `demo` of one
    demonstration in a prompt, averaged over the predictors; `calls` a rollout makes; `writer` of a prompt that asks for
    an instruction, before any row.
    """

    calls: Amount
    read: Amount
    written: Amount
    demo: float
    writer: float

    @classmethod
    def of(
        cls, program: dspy.Module, rows: Sequence[dspy.Example], lm: Any, adapter: Any, measured: Calibration | None
    ) -> "Lengths":
        """By what was measured, and for the rest by rendering prompts with the rows as they are."""
        rollouts = [] if measured is None else measured.plain.rollouts
        calls = [call for rollout in rollouts for call in rollout.calls]
        count = _counter(lm, calls)
        rendered = _Rendered(program, list(rows)[:8], adapter or dspy.settings.adapter or dspy.ChatAdapter(), count)
        return cls(
            calls=_calls(len(program.predictors()), [rollout.calls for rollout in rollouts if rollout.calls]),
            read=_amount([call.input_tokens for call in calls if call.input_tokens] or rendered.read()),
            written=_amount([call.output_tokens for call in calls if call.output_tokens])
            if any(call.output_tokens for call in calls)
            else rendered.written(LMInfo.of(lm).max_tokens),
            demo=rendered.demo([demo for rollout in rollouts for demo in rollout.demos]),
            writer=count([{"role": "user", "content": "word " * (_WRITER_PROMPT // 5)}]),
        )

    def prompt(self, demos: float = 0.0, *, longer: Amount) -> Amount:
        """Tokens that one call reads with so many demonstrations, and an instruction that got `longer`."""
        added = demos * self.demo
        return self.read + Amount(added * 0.4, added, added * 2) + longer

    def writer_prompt(self, rows: int) -> Amount:
        """Tokens of a prompt to the LM that writes instructions, with so many rows."""
        tokens = self.writer + rows * self.demo
        return Amount(tokens * 0.2, tokens, tokens * 6)


@dataclass(frozen=True)
class _Rendered:
    program: dspy.Module
    rows: Sequence[dspy.Example]
    adapter: Any
    count: _Count

    def read(self) -> list[float]:
        return [
            self._tokens(predictor.signature, predictor.demos, dict(row.items()))
            for predictor in self.program.predictors()
            for row in self.rows
        ]

    def written(self, most: int | None) -> Amount:
        tokens = []
        for signature in signatures_of(self.program).values():
            for row in self.rows:
                labels = {name: row[name] for name in signature.output_fields if name in row}
                text = self.adapter.format_assistant_message_content(signature, labels) if labels else ""
                unlabelled = len(signature.output_fields) - len(labels)
                tokens.append(self.count([{"role": "assistant", "content": text}]) + _FIELD * unlabelled)
        return Amount(min(tokens) * 0.2, fmean(tokens), max(max(tokens), most or 4 * max(tokens)))

    def demo(self, measured: Sequence[tuple[Any, Mapping[str, Any]]]) -> float:
        """Tokens of a demonstration, by what predictors were asked and answered, else by the rows as they are."""
        signatures = signatures_of(self.program).values()
        demos = measured or [(signature, dict(row.items())) for signature in signatures for row in self.rows]
        return fmean(
            max(0.0, self._tokens(signature, [demo], demo) - self._tokens(signature, [], demo))
            for signature, demo in demos
        )

    def _tokens(self, signature: Any, demos: Sequence[Any], inputs: Mapping[str, Any]) -> float:
        filled = {name: inputs.get(name, f"{{{name}}}") for name in signature.input_fields}
        return self.count(self.adapter.format(signature=signature, demos=list(demos), inputs=filled))


def _counter(lm: Any, calls: Sequence[Call]) -> _Count:
    """The model's own tokenizer, else characters by what was measured, else four to a token."""
    window = ContextWindow.of(lm)
    if window is not None:
        return window.count
    counted = [call for call in calls if call.input_tokens]
    tokens = sum(call.input_tokens for call in counted)
    per_token = sum(_characters(call.messages) for call in counted) / tokens if tokens else _CHARACTERS
    return lambda messages: _characters(messages) / per_token


def _characters(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(str(message.get("content") or "")) for message in messages)


def _calls(predictors: int, measured: Sequence[Sequence[Call]]) -> Amount:
    """Calls of one rollout. Without a measurement every predictor is taken to be called once; an answer that cannot be
    parsed is asked for again in another format.
    """
    numbers = [sum(max(1, len(call.outputs)) for call in calls) for calls in measured]
    return Amount(min(numbers), fmean(numbers), max(numbers)) if numbers else Amount(1, predictors, 2 * predictors)


def _amount(tokens: Sequence[float]) -> Amount:
    return Amount(min(tokens) * 0.8, fmean(tokens), max(tokens) * 1.5)
