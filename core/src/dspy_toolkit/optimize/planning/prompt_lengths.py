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

__all__ = ["CHARACTERS", "Lengths"]

CHARACTERS = 4.0
"""Characters a token has where the model does not tell its tokenizer and nothing was measured."""
_FIELD = 40
"""Tokens of an output field that no row and no measured answer shows."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of the program's calls: `read` and `written` by a call without added demonstrations, `made` and `labelled`
    of one demonstration in a prompt, averaged over the predictors; `calls` a rollout makes.
    """

    calls: Amount
    read: Amount
    written: Amount
    made: float
    labelled: float
    count: Callable[[list[dict[str, Any]]], float]
    adapter: Any

    @classmethod
    def of(
        cls, program: dspy.Module, rows: Sequence[dspy.Example], lm: Any, adapter: Any, measured: Calibration | None
    ) -> "Lengths":
        """By what was measured, and for the rest by rendering prompts with the rows as they are."""
        adapter = adapter or dspy.settings.adapter or dspy.ChatAdapter()
        calls = [] if measured is None else [call for each in measured.bare.rollouts for call in each.calls]
        count = _counter(lm, calls)
        rendered = _Rendered(program, list(rows)[:8], adapter, count)
        made = [] if measured is None else [demo for each in measured.bare.rollouts for demo in each.demos]
        labelled = rendered.labelled()
        return cls(
            calls=_calls(len(program.predictors()), measured),
            read=_measured_amount([call.input_tokens for call in calls if call.input_tokens]) or rendered.read(),
            written=_measured_amount([call.output_tokens for call in calls if call.output_tokens])
            or rendered.written(LMInfo.of(lm).max_tokens),
            made=fmean(rendered.demo(signature, demo) for signature, demo in made) if made else labelled,
            labelled=labelled,
            count=count,
            adapter=adapter,
        )

    def prompt(self, made: float = 0.0, labelled: float = 0.0, *, longer: Amount) -> Amount:
        """Tokens that one call reads with so many demonstrations, and an instruction that got `longer`."""
        demos = made * self.made + labelled * self.labelled
        return self.read + Amount(demos * 0.4, demos, demos * 2) + longer

    def asked(self, signature: type[dspy.Signature], inputs: Mapping[str, Any]) -> Amount:
        """Tokens of a prompt to a model that writes instructions; what is not known yet can make it several times as
        long.
        """
        filled = {name: inputs.get(name, "...") for name in signature.input_fields}
        tokens = self.count(self.adapter.format(signature=signature, demos=[], inputs=filled))
        return Amount(tokens * 0.5, tokens * 1.3, tokens * 6)


@dataclass(frozen=True)
class _Rendered:
    program: dspy.Module
    rows: Sequence[dspy.Example]
    adapter: Any
    count: Callable[[list[dict[str, Any]]], float]

    def tokens(self, signature: Any, demos: Sequence[Any], inputs: Mapping[str, Any]) -> float:
        filled = {name: inputs.get(name, f"{{{name}}}") for name in signature.input_fields}
        return self.count(self.adapter.format(signature=signature, demos=list(demos), inputs=filled))

    def read(self) -> Amount:
        predictors = self.program.predictors()
        found = [self.tokens(each.signature, each.demos, dict(row.items())) for each in predictors for row in self.rows]
        return Amount(min(found) * 0.8, fmean(found), max(found) * 1.5)

    def written(self, most: int | None) -> Amount:
        found = []
        for signature in signatures_of(self.program).values():
            for row in self.rows:
                known = {name: row[name] for name in signature.output_fields if name in row}
                text = self.adapter.format_assistant_message_content(signature, known) if known else ""
                missing = len(signature.output_fields) - len(known)
                found.append(self.count([{"role": "assistant", "content": text}]) + _FIELD * missing)
        return Amount(min(found) * 0.2, fmean(found), max(max(found), most or 4 * max(found)))

    def demo(self, signature: Any, demo: Mapping[str, Any]) -> float:
        return max(0.0, self.tokens(signature, [demo], demo) - self.tokens(signature, [], demo))

    def labelled(self) -> float:
        return fmean(
            self.demo(signature, dict(row.items()))
            for signature in signatures_of(self.program).values()
            for row in self.rows
        )


def _counter(lm: Any, calls: Sequence[Call]) -> Callable[[list[dict[str, Any]]], float]:
    """The model's own tokenizer, else characters by what was measured, else four to a token."""
    window = ContextWindow.of(lm)
    if window is not None:
        return window.count
    told = [call for call in calls if call.input_tokens]
    read = sum(call.input_tokens for call in told)
    each = sum(_characters(call.messages) for call in told) / read if read else CHARACTERS
    return lambda messages: _characters(messages) / each


def _characters(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(str(message.get("content") or "")) for message in messages)


def _calls(predictors: int, measured: Calibration | None) -> Amount:
    """Calls of one rollout. Without a measurement every predictor is taken to be called once; an answer that cannot be
    parsed is asked for again in another format.
    """
    found = [] if measured is None else [_number(each.calls) for each in measured.bare.rollouts if each.calls]
    return Amount(min(found), fmean(found), max(found)) if found else Amount(1, predictors, 2 * predictors)


def _number(calls: Sequence[Call]) -> int:
    return sum(max(1, len(call.outputs)) for call in calls)


def _measured_amount(found: Sequence[int]) -> Amount | None:
    return Amount(min(found) * 0.8, fmean(found), max(found) * 1.5) if found else None
