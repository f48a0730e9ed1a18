"""From rollouts and calls to calls, tokens, seconds and money, by model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.prices import Price, price_of
from dspy_toolkit.lm.usage import Call
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
    """What work takes on this LM. `notes` are what people should know of how it was found."""

    lm: Any
    lengths: Lengths
    measured: Calibration | None
    num_threads: int
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.info = LMInfo.of(self.lm)
        self.model = self.info.model
        self.told: set[str] = set()
        self.cached = bool(self.info.cache)
        if self.info.uses_litellm:
            import litellm  # noqa: F401  # such a model is called through it, and it has the price list

    def of(self, work: Work) -> Iterator[dict[str, Any]]:
        """The lines of one kind of work: the program's calls, the metric's, and single calls."""
        if work.rollouts:
            yield from self.rollouts(
                work.rollouts,
                made=work.made,
                labelled=work.labelled,
                repeats=work.repeats,
                scorings=work.scorings,
                in_turn=work.in_turn,
                instructed=work.instructed,
            )
        if work.calls:
            yield self._asked(work)

    def rollouts(
        self,
        rollouts: Amount,
        *,
        made: float = 0.0,
        labelled: float = 0.0,
        programs: int = 1,
        repeats: Amount = NOTHING,
        scorings: Amount = NOTHING,
        in_turn: bool = False,
        instructed: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """The program on rows, and what the metric asks for."""
        asked = rollouts - repeats if self.cached else rollouts
        calls = asked * self.lengths.calls * programs
        prompt = self.lengths.prompt(made, labelled, longer=_LONGER if instructed else NOTHING)
        seconds = None
        each = self._seconds(prompt.expected, in_turn=in_turn)
        if each is not None and self.measured is not None:
            again = (rollouts - asked) + scorings
            seconds = (asked * (each * programs) + again * self.measured.metric_seconds) * _TIME
            if not in_turn and self.measured.bare.at_once is None:  # threads may help, by how much is not known
                seconds = seconds * Amount(1 / self.num_threads, 1, 1)
        yield self._line(self.model, calls, calls * prompt, calls * self.lengths.written, seconds)
        yield from self._judging(asked + scorings)

    def _seconds(self, read: float, *, in_turn: bool) -> float | None:
        """Seconds of a rollout whose prompts hold so many tokens; by two measured lengths if there are two."""
        if self.measured is None:
            return None
        bare, shown = self.measured.bare, self.measured.shown
        base = bare.in_turn if in_turn else bare.at_once if bare.at_once is not None else bare.in_turn
        if base is None or bare.in_turn is None:
            return None
        slope = self._by_token(bare.in_turn)
        longer = _read(shown) - _read(bare)
        if shown.in_turn is not None and longer > 0:
            slope = min(slope, max(0.0, (shown.in_turn - bare.in_turn) / longer))
        more = max(0.0, read - self.lengths.read.expected) * self.lengths.calls.expected
        return base + slope * more * base / bare.in_turn

    def _by_token(self, seconds: float) -> float:
        calls = self.lengths.calls.expected
        return seconds / max(1.0, calls * (self.lengths.read.expected + _WRITING * self.lengths.written.expected))

    def _judging(self, scorings: Amount) -> Iterator[dict[str, Any]]:
        """What the metric asks of LMs, by model."""
        if self.measured is None:
            return
        rollouts = [*self.measured.bare.rollouts, *self.measured.shown.rollouts]
        scored = sum(each.error is None for each in rollouts)
        calls = [call for each in rollouts for call in each.judging]
        for model in dict.fromkeys(call.model for call in calls):
            of_model = [call for call in calls if call.model == model]
            number = scorings * (len(of_model) / max(1, scored))
            read, written = _mean(of_model, "input_tokens"), _mean(of_model, "output_tokens")
            yield self._line(model, number, number * read, number * written, None)

    def _asked(self, work: Work) -> dict[str, Any]:
        low, expected, high = _INSTRUCTION
        high = work.most_written or self.info.max_tokens or high
        written = work.calls * Amount(low, min(expected, high), high)
        read = work.calls * (self.lengths.asked(*work.prompt) if work.prompt else Amount(50, 400, 4000))
        seconds = None
        if work.model is None and self.measured is not None and self.measured.bare.in_turn is not None:
            seconds = (read + written * _WRITING) * self._by_token(self.measured.bare.in_turn)
        elif work.model is not None and work.model not in self.told:
            self.told.add(work.model)
            self.notes.append(f"How long {work.model} takes was not measured; its calls have no minutes here.")
        return self._line(work.model or self.model, work.calls, read, written, seconds)

    def _line(self, model: str, calls: Amount, read: Amount, written: Amount, seconds: Amount | None) -> dict[str, Any]:
        price = price_of(model)
        return {
            "model": model,
            "calls": calls,
            "read": read,
            "written": written,
            "seconds": seconds,
            "cost": None if price is None else _cost(price, read, written),
        }


def _cost(price: Price, read: Amount, written: Amount) -> Amount:
    return read * price.input + written * price.output


def _read(rollouts: Rollouts) -> float:
    """Tokens read by a rollout that no cache answered."""
    fresh = [sum(call.input_tokens for call in each.calls) for each in rollouts.rollouts if each.fresh]
    return fmean(fresh) if fresh else 0.0


def _mean(calls: Sequence[Call], name: str) -> float:
    told = [getattr(call, name) for call in calls if not call.cached]
    return fmean(told) if told else 0.0
