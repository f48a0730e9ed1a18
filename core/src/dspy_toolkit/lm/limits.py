"""What a run may spend at most."""

from dataclasses import asdict, dataclass

__all__ = ["BudgetSpent", "Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Hard limits of a run; None is no limit.

    `calls` are LM calls not answered from the cache, and are never exceeded. `tokens` (read and written) and `cost` (US
    dollars) are known only after a call: no call begins once they are reached, so the calls in flight then may exceed
    them. `seconds` count from the start of the run.
    """

    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None

    def active(self) -> dict[str, float]:
        """Those that limit something."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self, *, calls: int, tokens: int, cost: float) -> None:
        """Raise BudgetSpent if there may not be `calls` calls, or tokens or money are spent."""
        if self.calls is not None and calls > self.calls:
            raise BudgetSpent("calls", self.calls)
        if self.tokens is not None and tokens >= self.tokens:
            raise BudgetSpent("tokens", self.tokens)
        if self.cost is not None and cost >= self.cost:
            raise BudgetSpent("cost", self.cost)


# DSPy's optimizers catch Exception wherever they call a program or a metric, so what must end them is not one.
class BudgetSpent(BaseException):
    """The next call would go over the limit called `name`, which is `limit`."""

    def __init__(self, name: str, limit: float):
        super().__init__(f"the budget of {limit:g} {name} is spent")
        self.name = name
        self.limit = limit
