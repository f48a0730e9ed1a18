"""Tables and short texts for people."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dspy_toolkit.values import plain, shortened

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["fields_text", "number", "one_line", "table"]


def table(*columns: str, numbers: Iterable[str] = (), whole: Iterable[str] = ()) -> "Table":
    """A table without lines. Where a terminal is narrow, cells are folded, but not in the columns named in `numbers`,
    which are aligned to the right, nor in those named in `whole`, which hold names to copy.
    """
    from rich.table import Table

    right, unfolded = set(numbers), {*numbers, *whole}
    empty = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        justify = "right" if column in right else "left"
        empty.add_column(column, justify=justify, overflow="fold", no_wrap=column in unfolded)
    return empty


def number(value: float | None) -> str:
    """A score with one decimal; nothing where there is none."""
    return "" if value is None else f"{value:.1f}"


def one_line(value: Any, width: int = 60) -> str:
    """A value on one line, without control characters, cut to `width`."""
    text = value if isinstance(value, str) else plain(value, fallback=repr)
    text = text if isinstance(text, str) else repr(text)
    return shortened("".join(letter if letter.isprintable() else " " for letter in text), width)


def fields_text(values: Mapping[str, Any], width: int = 60) -> str:
    """`name=value` pairs on one line; a single field's value alone."""
    if len(values) == 1:
        return one_line(next(iter(values.values())), width)
    return one_line(", ".join(f"{name}={one_line(value, width)}" for name, value in values.items()), width)
