"""Sharing what a run may spend: the last evaluation is paid for before the search begins.

|-- baseline --|------------ search ------------|-- optimized --|
                                                ^ reserved: what the baseline took
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Any

import dspy

from dspy_toolkit.data.splits import Splits
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.limits import BudgetSpent, Limits
from dspy_toolkit.lm.prices import price_of
from dspy_toolkit.lm.usage import Call
from dspy_toolkit.optimize.spec import RunSpec
from dspy_toolkit.programs import prompt, state

__all__ = ["Budget", "calls_for_search"]

_BYTES_PER_TOKEN = 3  # of text in a Latin alphabet; rather too many tokens than too few


@dataclass(kw_only=True)
class _Reserve:
    """What an evaluation takes when nothing of it is in the cache."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0


class Budget:
    """A run's limits, stage by stage.

    The test rows are evaluated twice: each of the program's predictors is called once a row, the result's
    `rollouts_per_row` times as often. A run is refused by those numbers; what is reserved for the last evaluation is
    what the baseline really took.
    """

    def __init__(self, spec: RunSpec, limits: Limits):
        self.limits = limits
        self._spec = spec
        self._calls = len(spec.data.test) * len(spec.program.predictors())
        self._prompt_factor = 1.0
        self._reserve = _Reserve(calls=self._calls)
        self._measuring = False
        self._lock = threading.Lock()

    @property
    def limited(self) -> bool:
        return bool(self.limits.active())

    def check(self) -> None:
        """Raise OptimizationError for a budget of nothing, or one of money where the model has no price."""
        for name, unit in (("calls", "LM calls"), ("tokens", "tokens"), ("seconds", "seconds"), ("cost", "dollars")):
            limit = getattr(self.limits, name)
            if limit is not None and limit <= 0:
                raise OptimizationError(f"The budget is {limit:g} {unit}; give more than 0.")
        if self.limits.cost is not None:
            self._check_price(self._spec.lm_info)

    def check_covers_evaluations(self) -> None:
        """Raise OptimizationError for a budget that the two evaluations alone would exceed, as far as can be known.

        Answers count as nothing, and tokens only with the model's tokenizer.
        """
        rows = len(self._spec.data.test)
        least = self._calls + ceil(self._calls * self._spec.rollouts_per_row)
        if self.limits.calls is not None and self.limits.calls < least:
            raise OptimizationError(
                f"The budget of {self.limits.calls} LM calls does not cover the two evaluations: {self._calls} for the "
                f"{rows} test rows before and {least - self._calls} after, {least} in all, and the search comes on "
                "top. Give more, or draw fewer test rows."
            )
        count = self._spec.lm_info.count_tokens
        if count is None or (self.limits.tokens is None and self.limits.cost is None):
            return
        tokens = 2 * sum(count(messages) for row in self._spec.data.test for messages in self._prompts(row))
        price = self._spec.lm_info.price
        cost = 0.0 if price is None else price.of(tokens, 0)
        for limit, least_amount, unit in ((self.limits.tokens, tokens, "tokens"), (self.limits.cost, cost, "dollars")):
            if limit is not None and limit < least_amount:
                raise OptimizationError(
                    f"The budget of {limit:g} {unit} does not cover the two evaluations: the prompts of the {rows} "
                    f"test rows alone, before and after, take {least_amount:g}. Give more, or draw fewer test rows."
                )

    def check_price(self, lm: Any) -> None:
        """Raise OptimizationError if cost is limited and this model's is not known."""
        self._check_price(LMInfo.of(lm))

    def _check_price(self, lm: LMInfo) -> None:
        if self.limits.cost is None:
            return
        with suppress(ImportError):
            import litellm  # noqa: F401  # its table of prices is looked up where it was imported
        if lm.price is None:
            raise OptimizationError(
                f"The cost of {lm.model!r} cannot be limited, for it has no list price; limit tokens or calls instead."
            )

    def baseline(self) -> Limits:
        """The limits while the baseline is measured: calls for the last evaluation are reserved."""
        return self._less(_Reserve(calls=ceil(self._calls * self._spec.rollouts_per_row)))

    def record_call(self, call: Call) -> None:
        """Count a call of the baseline; from any thread. The last evaluation makes as many, perhaps not cached."""
        tokens, cost = call.input_tokens + call.output_tokens, call.cost or 0.0
        if call.cached:  # whose usage is empty
            read, written = self._tokens(call)
            price = price_of(call.model)
            tokens, cost = read + written, 0.0 if price is None else price.of(read, written)
        with self._lock:
            if not self._measuring:
                self._measuring, self._reserve = True, _Reserve()
            self._reserve.calls += max(1, len(call.outputs))
            self._reserve.tokens += tokens
            self._reserve.cost += cost

    def record_baseline(self, seconds: float) -> None:
        """Record how long the baseline took."""
        self._reserve.seconds = seconds

    def search(self) -> Limits:
        """The limits of the search: what the last evaluation takes is reserved."""
        reserve, rollouts = self._reserve, self._spec.rollouts_per_row
        factor = rollouts * self._prompt_factor
        return self._less(
            _Reserve(
                calls=ceil(reserve.calls * rollouts),
                tokens=int(reserve.tokens * factor),
                seconds=reserve.seconds * factor,
                cost=reserve.cost * factor,
            )
        )

    def explain(self, spent: BudgetSpent) -> str:
        """Which budget is spent, in words; the search has less than the whole of it."""
        whole = getattr(self.limits, spent.name)
        if spent.limit >= whole:
            return str(spent)
        return f"its share of the budget is spent, {spent.limit:g} of {whole:g} {spent.name}"

    def scale_reserve(self, candidate: dspy.Module) -> None:
        """Scale the reserve by candidate prompt length over original prompt length."""
        self._prompt_factor = max(1.0, self._prompt_bytes(candidate) / max(1, self._original_bytes))

    @cached_property
    def _original_bytes(self) -> int:
        return self._prompt_bytes(self._spec.program)

    def _prompt_bytes(self, program: dspy.Module) -> int:
        sent = self._prompts(self._spec.data.test[0], program)
        return sum(_length(message.get("content")) for messages in sent for message in messages)

    def _prompts(self, row: dspy.Example, program: dspy.Module | None = None) -> Iterable[Sequence[Mapping[str, Any]]]:
        """What each predictor sends for a row; what only another predictor makes appears as its name."""
        inputs = dict(row.inputs().items())
        plain = state.plain_of(program or self._spec.program, inputs)
        return prompt.messages(plain, inputs, self._spec.adapter).values()

    def _less(self, reserve: _Reserve) -> Limits:
        limits: Mapping[str, Any] = self.limits.active()
        return replace(self.limits, **{name: max(0, limit - getattr(reserve, name)) for name, limit in limits.items()})

    def _tokens(self, call: Call) -> tuple[int, int]:
        """Read and written tokens of a call that came from the cache, whose usage is empty."""
        count = self._spec.lm_info.count_tokens
        if count is None:
            read = sum(_length(message.get("content")) for message in call.messages) // _BYTES_PER_TOKEN
        else:
            read = count(call.messages)
        return read, sum(map(_length, call.outputs)) // _BYTES_PER_TOKEN


def calls_for_search(limits: Limits | None, program: dspy.Module, data: Splits) -> int | None:
    """What a limit on calls leaves for the search, or None without one."""
    if limits is None or limits.calls is None:
        return None
    return max(0, limits.calls - 2 * len(data.test) * max(1, len(program.predictors())))


def _length(text: Any) -> int:
    return len((text if isinstance(text, str) else str(text)).encode())
