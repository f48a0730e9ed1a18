"""A plan as a table: what a run is going to take before it begins."""

from typing import TYPE_CHECKING, Any

from dspy_toolkit.cli.output import styled

if TYPE_CHECKING:
    from rich.table import Table

    from dspy_toolkit.optimize.planning.amount import Amount
    from dspy_toolkit.optimize.planning.plan import Plan, PlanRow

__all__ = ["plan_lines"]

_STAGES = {"baseline": "baseline", "search": "search", "optimized": "final evaluation"}


_WIDE = 130
"""Columns of a terminal from which each line of the table says why."""


def plan_lines(plan: "Plan", width: int) -> "list[Any]":
    """The plan for people, `width` columns wide: why this optimizer, the table, and what limits it or is not known."""
    rows = ", ".join(f"{count} {name}" for name, count in plan.rows.items())
    threads = f"{plan.num_threads} threads" if plan.num_threads > 1 else "1 thread"
    lines: list[Any] = [
        styled("[bold]{}[/] for {} on {}: {} rows, {}", plan.optimizer, plan.task, plan.model, rows, threads)
    ]
    if plan.reason:
        lines.append(f"auto chose it: {plan.reason}")
    lines += [_table(plan, why=width >= _WIDE), *(f"- {note}" for note in _notes(plan))]
    return lines


def _table(plan: "Plan", *, why: bool) -> "Table":
    from rich.table import Table

    priced = any(line.cost is not None for line in plan.lines)
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for name in ("LM calls", "tokens read", "tokens written", "minutes", *(["US $"] if priced else [])):
        table.add_column(name, justify="right")
    if why:
        table.add_column("why")
    for line in plan.lines:
        stage = _STAGES[line.stage] if line.stage != "search" else f"search: {line.what}"
        model = "" if line.model == plan.model else f", {line.model}"
        table.add_row(f"{stage}{model}", *_cells(line, priced=priced), *([line.why] if why else []))
    if plan.unknown:
        table.add_row("search", *["unknown"] * (4 + priced), *([plan.unknown] if why else []))
    table.add_section()
    name = "total without the search" if plan.unknown else "total"
    table.add_row(styled("[bold]{}[/]", name), *_cells(plan.total(), priced=priced))
    return table


def _cells(line: "PlanRow", *, priced: bool) -> list[str]:
    cells = [_number(line.calls), _number(line.read), _number(line.written), _minutes(line.seconds)]
    return [*cells, *([_money(line.cost)] if priced else [])]


def _notes(plan: "Plan") -> list[str]:
    notes = list(dict.fromkeys(plan.notes))
    if plan.unknown:
        notes.append(f"What the search takes is not known: {plan.unknown}.")
    if plan.measured is None:
        notes.append("Nothing was measured: tokens come from the rows' prompts, and how many rows pass is not known.")
    else:
        notes.append(
            f"Measured with {plan.measured.lm_calls} calls in {plan.measured_seconds:.0f} s on training rows; those "
            "the cache keeps are not made again."
        )
    notes.append("Finished calls come from the cache when a run is repeated; then it takes less.")
    return notes


def _number(amount: "Amount") -> str:
    if amount.low == amount.high:
        return _short(amount.expected)
    return f"{_short(amount.expected)} ({_short(amount.low)}-{_short(amount.high)})"


def _short(number: float) -> str:
    if number < 10_000:
        return f"{number:.0f}"
    return f"{number / 1e3:.0f}k" if number < 1e6 else f"{number / 1e6:.1f}M"


def _minutes(seconds: "Amount | None") -> str:
    if seconds is None:
        return "?"
    low, expected, high = (value / 60 for value in (seconds.low, seconds.expected, seconds.high))
    return f"{expected:.1f} ({low:.1f}-{high:.1f})"


def _money(cost: "Amount | None") -> str:
    return "?" if cost is None else f"{cost.expected:.2f} ({cost.low:.2f}-{cost.high:.2f})"
