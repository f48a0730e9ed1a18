"""From rollouts and calls to calls, tokens, seconds and money, by model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.prices import price_of
from dspy_toolkit.optimize.planning.amount import NOTHING, Amount
from dspy_toolkit.optimize.planning.calibration import Calibration, Rollouts
from dspy_toolkit.optimize.planning.forecast import Work
from dspy_toolkit.optimize.planning.prompt_lengths import Lengths

__all__ = ["Spending"]

_WRITING = 8.0
"""A written token takes as long as so many read ones, where only their sum was measured."""
_LONGER = Amount(0, 20, 600)
"""Tokens by which instructions written by a model are longer than the ones there were."""
_INSTRUCTION = (10, 120, 1024)
"""Tokens of an answer that holds an instruction; `max_tokens` bounds the last."""
_TIME = Amount(0.5, 1, 2)
"""How far a machine's speed in a few seconds is from that in the minutes after."""


@dataclass(kw_only=True)
class Spending:
    """What work takes on this LM. `notes` say what could not be estimated."""

    lm: Any
    lengths: Lengths
    measured: Calibration | None
    num_threads: int
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.info = LMInfo.of(self.lm)
        self.model = self.info.model
        self.cached = bool(self.info.cache)
        if self.info.uses_litellm:
            import litellm  # noqa: F401  # such a model is called through it, and it has the price list

    def of(self, work: Work, *, instructed: bool = False, programs: int = 1) -> Iterator[dict[str, Any]]:
        """The lines of one kind of work: the program's calls, the metric's, and single calls.

        With `instructed` the prompts hold instructions that a model wrote; `programs` answer each row.
        """
        if work.rollouts:
            called = work.rollouts - work.repeats if self.cached else work.rollouts
            calls = called * self.lengths.calls * programs
            prompt = self.lengths.prompt(work.demos, longer=_LONGER if instructed else NOTHING)
            seconds = self._seconds(work, called, prompt.expected, programs)
            yield self._line(self.model, calls, calls * prompt, calls * self.lengths.written, seconds)
            yield from self._metric_calls(called)
        if work.calls:
            yield self._writing(work)

    def _seconds(self, work: Work, called: Amount, read: float, programs: int) -> Amount | None:
        """By seconds of a measured rollout, longer by what longer prompts take."""
        if self.measured is None or self.measured.plain.in_turn is None:
            return None
        plain, with_demos = self.measured.plain, self.measured.with_demos
        alone = self.measured.plain.in_turn
        rollout = alone if work.in_turn or plain.at_once is None else plain.at_once
        per_token = self._seconds_per_token(alone)
        longer = _read(with_demos) - _read(plain)
        if with_demos.in_turn is not None and longer > 0:
            per_token = min(per_token, max(0.0, (with_demos.in_turn - alone) / longer))
        more = max(0.0, read - self.lengths.read.expected) * self.lengths.calls.expected
        rollout += per_token * more * rollout / alone
        metric = fmean(rollout.metric_seconds for rollout in self.measured.rollouts)
        seconds = (called * (rollout * programs) + (work.rollouts - called) * metric) * _TIME
        if not work.in_turn and plain.at_once is None:  # threads may help, by how much is not known
            seconds = seconds * Amount(1 / self.num_threads, 1, 1)
        return seconds

    def _seconds_per_token(self, rollout: float) -> float:
        calls = self.lengths.calls.expected
        return rollout / max(1.0, calls * (self.lengths.read.expected + _WRITING * self.lengths.written.expected))

    def _metric_calls(self, rollouts: Amount) -> Iterator[dict[str, Any]]:
        """What the metric asks of LMs, by model."""
        measured = [] if self.measured is None else self.measured.rollouts
        scored = max(1, sum(rollout.error is None for rollout in measured))
        calls = [call for rollout in measured for call in rollout.metric_calls]
        for model in dict.fromkeys(call.model for call in calls):
            of_model = [call for call in calls if call.model == model]
            uncached = [call for call in of_model if not call.cached]
            number = rollouts * (len(of_model) / scored)
            read = sum(call.input_tokens for call in uncached) / max(1, len(uncached))
            written = sum(call.output_tokens for call in uncached) / max(1, len(uncached))
            yield self._line(model, number, number * read, number * written, None)

    def _writing(self, work: Work) -> dict[str, Any]:
        low, expected, high = _INSTRUCTION
        high = self.info.max_tokens or high
        read = work.calls * self.lengths.writer_prompt(work.rows)
        written = work.calls * Amount(low, min(expected, high), high)
        seconds = None
        if work.model is not None:
            note = f"How long {work.model} takes was not measured; its calls have no minutes here."
            self.notes += [] if note in self.notes else [note]
        elif self.measured is not None and self.measured.plain.in_turn is not None:
            seconds = (read + written * _WRITING) * self._seconds_per_token(self.measured.plain.in_turn)
        return self._line(work.model or self.model, work.calls, read, written, seconds)

    def _line(self, model: str, calls: Amount, read: Amount, written: Amount, seconds: Amount | None) -> dict[str, Any]:
        price = price_of(model)
        return {
            "model": model,
            "calls": calls,
            "read": read,
            "written": written,
            "seconds": seconds,
            "cost": None if price is None else read * price.input + written * price.output,
        }


def _read(rollouts: Rollouts) -> float:
    """Tokens read by a rollout that no cache answered."""
    tokens = [sum(call.input_tokens for call in rollout.calls) for rollout in rollouts.rollouts if rollout.uncached]
    return fmean(tokens) if tokens else 0.0
