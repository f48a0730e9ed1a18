"""Sharing what a run may spend: the last evaluation is paid for before the search begins.

|-- baseline --|------------ search ------------|-- optimized --|
                                                ^ what the baseline took, kept back
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import dspy

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.lm.limits import BudgetSpent, Limits
from dspy_toolkit.lm.prices import price_of

if TYPE_CHECKING:
    from dspy_toolkit.data.splits import Splits
    from dspy_toolkit.lm.usage import Call

__all__ = ["Budget", "calls_for_search", "calls_per_row", "prompt_bytes", "prompts"]

_BYTES_PER_TOKEN = 3  # of text in a Latin alphabet; rather too many tokens than too few


@dataclass(kw_only=True)
class _Needs:
    """What an evaluation takes when nothing of it is in the cache."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0


class Budget:
    """A run's limits, stage by stage.

    `rows` are evaluated twice; the program asks its LM `predictors` times for each, and what the search finds `times`
    as often. Those are only what a run is refused by; what the baseline really took decides what is kept back.
    """

    def __init__(self, limits: Limits, *, lm: Any, rows: int, predictors: int, times: float = 1.0):
        self.limits = limits
        self._lm = LMInfo.of(lm)
        self._rows = rows
        self._calls = rows * predictors
        self._times = times
        self._larger = 1.0
        self._needs = _Needs(calls=self._calls)
        self._measuring = False
        self._lock = threading.Lock()

    @property
    def limited(self) -> bool:
        return any(getattr(self.limits, field.name) is not None for field in fields(self.limits))

    def check(self) -> None:
        """Raise OptimizationError for a budget that is none, or one of money where the model has no price."""
        for name, unit in (("calls", "LM calls"), ("tokens", "tokens"), ("seconds", "seconds"), ("cost", "dollars")):
            limit = getattr(self.limits, name)
            if limit is not None and limit <= 0:
                raise OptimizationError(f"The budget is {limit:g} {unit}; give more than 0.")
        if self.limits.cost is not None:
            self._check_price(self._lm)

    def check_covers(self, prompts: Callable[[], Iterable[Sequence[Any]]]) -> None:
        """Raise OptimizationError for a budget that two evaluations alone would exceed, as far as that can be known.

        `prompts` gives those of the test rows; answers count as nothing, and tokens only with the model's tokenizer.
        """
        least = self._calls + ceil(self._calls * self._times)
        if self.limits.calls is not None and self.limits.calls < least:
            raise OptimizationError(
                f"The budget of {self.limits.calls} LM calls does not cover the two evaluations: {self._calls} for the "
                f"{self._rows} test rows before and {least - self._calls} after, {least} in all, and the search comes "
                "on top. Give more, or draw fewer test rows."
            )
        count = self._lm.count_tokens
        if count is None or (self.limits.tokens is None and self.limits.cost is None):
            return
        tokens = 2 * sum(map(count, prompts()))
        price = self._lm.price
        cost = 0.0 if price is None else price.of(tokens, 0)
        for limit, needed, unit in ((self.limits.tokens, tokens, "tokens"), (self.limits.cost, cost, "dollars")):
            if limit is not None and limit < needed:
                raise OptimizationError(
                    f"The budget of {limit:g} {unit} does not cover the two evaluations: the prompts of the "
                    f"{self._rows} test rows alone, before and after, take {needed:g}. Give more, or draw fewer test "
                    "rows."
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
        """While the baseline is measured the calls for measuring again are kept back."""
        return self._less(_Needs(calls=ceil(self._calls * self._times)))

    def measure(self, call: "Call") -> None:
        """A call of the baseline, told by its thread. Measuring again makes the same, perhaps not from the cache."""
        tokens = call.input_tokens + call.output_tokens
        if call.cached:
            read, written = self._tokens(call)
            price = price_of(call.model)
            tokens, cost = read + written, 0.0 if price is None else price.of(read, written)
        else:
            cost = call.cost or 0.0
        with self._lock:
            if not self._measuring:
                self._measuring, self._needs = True, _Needs()
            self._needs.calls += max(1, len(call.outputs))
            self._needs.tokens += tokens
            self._needs.cost += cost

    def measured(self, seconds: float) -> None:
        """The baseline is done, in so many seconds."""
        self._needs.seconds = seconds

    def search(self) -> Limits:
        """What the search may reach: the rest is for measuring what it finds."""
        needs, factor = self._needs, self._times * self._larger
        return self._less(
            _Needs(
                calls=ceil(needs.calls * self._times),
                tokens=int(needs.tokens * factor),
                seconds=needs.seconds * factor,
                cost=needs.cost * factor,
            )
        )

    def share(self, spent: BudgetSpent) -> str:
        """Which budget is spent, in words; the search has less than the whole of it."""
        whole = getattr(self.limits, spent.name)
        if spent.limit >= whole:
            return str(spent)
        return f"its share of the budget is spent, {spent.limit:g} of {whole:g} {spent.name}"

    def found(self, larger: float) -> None:
        """A program was found whose prompts are so many times as long as the first program's."""
        self._larger = max(1.0, larger)

    def _less(self, needs: _Needs) -> Limits:
        kept: Mapping[str, Any] = {
            field.name: max(0, limit - getattr(needs, field.name))
            for field in fields(self.limits)
            if (limit := getattr(self.limits, field.name)) is not None
        }
        return replace(self.limits, **kept)

    def _tokens(self, call: "Call") -> tuple[int, int]:
        """Read and written tokens of a call that came from the cache, which does not tell."""
        count = self._lm.count_tokens
        if count is None:
            read = sum(_length(message.get("content")) for message in call.messages) // _BYTES_PER_TOKEN
        else:
            read = count(call.messages)
        return read, sum(map(_length, call.outputs)) // _BYTES_PER_TOKEN


def calls_for_search(limits: Limits | None, program: dspy.Module, data: "Splits") -> int | None:
    """What a limit on calls leaves for the search, or None without one."""
    if limits is None or limits.calls is None:
        return None
    return max(0, limits.calls - 2 * len(data.test) * max(1, len(program.predictors())))


def calls_per_row(times: Callable[..., float]) -> Callable[[Any], Any]:
    """Say of an optimizer that its program asks the LM `times(**parameters)` times as often as the one it was given."""

    def mark(optimizer: Any) -> Any:
        optimizer.calls_per_row = times
        return optimizer

    return mark


def prompts(
    program: dspy.Module, row: dspy.Example, adapter: dspy.Adapter | None
) -> Iterable[Sequence[Mapping[str, Any]]]:
    """What each predictor sends for a row; what only another predictor makes appears as its name."""
    from dspy_toolkit.programs import composite, prompt  # which import results, and they are made here

    inputs = dict(row.inputs().items())
    return prompt.messages(composite.plain_of(program, inputs), inputs, adapter).values()


def prompt_bytes(program: dspy.Module, row: dspy.Example, adapter: dspy.Adapter | None) -> int:
    """How long the program's prompts for a row are, all together."""
    return sum(_length(message.get("content")) for messages in prompts(program, row, adapter) for message in messages)


def _length(text: Any) -> int:
    return len((text if isinstance(text, str) else str(text)).encode())
