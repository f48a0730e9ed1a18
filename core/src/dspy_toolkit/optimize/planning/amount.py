"""A number that is not known yet: what is expected, and between which bounds it will be."""

from dataclasses import asdict, dataclass
from typing import Union

__all__ = ["NOTHING", "Amount"]


@dataclass(frozen=True)
class Amount:
    """`low` and `high` are bounds that hold as far as the stated assumptions do, not an interval of probability."""

    low: float
    expected: float
    high: float

    @classmethod
    def of(cls, number: float) -> "Amount":
        """A number that is known."""
        return cls(number, number, number)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __sub__(self, other: "Amount") -> "Amount":
        """What is left when `other` is taken away, never less than nothing."""
        return Amount(
            max(0.0, self.low - other.high), max(0.0, self.expected - other.expected), max(0.0, self.high - other.low)
        )

    def __mul__(self, other: Union["Amount", float]) -> "Amount":
        by = other if isinstance(other, Amount) else Amount.of(other)
        return Amount(self.low * by.low, self.expected * by.expected, self.high * by.high)

    __rmul__ = __mul__

    def __bool__(self) -> bool:
        return self.high > 0

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def to_dict(self) -> dict[str, float]:
        """Plain data, rounded to what such a number can mean."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


NOTHING = Amount.of(0)
